# SPDX-License-Identifier: Apache-2.0
"""`freqfusion doctor` on this machine and on poorer ones, and `freqfusion inspect` on each kind of file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from engine_builds import build, needs_rtx
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.engines.errors import BUILD_PLUGIN
from freqfusion_runtime.engines.plugin_library import LIBRARY_NAME
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import KeptInFp32, write_sidecar
from freqfusion_runtime.sessions import kernel_library
from other_libraries import write_onnxruntime_library, write_tensorrt_library, write_torch_library
from small_models import tensor_manifest, write_tensor_model

PARTS = {"Python", "freqfusion-deploy", "PyTorch", "ONNX Runtime", "TensorRT", "TensorRT-RTX", "TensorRT plugin"}

# Hides everything but the base dependencies, as on a machine that has nothing else.
POOR = """
import importlib.abc, importlib.metadata, sys
HIDDEN = {"torch", "onnxruntime", "onnx", "cuda", "tensorrt", "tensorrt_rtx", "tensorrt_lean"}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from freqfusion_runtime.commands.cli import main
sys.exit(main(["doctor", "--json", "-"]))
"""


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["healthy"] == (done.returncode == 0)
    return done.returncode, {finding["part"]: finding for finding in report["findings"]}


DOCTOR = ("-m", "freqfusion_runtime.commands.cli", "doctor", "--json", "-")


def test_every_part_is_named_with_what_was_found():
    _, found = findings(*DOCTOR)
    assert set(found) >= PARTS
    assert found["Python"]["state"] == "ok"
    for finding in found.values():
        assert finding["found"]
        if finding["state"] != "ok":
            assert finding["remedy"], finding


def test_with_the_base_dependencies_alone_it_says_what_each_extra_would_bring():
    status, found = findings("-c", POOR)
    assert status == 0  # what is not installed is no fault
    for part, extra in {"PyTorch": "export", "ONNX Runtime": "cpu", "TensorRT": "gpu", "TensorRT-RTX": "rtx"}.items():
        assert found[part]["state"] == "absent"
        assert f"freqfusion-deploy[{extra}]" in found[part]["remedy"]


def test_a_library_that_cannot_be_loaded_is_broken_and_the_status_says_so(monkeypatch, tmp_path):
    (tmp_path / LIBRARY_NAME).write_bytes(b"no library")
    (tmp_path / kernel_library.LIBRARY_NAME).write_bytes(b"no library")
    monkeypatch.setenv(kernel_library.FOLDER_VARIABLE, str(tmp_path))
    status, found = findings(*DOCTOR)
    assert status == 1
    for part in ("TensorRT plugin", "kernels for ONNX Runtime"):
        assert found[part]["state"] == "broken"
        assert "cannot be loaded" in found[part]["found"]
    assert found["TensorRT plugin"]["remedy"] == BUILD_PLUGIN


def test_a_library_of_another_release_is_broken(monkeypatch, tmp_path):
    write_onnxruntime_library(tmp_path / kernel_library.LIBRARY_NAME, 0)
    write_tensorrt_library(tmp_path / LIBRARY_NAME, 0)
    write_torch_library(tmp_path / "libfreqfusion_c.so")
    monkeypatch.setenv(kernel_library.FOLDER_VARIABLE, str(tmp_path))
    status, found = findings(*DOCTOR)
    assert status == 1
    for part in ("kernels for ONNX Runtime", "TensorRT plugin"):
        assert found[part]["state"] == "broken"
        assert "is of another release: it has interface 0, expected 1" in found[part]["found"]
    assert found["kernels for PyTorch"]["state"] == "broken"
    assert "libfreqfusion_c.so has interface 0, this package needs" in found["kernels for PyTorch"]["found"]
    assert all("build_plugins.py" in found[part]["remedy"] for part in found if part.startswith("kernels for"))


def test_the_table_puts_the_remedy_under_the_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(kernel_library.FOLDER_VARIABLE, str(tmp_path))
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    (place,) = [index for index, line in enumerate(lines) if "TensorRT plugin" in line]
    assert lines[place].startswith("-")
    assert lines[place + 1].strip() == f"-> {BUILD_PLUGIN}"


def inspect(path, tmp_path):
    facts = tmp_path / "facts.json"
    assert main(["inspect", str(path), "--json", str(facts)]) == 0
    return json.loads(facts.read_text())


def test_an_onnx_file(tmp_path, capsys):
    path = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    facts = inspect(path, tmp_path)
    assert (facts["kind"], facts["sha256"]) == ("ONNX", sha256_of(path))
    assert facts["freqfusion_nodes"] == [{"name": "echo", "operator": "LocalSimilarity", "has_function_body": True}]
    assert facts["manifest"]["model"] == "segnext_t"
    assert facts["manifest_beside"] == "none"
    assert "* freqfusion::LocalSimilarity: 1 nodes, with function body" in capsys.readouterr().out
    write_sidecar(path, tensor_manifest())
    assert inspect(path, tmp_path)["manifest_beside"] == "net.json, of this file"
    write_tensor_model(path)
    assert "of ANOTHER file" in inspect(path, tmp_path)["manifest_beside"]


def test_an_onnx_file_of_others(tmp_path, capsys):
    facts = inspect(write_tensor_model(tmp_path / "net.onnx", metadata=""), tmp_path)
    assert facts["manifest"] is None
    assert "no FreqFusion manifest" in capsys.readouterr().out


@needs_rtx
def test_a_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path / "cache"))
    model = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    build(model, "--optimization-level", "1")
    plan = tmp_path / "net.tensorrt-rtx.plan"
    facts = inspect(plan, tmp_path)
    assert (facts["kind"], facts["flavour"], facts["sha256"]) == ("plan", "tensorrt-rtx", sha256_of(plan))
    assert facts["engine"]["onnx_sha256"] == sha256_of(model)
    assert facts["manifest_beside"] == "net.tensorrt-rtx.json, of this file"
    out = capsys.readouterr().out
    assert "profile 0: image 1x3x32x32 .. 1x3x64x64 .. 2x3x128x96" in out
    assert "* LocalSimilarity: 1 x function body" in out
    assert "options: optimization_level=1" in out
    plan.with_suffix(".json").unlink()
    assert inspect(plan, tmp_path)["engine"] is None


def test_a_checkpoint(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {"a.weight": torch.zeros(3, 4)}}, path)
    facts = inspect(path, tmp_path)
    assert (facts["kind"], facts["model"], facts["values"]) == ("checkpoint", None, 12)
    assert "those of no known model" in facts["problem"]
    assert facts["tensors"] == {"a.weight": [3, 4]}


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.onnx", "does not exist"), ("none.plan", "does not exist"), ("none.pth", "no such checkpoint")],
)
def test_a_file_that_is_missing(tmp_path, capsys, name, message):
    assert main(["inspect", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_what_stays_in_fp32_is_told_with_its_reason(tmp_path, capsys):
    island = KeptInFp32("similarity", "its epsilon is lost in fp16", 4, ("a value of 70000",))
    manifest = replace(tensor_manifest(), precision="fp16", islands=(island,))
    facts = inspect(write_tensor_model(tmp_path / "net.onnx", manifest), tmp_path)
    assert facts["manifest"]["islands"][0]["nodes"] == 4
    words = "kept in fp32: similarity, 4 nodes: its epsilon is lost in fp16 (a value of 70000)"
    assert words in capsys.readouterr().out
