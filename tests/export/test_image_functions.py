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
