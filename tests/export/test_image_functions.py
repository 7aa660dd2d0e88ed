# SPDX-License-Identifier: Apache-2.0
"""The pre-processing inside the graph is the official pipeline, bit by bit."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_runtime.manifest import Preprocessing
from freqfusion_runtime.preprocess import keep_ratio_size, prepare

PLAN = Preprocessing(long_side=256, short_side=64)


@functools.cache
def session(function: str):
    bodies = {
        "PrepareImage": """g (uint8[n,h,w,3] x) => (float[n,3,i,j] o) { o = freqfusion.PrepareImage<long_side=256,
            short_side=64, size_divisor=32, mean=[123.675, 116.28, 103.53],
            inverse_std=[0.01712475383, 0.01750700280, 0.01742919389]>(x) }""",
        "KeepRatioSize": """g (int64[1] h, int64[1] w) => (int64[1] a, int64[1] b)
            { a, b = freqfusion.KeepRatioSize<long_side=2048, short_side=512>(h, w) }""",
        "ResizeFixedPoint": """g (int32[n,h,w,c] x, int64[1] a, int64[1] b) => (int32[n,i,j,c] o)
            { o = freqfusion.ResizeFixedPoint(x, a, b) }""",
    }
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]> {bodies[function]}')
    return onnxruntime.InferenceSession(ir.to_proto(AddFunctionBodiesPass()(model).model).SerializeToString())


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "size", [(75, 100), (120, 81), (64, 64), (1, 1), (1, 300), (400, 3), (33, 257), (3000, 2), (200, 150), (64, 96)]
)
def test_pictures_become_what_the_official_pipeline_makes(size):
    pictures = draw(2, *size, 3)
    expected = np.concatenate([prepare(picture, PLAN) for picture in pictures])
    (actual,) = session("PrepareImage").run(None, {"x": pictures})
    assert actual.shape == expected.shape
    # Equal levels; then fp32 where OpenCV multiplies in fp64: two roundings of values below 3.
    assert np.abs(actual - expected).max() <= 2 * 2.0**-22


@pytest.mark.parametrize("source", [(7, 9), (48, 64), (1, 5), (61, 3), (30, 40)])
@pytest.mark.parametrize("target", [(7, 9), (24, 32), (96, 128), (13, 50), (1, 1), (33, 2)])
def test_resize_is_opencvs(source, target):
    cv2 = pytest.importorskip("cv2")
    picture = draw(*source, 3)
    height, width = (np.array([side]) for side in target)
    (actual,) = session("ResizeFixedPoint").run(None, {"x": picture[None].astype(np.int32), "a": height, "b": width})
    expected = cv2.resize(picture, target[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(actual[0], expected)


def test_sizes_are_mmcvs_for_every_common_picture():
    run = functools.partial(session("KeepRatioSize").run, None)
    generator = np.random.default_rng(0)
    sizes = [*generator.integers(1, 6000, (3000, 2)).tolist()]
    sizes += [(short, long) for short in (1024, 3072, 5120) for long in range(short, short + 300)]  # where ties can be
    plan = Preprocessing()
    for height, width in sizes:
        a, b = run({"h": np.array([height]), "w": np.array([width])})
        assert (int(a[0]), int(b[0])) == keep_ratio_size(height, width, plan), (height, width)


def test_tensorrt_reserves_memory_for_sizes_that_can_be(tmp_path):
    """TensorRT cannot know that both sides are scaled by one factor, and took 8192 x 16384 for the largest size."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'freqfusion-deploy[rtx]'")
    from freqfusion_runtime.engines.builder import EngineBuilder
    from freqfusion_runtime.engines.flavours import open_flavour
    from freqfusion_runtime.engines.options import BuildOptions
    from freqfusion_runtime.engines.profiles import read_profiles
    from freqfusion_runtime.manifest import METADATA_KEY, Manifest, TensorSpec
    from freqfusion_runtime.onnx_facts import read_onnx_facts

    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
        g (uint8[n,h,w,3] image) => (float[n,3,i,j] o) { o = freqfusion.PrepareImage<long_side=2048, short_side=512,
            size_divisor=32, mean=[0.0, 0.0, 0.0], inverse_std=[1.0, 1.0, 1.0]>(image) }""")
    manifest = Manifest(
        model="segnext_t",
        task="semantic_segmentation",
        interface="image",
        precision="fp32",
        opset=18,
        num_classes=3,
        inputs=(TensorSpec("image", "uint8", ("batch", "height", "width", 3)),),
        outputs=(TensorSpec("o", "float32", ("batch", 3, "i", "j")),),
        weights="random",
    )
    model = AddFunctionBodiesPass()(model).model
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    ir.save(model, tmp_path / "prepare.onnx")
    facts = read_onnx_facts(tmp_path / "prepare.onnx")
    profiles = read_profiles(manifest, ["1x64x64"], ["1x512x512"], ["1x1024x2048"])
    flavour = open_flavour("tensorrt-rtx")
    builder = EngineBuilder(flavour, tmp_path / "prepare.onnx", facts, profiles, BuildOptions())
    built = builder.build(tmp_path / "x.plan")
    largest = 2048 * 2048 * 3 * 4  # bytes of the network's input
    assert largest / 2 < built.memory["activations"] < 8 * largest
