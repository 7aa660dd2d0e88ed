# SPDX-License-Identifier: Apache-2.0
# `make` lists what it can do. Every target works from a fresh clone and sets up what it needs; those marked gpu need an
# NVIDIA GPU.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo-output
DEMO_CHECKPOINT := models/freqfusion/data/emoji_scenes_segnext_t.safetensors
MODEL ?=
OUTPUT ?=
INTERFACE ?= image
PHOTO ?= examples
TESTS ?=

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## make .venv with everything but the native libraries

# One stamp for both the packages and their pinned versions. torch is pinned to a build without CUDA libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[cpu,export,evaluate,serve,bench,dev]'
	touch $@

ray: setup ## add Ray to .venv, without which its tests are skipped (570 MB)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'

plugins: setup ## build the native libraries (fetches headers; says what it could not build and why)
	$(BIN)/python scripts/build_plugins.py

demo: plugins $(DEMO)/emoji_scenes.onnx ## segment pictures with the model that ships, start to finish, on this machine
	$(BIN)/freqfusion run $(DEMO)/emoji_scenes.onnx examples/emoji_scenes examples --output $(DEMO)
	$(BIN)/freqfusion parity $(DEMO)/emoji_scenes.onnx examples/emoji_scenes/scene.png \
	  --checkpoint $(DEMO_CHECKPOINT) --output $(DEMO)
	@echo
	@echo "Look at $(DEMO)/scene.overlay.png: emoji the model has never seen. It knows nothing but emoji; what it says"
	@echo "about the photographs beside it only shows that any picture goes through."

$(DEMO)/emoji_scenes.onnx: $(DEMO_CHECKPOINT) | setup
	$(BIN)/freqfusion export $< --output $@

test: setup ## what every change runs: all but the long tests [TESTS='-k carafe']
	$(BIN)/python scripts/run_tests.py $(TESTS)

test-avx2: setup ## the tests of numbers with libraries held to AVX2; a part of test-all [TESTS='-k carafe']
	$(BIN)/python scripts/run_tests.py --avx2 $(TESTS)

test-all: setup ## everything that runs on a CPU, as CI runs it
	$(BIN)/python scripts/run_tests.py --all $(TESTS)

test-bounds: setup ## the server's tests with the oldest and the newest web packages that it allows
	$(BIN)/python scripts/check_bounds.py

fuzz: setup ## 10,000 hostile inputs for each place where strangers' files and requests enter [CASES=n SEED=n ENTRIES=...]
	$(BIN)/python tests/fuzzing $(ENTRIES) --cases $(or $(CASES),10000) --seed $(or $(SEED),1) \
	  --results benchmarks/results/fuzz.jsonl

check: setup ## lint, types, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

export: setup ## CHECKPOINT=path.pth [MODEL=segnext_t OUTPUT=path.onnx INTERFACE=image]: checkpoint to ONNX
	$(BIN)/freqfusion export $(call need,CHECKPOINT) $(if $(MODEL),--model $(MODEL)) $(if $(OUTPUT),--output $(OUTPUT)) \
	  --interface $(INTERFACE)

engine: setup ## ONNX=path.onnx [FLAVOUR=auto OUTPUT=path.plan VERIFY=photos-or-reference.npz]: TensorRT or RTX engine
	$(BIN)/freqfusion build $(call need,ONNX) $(if $(FLAVOUR),--flavour $(FLAVOUR)) $(if $(OUTPUT),--output $(OUTPUT)) \
	  $(if $(VERIFY),--verify $(VERIFY))

doctor: setup ## what this machine can do, and what to do about the rest
	$(BIN)/freqfusion doctor

run: setup ## ONNX=path.onnx [PHOTO=file-or-folder OUTPUT=folder]: segment pictures
	$(BIN)/freqfusion run $(call need,ONNX) $(PHOTO) --output $(or $(OUTPUT),$(DEMO))

parity: setup ## ONNX=path.onnx CHECKPOINT=path.pth [PHOTO=file-or-folder REFERENCE=path.npz]: compare with PyTorch
	$(BIN)/freqfusion parity $(call need,ONNX) $(PHOTO) --checkpoint $(call need,CHECKPOINT) --layers \
	  --output $(or $(OUTPUT),$(DEMO)) $(if $(REFERENCE),--noise-floor --save-reference $(REFERENCE))

bench: plugins ## [MODEL=segnext_t or mask2former_swin_b]: time it beside the naive form, OpenVINO and its bilinear twin
	$(BIN)/freqfusion bench $(if $(MODEL),--model $(MODEL)) --results benchmarks/results/cpu.jsonl

need = $(or $($(1)),$(error this target needs $(1)=...; bare `make` lists every target with its settings))

serve: plugins ## ONNX=path.onnx [PORT=8000]: serve over HTTP and gRPC, with a page to look at
	$(BIN)/freqfusion serve $(call need,ONNX) --port $(or $(PORT),8000)

soak: setup ## [SECONDS=600]: the server among honest, slow and hostile clients, on a full disk, reloaded and killed
	$(BIN)/python benchmarks/soak.py --seconds $(or $(SECONDS),600) $(if $(OUTPUT),--output $(OUTPUT))

kills: setup ## [KILLS=30]: run, batch, export and build, killed at random moments: what is half, what is left
	$(BIN)/python benchmarks/kills.py --kills $(or $(KILLS),30) $(if $(OUTPUT),--output $(OUTPUT))

consumers: setup ## [OUTPUT=file.jsonl]: what a dozen other runtimes and tools make of exported files, each in its own environment
	$(BIN)/python benchmarks/consumers $(if $(OUTPUT),--output $(OUTPUT))

gpu-check: ## gpu: check every CUDA kernel on this machine's GPU, then time them [TENSORRT_INCLUDE=folder]
	$(PYTHON) scripts/gpu_check

.PHONY: help setup ray plugins demo test test-avx2 test-all test-bounds fuzz check export engine doctor run parity bench serve \
	soak kills consumers gpu-check
