# SPDX-License-Identifier: Apache-2.0
"""The pre-processing inside the graph is the official pipeline, bit by bit."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size

pytestmark = pytest.mark.numerics

PLAN = Preprocessing(long_side=256, short_side=64)


@functools.cache
def session(function: str, long_side: int = 0, short_side: int = 0):
    bodies = {
        "PrepareImage": """g (uint8[n,h,w,3] x) => (float[n,3,i,j] o) { o = freqfusion.PrepareImage<long_side=256,
            short_side=64, size_divisor=32, mean=[123.675, 116.28, 103.53],
            inverse_std=[0.01712475383, 0.01750700280, 0.01742919389]>(x) }""",
        "KeepRatioSize": f"""g (int64[1] h, int64[1] w) => (int64[1] a, int64[1] b)
            {{ a, b = freqfusion.KeepRatioSize<long_side={long_side}, short_side={short_side}>(h, w) }}""",
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


@pytest.mark.parametrize(("limits", "most"), [((1333, 800), 3000), ((2048, 512), 1500)])
def test_sizes_are_mmcvs_for_every_common_picture(limits, most):
    run = functools.partial(session("KeepRatioSize", *limits).run, None)
    sizes = [*np.random.default_rng(0).integers(1, 6000, (1000, 2)).tolist(), *sizes_with_halves(most, *limits)]
    plan = Preprocessing(long_side=limits[0], short_side=limits[1])
    for height, width in sizes:
        a, b = run({"h": np.array([height]), "w": np.array([width])})
        assert (int(a[0]), int(b[0])) == keep_ratio_size(height, width, plan), (height, width)


def sizes_with_halves(most: int, long_limit: int, short_limit: int) -> list[tuple[int, int]]:
    """All sizes up to ``most`` of which a side comes to a half exactly: only there can two ways of rounding differ."""
    long, short = np.meshgrid(np.arange(1, most + 1), np.arange(1, most + 1), indexing="ij")
    by_long = long_limit * short < short_limit * long
    limit, side = np.where(by_long, long_limit, short_limit), np.where(by_long, long, short)
    halves = np.zeros(long.shape, bool)
    for extent in (long, short):
        halves |= (2 * extent * limit + side) % (2 * side) == 0
    pairs = np.argwhere(halves & (long >= short)) + 1
    return [(int(a), int(b)) if i % 2 else (int(b), int(a)) for i, (a, b) in enumerate(pairs)]


def test_halves_that_floats_round_down_are_rounded_down():
    assert keep_ratio_size(149, 298, Preprocessing(long_side=1333, short_side=800)) == (666, 1333)
    (height,), (width,) = session("KeepRatioSize", 1333, 800).run(None, {"h": np.array([149]), "w": np.array([298])})
    assert (height, width) == (666, 1333)


def test_tensorrt_reserves_memory_for_sizes_that_can_be(tmp_path):
    """TensorRT cannot know that both sides are scaled by one factor, and took 8192 x 16384 for the largest size."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'freqfusion-deploy[rtx]'")
    from freqfusion_runtime.building.builder import EngineBuilder
    from freqfusion_runtime.engines.flavours import open_flavour
    from freqfusion_runtime.engines.options import BuildOptions
    from freqfusion_runtime.engines.profiles import read_profiles
    from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec
    from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts

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
