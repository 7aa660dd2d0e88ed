# SPDX-License-Identifier: Apache-2.0
"""Engines on a GPU: numbers, shapes, graphs, device arrays, threads, release; and the refusals that need no GPU."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_builds import SIZES, build, needs_rtx, record_of
from freqfusion_runtime.engines.errors import (
    EngineMemoryError,
    EnginePluginError,
    EngineVersionError,
    GpuMissingError,
    PluginLibraryError,
    ProfileError,
    TensorRTMissingError,
)
from freqfusion_runtime.engines.plugin_library import PluginIdentity
from freqfusion_runtime.engines.pool import PoolClosedError
from freqfusion_runtime.engines.record import plan_sidecar
from freqfusion_runtime.errors import InputError, KernelLibraryError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions.kernel_library import FOLDER_VARIABLE
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from places import EXAMPLES, ROOT
from small_models import tensor_manifest, write_image_model, write_tensor_model

pytestmark = needs_rtx

# A convolution of three products: two fp32 orders differ in the last places.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A plan and the file it was built from, by interface."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("engines")
        patch.setenv("FREQFUSION_CACHE_DIR", str(folder / "cache"))
        found = {}
        for interface, write in (("tensor", write_tensor_model), ("image", write_image_model)):
            onnx = write(folder / f"{interface}.onnx")
            second = ("--min", "1x160x160", "--opt", "1x160x160", "--max", "1x192x192")
            assert build(onnx, sizes=(*SIZES, *second))[0] == 0
            found[interface] = (onnx.with_suffix(".tensorrt-rtx.plan"), onnx)
    return found


def changed(models, tmp_path: Path, **changes: object) -> Path:
    """A copy of the plan whose manifest tells of another engine."""
    plan = tmp_path / "net.plan"
    plan.write_bytes(models["tensor"][0].read_bytes())
    record = replace(record_of(models["tensor"][0]), **changes)
    plan.with_suffix(".json").write_text(plan_sidecar(tensor_manifest(), record, sha256_of(plan)))
    return plan


def test_an_engine_of_another_version_is_refused(models, tmp_path):
    plan = changed(models, tmp_path, tensorrt_version="1.6.0.99")
    with pytest.raises(EngineVersionError, match=r"built by TensorRT-RTX 1\.6\.0\.99, and this .* has TensorRT-RTX"):
        open_session(plan)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_an_engine_of_a_flavour_that_is_not_here_is_told_how_to_get_it(models, tmp_path):
    with pytest.raises(TensorRTMissingError, match="the Python module tensorrt is not installed"):
        open_session(changed(models, tmp_path, flavour="tensorrt"))


def test_an_engine_whose_plugin_library_is_missing_or_another_is_refused(models, tmp_path, monkeypatch):
    plugin = PluginIdentity("libfreqfusion_tensorrt.so", "ab" * 32, "1", "10.14.1")
    plan = changed(models, tmp_path, plugin=plugin)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(PluginLibraryError, match="does not exist"):
        open_session(plan)
    library = next(ROOT.glob("build/test-cuda/lib/libfreqfusion_tensorrt.so"), None)
    if library is None:
        pytest.skip("the plugin library has not been built yet (tests/plugins does)")
    monkeypatch.setenv(FOLDER_VARIABLE, str(library.parent))
    with pytest.raises(EnginePluginError, match=r"was built with libfreqfusion_tensorrt\.so .*sha256 abababababab"):
        open_session(plan)


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="pip install cuda-bindings")
def test_without_a_gpu_every_way_in_says_so(models):
    from freqfusion_runtime.engines.cuda import DeviceMemory, find_gpu
    from freqfusion_runtime.engines.errors import CudaError

    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(GpuMissingError, match=r"needs an NVIDIA GPU, and CUDA cannot be started here \(.*nvidia-smi"):
        open_session(models["tensor"][0])
    with pytest.raises(CudaError, match=r"cudaMalloc failed: .*`freqfusion doctor` checks driver"):
        DeviceMemory(16)


# From here on with a GPU.


def pictures(n: int, height: int, width: int, interface: str) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(7))
    if interface == "image":
        return generator.integers(0, 256, (n, height, width, 3), np.uint8)
    return generator.standard_normal((n, 3, height, width)).astype(np.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("interface", ["tensor", "image"])
@pytest.mark.parametrize("size", [(1, 64, 64), (2, 128, 96), (1, 32, 64), (1, 192, 160)])
def test_the_engine_computes_what_the_file_does_with_and_without_graphs(models, interface, size):
    plan, onnx = models[interface]
    batch = {"image": pictures(*size, interface)}
    expected = OnnxRuntimeSession(onnx).run(batch)
    with open_session(plan) as engine:
        for _ in range(4):  # plain, captured, replayed, replayed
            actual = engine.run(batch)
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                assert actual[name].dtype == value.dtype
                np.testing.assert_allclose(actual[name], value, **CLOSE)


@pytest.mark.gpu
def test_a_third_call_of_a_shape_is_one_graph_launch_and_other_shapes_stay_right(models):
    from freqfusion_runtime.engines.tensorrt_session import TensorRTSession

    plan, onnx = models["tensor"]
    reference = OnnxRuntimeSession(onnx)
    with TensorRTSession(plan, contexts=1, graphs=2) as engine:
        for round_number in range(4):
            for sides in ((64, 64), (96, 64), (160, 192)):  # one more than graphs are kept
                batch = {"image": pictures(1, *sides, "tensor") + round_number}
                np.testing.assert_allclose(engine.run(batch)["logits"], reference.run(batch)["logits"], **CLOSE)
        with engine._pool.lend() as lane:
            assert len(lane._graphs) <= 2
            assert lane.replays > 0


@pytest.mark.gpu
def test_tensors_of_torch_go_in_and_out_without_a_copy(models):
    torch = pytest.importorskip("torch")
    plan, onnx = models["tensor"]
    batch = pictures(1, 64, 96, "tensor")
    expected = OnnxRuntimeSession(onnx).run({"image": batch})["logits"]
    tensor = torch.from_numpy(batch).cuda()
    with open_session(plan) as engine:
        for _ in range(3):
            np.testing.assert_allclose(engine.run({"image": tensor})["logits"], expected, **CLOSE)
        with engine.run_on_device({"image": tensor}) as outputs:
            array = outputs["logits"]
            taken = torch.from_dlpack(array)
            assert taken.data_ptr() == array.pointer
            np.testing.assert_allclose(taken.cpu().numpy(), expected, **CLOSE)
            np.testing.assert_allclose(torch.as_tensor(array, device="cuda").cpu().numpy(), expected, **CLOSE)
        with pytest.raises(InputError, match="not contiguous"):
            engine.run({"image": tensor.transpose(2, 3)})


@pytest.mark.gpu
def test_threads_share_an_engine(models):
    plan, onnx = models["image"]
    reference = OnnxRuntimeSession(onnx)
    batches = [{"image": pictures(1, 40 + 8 * k, 64, "image")} for k in range(6)]
    answers = [reference.run(batch)["labels"] for batch in batches]
    with open_session(plan) as engine, ThreadPoolExecutor(6) as threads:
        for _ in range(5):
            for actual, expected in zip(threads.map(engine.run, batches), answers, strict=True):
                np.testing.assert_array_equal(actual["labels"], expected)


@pytest.mark.gpu
def test_what_the_engine_does_not_take_is_refused_and_it_lives_on(models):
    plan, _ = models["tensor"]
    with open_session(plan) as engine:
        with pytest.raises(ProfileError, match="lies outside every profile"):
            engine.run({"image": pictures(1, 512, 512, "tensor")})
        with pytest.raises(InputError, match="must be float32, got float64"):
            engine.run({"image": pictures(1, 64, 64, "tensor").astype(np.float64)})
        with pytest.raises(InputError, match="multiples of 32"):
            engine.run({"image": pictures(1, 64, 72, "tensor")})
        assert engine.run({"image": pictures(1, 64, 64, "tensor")})["logits"].shape == (1, 4, 8, 8)
    with pytest.raises(PoolClosedError, match="has been closed"):
        engine.run({"image": pictures(1, 64, 64, "tensor")})


@pytest.mark.gpu
def test_closing_gives_the_memory_back(models):
    from freqfusion_runtime.engines import cuda

    plan, _ = models["tensor"]
    batch = {"image": pictures(1, 64, 64, "tensor")}
    with open_session(plan) as engine:  # the context of CUDA itself stays
        engine.run(batch)
    before, _ = cuda.call("cudaMemGetInfo")
    for _ in range(5):
        with open_session(plan) as engine:
            for _ in range(3):
                engine.run(batch)
    after, _ = cuda.call("cudaMemGetInfo")
    assert before - after < 8 << 20


@pytest.mark.gpu
def test_too_little_memory_on_the_gpu_is_told(models):
    from freqfusion_runtime.engines.cuda import DeviceMemory

    with pytest.raises(EngineMemoryError, match=r"cudaMalloc failed: out of memory.*nvidia-smi"):
        DeviceMemory(1 << 50)


@pytest.mark.gpu
def test_the_gate_runs_the_engine_and_keeps_it(models, tmp_path, monkeypatch):
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path / "cache"))
    photos = EXAMPLES / "coffee.jpg"
    sizes = ("--min", "1x32x32", "--opt", "1x512x512", "--max", "1x1024x2048")
    onnx = tmp_path / "net.onnx"
    onnx.write_bytes(models["image"][1].read_bytes())
    status, facts = build(onnx, "--verify", str(photos), sizes=sizes)
    assert (status, facts["gate"]["agrees"]) == (0, True)


@pytest.mark.gpu
def test_an_engine_without_plugins_is_refused_where_kernels_are_required(tmp_path, monkeypatch):
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path / "cache"))
    onnx = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    build(onnx)
    with pytest.raises(KernelLibraryError, match=r"1 FreqFusion nodes run by function body, .*: echo"):
        open_session(onnx.with_suffix(".tensorrt-rtx.plan"), kernels="require")


@pytest.mark.gpu
def test_a_server_learns_what_the_engine_takes(models):
    from freqfusion_runtime.serving.scheduling.registry import LoadedModel, ModelSource
    from freqfusion_runtime.serving.scheduling.warmup import warm_up

    plan, _ = models["image"]
    with open_session(plan) as engine:
        assert (engine.max_batch, engine.usual_size) == (1, (64, 64))
        warm_up(engine, 1_000_000)  # 512 x 512 is in none of its profiles
        model = LoadedModel(ModelSource("net", plan), engine, 1_000_000, "", (0, 0, 0))
        assert model.batch_limit(8) == 1
