# SPDX-License-Identifier: Apache-2.0
"""Suppression as matrices keeps the boxes that the standard operator and the loops keep."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import references
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_export.passes.unroll_nms import BLOCK, ROUNDS, UnrollNmsPass
from freqfusion_runtime.predictors.object_network import UNSETTLED


def model(count: int, iou: float, score: float, most: int) -> ir.Model:
    attributes = f"iou_threshold: float = {iou}, score_threshold: float = {score}, max_kept: int = {most}"
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
        g (float[n, {count}, 4] boxes, float[n, {count}] scores) => (bool[n, {count}] kept, int64[n] num) {{
            kept = freqfusion.Nms<{attributes}>(boxes, scores)
            counts = Cast<to = 7>(kept)
            axis = Constant<value_ints = [1]>()
            num = ReduceSum<keepdims = 0>(counts, axis) }}"""
    )


def run(transformed: ir.Model, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    data = ir.to_proto(transformed).SerializeToString()
    kept, num = onnxruntime.InferenceSession(data).run(None, {"boxes": boxes, "scores": scores})
    return kept, num


def unrolled(*arguments: float) -> ir.Model:
    return UnrollNmsPass()(model(*arguments)).model


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    corners = 90 * generator.random((3, count, 2))
    boxes = np.concatenate((corners, corners + 40 * generator.random((3, count, 2))), axis=2).astype(np.float32)
    boxes[:, ::9, 2] = boxes[:, ::9, 0]
    scores = generator.random((3, count)).astype(np.float32)
    scores[2] = 0
    return boxes, scores


@pytest.mark.parametrize("limits", [(0.7, 0.0, 1000), (0.5, 0.3, 100), (0.3, 0.05, 20)], ids=str)
@pytest.mark.parametrize("count", [1, 60, 257])
@pytest.mark.parametrize("form", ["standard", "unrolled"])
def test_keeps_what_the_loops_keep(form, count, limits):
    boxes, scores = draw(count)
    written = AddFunctionBodiesPass()(model(count, *limits)).model if form == "standard" else unrolled(count, *limits)
    kept, num = run(written, boxes, scores)
    for i in range(3):
        expected = references.nms(boxes[i].astype(np.float64), scores[i].astype(np.float64), *limits)
        assert np.array_equal(kept[i], expected)
    assert np.array_equal(num, kept.sum(axis=1))


def test_the_standard_form_has_the_standard_operator_in_line():
    written = AddFunctionBodiesPass()(model(60, 0.5, 0.3, 100)).model
    assert "NonMaxSuppression" in [node.op_type for node in written.graph]
    assert not written.functions


def test_the_unrolled_form_has_operators_every_runtime_knows():
    names = {node.op_type for node in unrolled(60, 0.5, 0.3, 100).graph}
    assert not {"NonMaxSuppression", "NonZero", "Loop", "If", "Nms"} & names


def test_a_second_run_changes_nothing():
    written = unrolled(60, 0.5, 0.3, 100)
    assert not UnrollNmsPass()(written).modified


def chain(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of which each overlaps the next by 0.43."""
    left = np.arange(count) * 0.4
    boxes = np.stack((left, 0 * left, left + 1, 0 * left + 1), axis=1)[None].astype(np.float32)
    return boxes, np.linspace(1, 0.5, count)[None].astype(np.float32)


@pytest.mark.parametrize(("length", "settled"), [(ROUNDS - 1, True), (ROUNDS, True), (ROUNDS + 1, False)])
def test_a_chain_longer_than_the_rounds_is_told(length, settled):
    boxes, scores = chain(length)
    kept, num = run(unrolled(length, 0.4, 0.0, 1000), boxes, scores)
    expected = references.nms(boxes[0], scores[0], 0.4, 0.0, 1000)
    assert num.tolist() == ([expected.sum()] if settled else [UNSETTLED])
    assert not settled or np.array_equal(kept[0], expected)


def test_a_chain_through_blocks_is_exact_while_no_block_has_more_of_it_than_rounds():
    # The last boxes of the first block and the first of the second, as many as rounds of each, are one chain.
    boxes, scores = chain(2 * BLOCK)
    left = 1000.0 + 2 * np.arange(2 * BLOCK)
    left[BLOCK - ROUNDS : BLOCK + ROUNDS] = 0.4 * np.arange(2 * ROUNDS)
    boxes[0, :, 0], boxes[0, :, 2] = left, left + 1
    kept, num = run(unrolled(2 * BLOCK, 0.4, 0.0, 1000), boxes, scores)
    expected = references.nms(boxes[0], scores[0], 0.4, 0.0, 1000)
    assert np.array_equal(kept[0], expected)
    assert num.tolist() == [2 * BLOCK - ROUNDS]


def test_only_the_picture_that_is_not_settled_is_told():
    (good, scores), (bad, falling) = draw(60), chain(60)
    feed = np.concatenate((good[:1], bad, good[1:2])), np.concatenate((scores[:1], falling, scores[1:2]))
    kept, num = run(unrolled(60, 0.4, 0.0, 1000), *feed)
    assert num.tolist() == [kept[0].sum(), UNSETTLED, kept[2].sum()]
