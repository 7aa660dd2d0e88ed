# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels, the C library and the ONNX Runtime operator under AddressSanitizer, UBSan and ThreadSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled_libraries import ROOT, sanitized_libraries
from one_node_models import OPEN_ALONE, models_beyond_64_bits, one_node_model
from operator_cases import CASES
from watched_runs import LEVELS, OPEN_MODELS, RUN_MODELS, run_program

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++17", "-g", "-O1", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-pthread", f"-I{ROOT / 'plugins'}"]
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SECONDS = "3"


def compile_program(source: str, into: Path, *arguments: str) -> Path:
    """Compiles one file of this folder; skips where the compiler or its sanitizer runtime is missing."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("this machine has no C++ compiler; install g++")
    program = into / Path(source).stem
    command = [compiler, *FLAGS, str(HERE / source), *arguments, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find -l" in done.stderr and "san" in done.stderr:
        pytest.skip(f"the compiler has no sanitizer runtime: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def sanitized() -> Path:
    """Folder of the libraries built with AddressSanitizer and UBSan."""
    folder = sanitized_libraries()
    symbols = subprocess.run(["nm", "-D", str(folder / "libfreqfusion_c.so")], capture_output=True, text=True)
    assert "__asan_report_load" in symbols.stdout
    return folder


@pytest.fixture(scope="module")
def random_shapes(sanitized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    link = [f"-L{sanitized}", "-lfreqfusion_c", f"-Wl,-rpath,{sanitized}"]
    return compile_program("random_shapes.cpp", tmp_path_factory.mktemp("programs"), *ADDRESS, *link)


@pytest.mark.long
@pytest.mark.parametrize("level", LEVELS)
def test_kernels_stay_inside_their_tensors(level, random_shapes):
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if not LEVELS[level] <= flags:
        pytest.skip(f"this processor lacks {', '.join(sorted(LEVELS[level] - flags))}")
    printed = run_program(str(random_shapes), SECONDS, "1", FREQFUSION_ISA=level)
    assert printed.startswith(f"{level}: ")
    assert int(printed.split()[1]) >= 20


@pytest.fixture(scope="module")
def preloaded() -> dict[str, str]:
    """What Python needs in its environment to load a library with AddressSanitizer."""
    compiler = os.environ.get("CXX") or "g++"
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(runtime.stdout.strip()).is_file():
        pytest.skip("no libasan.so to load ahead of Python")
    # Python and ONNX Runtime keep what they allocate until the process ends.
    return {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}


@pytest.mark.long
def test_sizes_beyond_64_bits_overflow_nothing(sanitized, preloaded, tmp_path):
    models = models_beyond_64_bits()
    for name, model in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    library = str(sanitized / "libfreqfusion_onnxruntime.so")
    printed = run_program(sys.executable, "-c", OPEN_MODELS, library, str(tmp_path), **preloaded)
    expected = {name: "opened" if name in OPEN_ALONE else "refused" for name in models}
    assert dict(line.split() for line in printed.splitlines()) == expected


@pytest.mark.long
def test_the_onnxruntime_operator_stays_inside_its_tensors(sanitized, preloaded, tmp_path):
    checks = {}
    for number, parameters in enumerate(CASES):
        (case,) = parameters.values
        dtype = (torch.float32, torch.float16, torch.bfloat16)[number % 3]
        tensors = case.tensors(dtype)
        feed = {f"x{i}": tensor.float().numpy() for i, tensor in enumerate(tensors)}
        if "sizes" in case.attributes:
            feed["sizes"] = np.asarray(case.attributes["sizes"], np.int64)
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(one_node_model(case.operator, case.attributes, dtype).SerializeToString())
        np.savez(path.with_suffix(".npz"), **feed)
        checks[path.with_suffix(".npy")] = (case, tensors)

    printed = run_program(
        sys.executable,
        "-c",
        RUN_MODELS,
        str(sanitized / "libfreqfusion_onnxruntime.so"),
        str(tmp_path),
        **preloaded,
    )

    assert printed.split() == ["ran", str(len(CASES))]
    for path, (case, tensors) in checks.items():
        result = torch.from_numpy(np.load(path))
        case.check(result if result.dtype == torch.int32 else result.to(tensors[0].dtype), tensors)


@pytest.mark.long
def test_the_pool_of_the_c_library_has_no_races(tmp_path):
    pool = str(ROOT / "plugins" / "torch" / "sleeping_pool.cpp")
    program = compile_program("concurrent_calls.cpp", tmp_path, "-fsanitize=thread", pool)
    # Without address space randomisation: kernels with many random bits leave ThreadSanitizer's shadow no room.
    command = [setarch, "-R", str(program)] if (setarch := shutil.which("setarch")) else [str(program)]
    assert run_program(*command).startswith("0 indices")
