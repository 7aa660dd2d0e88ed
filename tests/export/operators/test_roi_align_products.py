# SPDX-License-Identifier: Apache-2.0
"""RoIAlign as matrix products is RoIAlign, for boxes of every shape, and TensorRT-RTX takes it without a driver."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from freqfusion.detection.roi_heads import extract
from freqfusion_export.operators import roi_align_products
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass

CHANNELS = 8
STRIDES = (4, 8, 16, 32)


def model(cells: int, channels: int = CHANNELS, boxes: str = "m") -> ir.Model:
    maps = ", ".join(f"float[n, {channels}, h{i}, w{i}] X{i}" for i in range(4))
    attributes = f"output_size = {cells}, finest_stride = 4, finest_scale = 56"
    return AddFunctionBodiesPass({"PyramidRoiAlign": roi_align_products.PyramidRoiAlign})(
        ir.from_onnx_text(
            f"""<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
            g ({maps}, float[n, {boxes}, 4] boxes) => (float[r, {channels}, {cells}, {cells}] y)
                {{ y = freqfusion.PyramidRoiAlign<{attributes}>(X0, X1, X2, X3, boxes) }}"""
        )
    ).model


def draw(batch: int, height: int, width: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps of noise; boxes of all sizes and shapes, and the ones where something begins or ends."""
    generator = np.random.default_rng([height, width])
    maps = [generator.standard_normal((batch, CHANNELS, height // s, width // s)).astype(np.float32) for s in STRIDES]
    centre = generator.random((batch, 40, 2)) * [width, height]
    side = np.exp(generator.uniform(0, np.log(1.2 * max(height, width)), (batch, 40, 1)))
    half = side * np.exp(generator.uniform(-2, 2, (batch, 40, 2))) / 2
    drawn = np.clip(np.concatenate((centre - half, centre + half), axis=2), 0, [width, height, width, height])
    edges = [
        *[(0, 0, width, height), (0, 0, width, 9.36), (3, 0, 12.34, height), (0, 0, 0, 0), (5, 7, 5, 30)],
        *[(0, 0, 112, 112), (0, 0, 224, 224), (8, 16, 120, 72), (8, 8, 36, 36), (width - 1, height - 1, width, height)],
    ]
    whole = np.concatenate((drawn, np.broadcast_to(np.array(edges), (batch, len(edges), 4))), axis=1)
    return maps, np.minimum(whole, [width, height, width, height]).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 64, 64), (2, 128, 192), (1, 512, 640), (1, 64, 1344), (1, 832, 64)])
@pytest.mark.parametrize("cells", [7, 14])
def test_is_roi_align(cells, size):
    maps, boxes = draw(*size)
    feed = {**{f"X{i}": x for i, x in enumerate(maps)}, "boxes": boxes}
    (actual,) = onnxruntime.InferenceSession(ir.to_proto(model(cells)).SerializeToString()).run(None, feed)
    expected = extract([torch.from_numpy(x) for x in maps], torch.from_numpy(boxes), cells).numpy()
    # Noise of deviation 1, and positions up to 336 pixels whose float32 steps are 3e-5.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 + 3e-7 * max(size[1:]))
    empty = (boxes[..., 2:] <= boxes[..., :2]).any(axis=-1).ravel()
    assert empty.any()
    assert not actual[empty].any()


def test_tensorrt_rtx_builds_it_for_pictures_of_any_size(tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    path = tmp_path / "model.onnx"
    ir.save(model(7, 256, "1000"), path)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for i, stride in enumerate(STRIDES):
        shapes = [(1, 256, h // stride, w // stride) for h, w in ((64, 64), (832, 1344), (1344, 1344))]
        profile.set_shape(f"X{i}", *shapes)
    profile.set_shape("boxes", *[(1, 1000, 4)] * 3)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
