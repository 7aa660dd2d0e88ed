# SPDX-License-Identifier: Apache-2.0
"""Kernels that TensorRT-RTX compiled, on disk. RTX makes these objects with a GPU only, so a double has their calls."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from engine_builds import needs_rtx
from freqfusion_runtime.engines.cuda import GpuIdentity
from freqfusion_runtime.engines.flavours import Flavour, open_flavour
from freqfusion_runtime.engines.runtime_cache import RuntimeCache

GPU = GpuIdentity("NVIDIA RTX 6000 Ada", "8.9", 49140)
STRATEGY = SimpleNamespace(USER_MANAGED="user managed")
API = SimpleNamespace(__version__="1.7.1", IRuntimeCache=object, ExecutionContextAllocationStrategy=STRATEGY)
RTX = Flavour("tensorrt-rtx", API)


class Kernels:
    """As `IRuntimeCache` of RTX 1.7: takes only what this environment wrote."""

    def __init__(self) -> None:
        self.compiled = b""

    def serialize(self) -> memoryview:
        return memoryview(b"here:" + self.compiled)

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"here:"):
            return False
        self.compiled = blob.removeprefix(b"here:")
        return True


class Engine:
    """As `ICudaEngine` of RTX 1.7, as far as contexts go; making one compiles a kernel that is not there yet."""

    def __init__(self) -> None:
        self.compilations = 0

    def create_runtime_config(self) -> SimpleNamespace:
        config = SimpleNamespace(create_runtime_cache=Kernels)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        config.set_runtime_cache = lambda kernels: setattr(config, "kernels", kernels)
        return config

    def create_execution_context(self, config: SimpleNamespace) -> SimpleNamespace:
        assert config.strategy == "user managed"
        if not config.kernels.compiled:
            self.compilations += 1
            config.kernels.compiled = b"kernel"
        return config


def run(folder, engine: Engine, sha256: str = "a" * 64, gpu: GpuIdentity = GPU) -> RuntimeCache:
    cache = RuntimeCache(RTX, gpu, sha256, folder)
    contexts = [cache.new_context(engine) for _ in range(2)]
    assert contexts[0].kernels is contexts[1].kernels
    cache.write()
    return cache


def test_kernels_are_compiled_once_for_all_runs(tmp_path):
    engine = Engine()
    cache = run(tmp_path, engine)
    written = cache.path.stat().st_ino
    run(tmp_path, engine)
    assert engine.compilations == 1
    assert cache.path.stat().st_ino == written  # nothing new, nothing written


def test_another_plan_and_another_gpu_have_files_of_their_own(tmp_path):
    paths = {
        run(tmp_path, Engine()).path,
        run(tmp_path, Engine(), sha256="b" * 64).path,
        run(tmp_path, Engine(), gpu=GpuIdentity("NVIDIA L4", "8.9", 23034)).path,
    }
    assert len(paths) == 3


def test_the_files_used_last_are_kept(tmp_path):
    paths = []
    for number in range(64):
        paths.append(run(tmp_path, Engine(), sha256=f"{number:064}"[::-1]).path)
        os.utime(paths[-1], (1e9 + number, 1e9 + number))
    run(tmp_path, Engine(), sha256=f"{0:064}"[::-1])  # read now, and so used last
    newest = run(tmp_path, Engine()).path
    assert not paths[1].exists()
    assert all(path.exists() for path in (paths[0], *paths[2:], newest))


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_file_that_rtx_does_not_take_is_made_anew(tmp_path, content):
    cache = run(tmp_path, Engine())
    cache.path.write_bytes(content)
    engine = Engine()
    run(tmp_path, engine)
    assert engine.compilations == 1
    assert cache.path.read_bytes() == b"here:kernel"


def test_a_place_that_cannot_be_written_to_is_no_error(tmp_path):
    (tmp_path / "kernels").write_text("a file")
    engine = Engine()
    run(tmp_path, engine)
    assert engine.compilations == 1  # it ran
    assert (tmp_path / "kernels").read_text() == "a file"


def test_nothing_is_written_of_an_engine_that_never_ran(tmp_path):
    RuntimeCache(RTX, GPU, "a" * 64, tmp_path).write()
    assert not list(tmp_path.iterdir())


@needs_rtx
def test_rtx_has_the_calls_that_this_is_written_for():
    flavour = open_flavour("tensorrt-rtx")
    assert flavour.has_runtime_cache
    assert not Flavour("tensorrt", SimpleNamespace(__version__="11.4")).has_runtime_cache
    for name, calls in {
        "ICudaEngine": ["create_runtime_config", "create_execution_context"],
        "IRuntimeConfig": [
            "create_runtime_cache",
            "set_runtime_cache",
            "set_execution_context_allocation_strategy",
        ],
        "IRuntimeCache": ["serialize", "deserialize"],
    }.items():
        assert all(callable(getattr(getattr(flavour.api, name), call)) for call in calls)
