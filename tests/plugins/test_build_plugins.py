# SPDX-License-Identifier: Apache-2.0
"""scripts/build_plugins.py: what it does where a part is missing. That it builds, every other test here shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_libraries import ROOT

SCRIPT = ROOT / "scripts" / "build_plugins.py"
sys.path.insert(0, str(SCRIPT.parent))

import build_plugins  # noqa: E402


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--cuda=off", "--jobs=2", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_names_the_missing_compiler(tmp_path):
    done = run_script("--build", str(tmp_path), CXX="no-such-compiler")
    assert done.returncode == 2
    assert "CXX names no-such-compiler, which is not there; install g++" in done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run_script("--build", str(tmp_path), CXX="", PATH=str(empty))
    assert done.returncode == 2
    assert "this machine has no C++ compiler; install g++" in done.stderr


@pytest.mark.long
def test_builds_what_it_can_without_headers_and_says_how_to_have_the_rest(tmp_path):
    if Path("/usr/include/onnxruntime").exists():
        pytest.skip("this machine has ONNX Runtime's headers installed")
    folder = ROOT / "build" / "test-without-headers"
    arguments = ["--offline", "--headers", str(tmp_path / "none"), "--install", str(tmp_path / "lib")]
    done = run_script(*arguments, "--build", str(folder), ONNXRUNTIME_INCLUDE="")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["libfreqfusion_c.so"]
    assert "ONNX Runtime on kernels: not built: ONNX Runtime C headers were not found" in done.stdout
    assert "set ONNXRUNTIME_INCLUDE" in done.stdout

    done = run_script(*arguments, "--build", str(folder), "--require", "onnxruntime", ONNXRUNTIME_INCLUDE="")
    assert done.returncode == 2
    assert "--require onnxruntime cannot be met" in done.stderr


def test_a_failed_build_installs_nothing(tmp_path):
    done = run_script("--build", str(tmp_path / "build"), "--install", str(tmp_path / "lib"), CXX="true")
    assert done.returncode == 1
    assert "build_plugins: failed:" in done.stderr
    assert not (tmp_path / "lib").exists()


def test_installs_a_library_whole(tmp_path):
    source = tmp_path / "libx.so"
    source.write_bytes(b"new")
    target = tmp_path / "lib"
    target.mkdir()
    (target / "libx.so").write_bytes(b"old")
    with (target / "libx.so").open("rb") as held:
        assert build_plugins.install(source, target) == target / "libx.so"
        assert held.read() == b"old"  # a process that has it mapped keeps what it has
    assert (target / "libx.so").read_bytes() == b"new"
    assert [path.name for path in target.iterdir()] == ["libx.so"]


def test_takes_cmake_from_a_wheel_where_the_machine_has_none(tmp_path, monkeypatch):
    asked = []

    def run(command: list[str], folder: Path) -> None:
        asked.append(command[-1])
        program = folder / ("cmake/data/bin/cmake" if "cmake" in command[-1] else "bin/ninja")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("")

    monkeypatch.setattr(build_plugins, "run_program", run)
    monkeypatch.setattr(build_plugins.shutil, "which", lambda _: None)
    for _ in range(2):
        command = build_plugins.find_cmake(tmp_path / "tools")
    assert command[0] == str(tmp_path / "tools" / "cmake" / "data" / "bin" / "cmake")
    assert command[1:3] == ["-G", "Ninja"]
    assert asked == ["cmake>=3.18", "ninja"]
