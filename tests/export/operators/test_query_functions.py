# SPDX-License-Identifier: Apache-2.0
"""What Mask2Former adds to the operators: traced with free sizes, right at others, and taken by TensorRT-RTX."""

from __future__ import annotations

import warnings
from pathlib import Path

import freqfusion.ops  # noqa: F401  (defines torch.ops.freqfusion)
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import references
import torch
from freqfusion_export.operators.translation import translation_table
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from torch import Tensor, nn

QUERIES = """<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
    g (float[n, 20, h, w] masks, float[n, 20, 8] classes, uint8[n, height, width, 3] picture) => (int32[n, p, q] labels)
    {
        size = Shape<start = 2, end = 4>(masks)
        four = Constant<value_ints = [4]>()
        padded = Mul(size, four)
        one = Constant<value_ints = [1]>()
        kept = Sub(padded, one)
        out = Shape<start = 1, end = 3>(picture)
        sizes = Concat<axis = 0>(padded, kept, out)
        labels = freqfusion.QueryArgmax(masks, classes, sizes)
    }"""


class Pyramid(nn.Module):
    """Attention on two levels, of which only the finer is an input: one size is a sum's, the other a scalar's."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.logits = nn.Linear(24, 2 * 2 * 3 * 2), nn.Linear(24, 2 * 2 * 3)

    def forward(self, fine: Tensor) -> Tensor:
        coarse = nn.functional.avg_pool2d(fine, 2)
        sizes = [*fine.shape[2:], *coarse.shape[2:]]
        tokens = torch.cat([level.flatten(2) for level in (fine, coarse)], dim=2).transpose(1, 2)
        value, offsets, logits = (x.unflatten(2, (2, -1)) for x in (tokens, self.offsets(tokens), self.logits(tokens)))
        attended: Tensor = torch.ops.freqfusion.deformable_attention(value, offsets, logits, sizes)
        return attended.flatten(2)


@pytest.fixture(scope="module")
def pyramid() -> Pyramid:
    torch.manual_seed(0)
    network = Pyramid().eval()
    nn.init.normal_(network.offsets.weight, std=0.6)  # offsets of some pixels, so that some lie outside
    return network


@pytest.fixture(scope="module")
def attention(pyramid: Pyramid) -> ir.Model:
    batch, rows, columns = (torch.export.Dim(name, min=1) for name in ("batch", "rows", "columns"))
    with warnings.catch_warnings(), translation_table() as table:
        warnings.simplefilter("ignore")  # deprecations inside torch
        program = torch.onnx.export(
            pyramid,
            (torch.rand(2, 24, 6, 8),),
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: batch, 2: 2 * rows, 3: 2 * columns},),
            input_names=["fine"],
            output_names=["attended"],
            custom_translation_table=table,
            verbose=False,
        )
    model = ir.serde.deserialize_model(ir.serde.serialize_model(program.model))
    return AddFunctionBodiesPass()(model).model


def answer(model: ir.Model, **feed: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    (result,) = session.run(None, feed)
    return result


@pytest.mark.parametrize("size", [(1, 2, 2), (3, 4, 14), (2, 10, 2)], ids=str)
def test_attention_traced_at_one_size_is_right_at_another(pyramid, attention, size):
    batch, height, width = size
    fine = torch.randn(batch, 24, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = pyramid(fine).numpy()
    # Sums of 24 and of 24 products of numbers below 4, whose offsets move places by their rounding.
    np.testing.assert_allclose(answer(attention, fine=fine.numpy()), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("size", "picture"), [((1, 5, 9), (31, 17)), ((2, 4, 3), (9, 40))], ids=str)
def test_queries_are_counted_in_sizes_of_the_graph(size, picture):
    batch, height, width = size
    generator = np.random.default_rng(2)
    masks = 3 * generator.standard_normal((batch, 20, height, width)).astype(np.float32)
    classes = 2 * generator.standard_normal((batch, 20, 8)).astype(np.float32)
    model = AddFunctionBodiesPass()(ir.from_onnx_text(QUERIES)).model
    labels = answer(model, masks=masks, classes=classes, picture=np.zeros((batch, *picture, 3), np.uint8))
    sizes = (4 * height, 4 * width, 4 * height - 1, 4 * width - 1, *picture)
    scores = np.sort(references.query_scores(masks.astype(np.float64), classes.astype(np.float64), sizes), axis=1)
    decided = scores[:, -1] - scores[:, -2] > 1e-4
    assert decided.mean() > 0.99
    expected = references.query_argmax(masks.astype(np.float64), classes.astype(np.float64), sizes)
    assert (labels == expected)[decided].all()


def built_by_rtx(model: ir.Model, profile: dict[str, list[tuple[int, ...]]], path: Path) -> bool:
    """Whether TensorRT-RTX parses and builds ``model`` for sizes between those of ``profile``; no GPU is needed."""
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    ir.save(model, path)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
    for name, (least, usual, most) in profile.items():
        shapes.set_shape(name, least, usual, most)
    config.add_optimization_profile(shapes)
    return builder.build_serialized_network(network, config) is not None


def test_tensorrt_rtx_builds_attention_for_any_size(attention, tmp_path):
    sizes = [(1, 24, 2, 2), (1, 24, 80, 80), (4, 24, 80, 160)]
    assert built_by_rtx(attention, {"fine": sizes}, tmp_path / "attention.onnx")


def test_tensorrt_rtx_builds_label_maps_of_queries_for_any_size(tmp_path):
    model = AddFunctionBodiesPass()(ir.from_onnx_text(QUERIES)).model
    profile = {
        "masks": [(1, 20, 8, 8), (1, 20, 160, 160), (2, 20, 160, 320)],
        "classes": [(1, 20, 8), (1, 20, 8), (2, 20, 8)],
        "picture": [(1, 32, 32, 3), (1, 480, 640, 3), (2, 1080, 1920, 3)],
    }
    assert built_by_rtx(model, profile, tmp_path / "queries.onnx")
