# SPDX-License-Identifier: Apache-2.0
"""Suppression as matrices keeps the boxes that the standard operator and the loops keep."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import references
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_export.passes.unroll_nms import CANDIDATES, ROUNDS, UnrollNmsPass


def model(count: int, iou: float, score: float, most: int) -> ir.Model:
    attributes = f"iou_threshold: float = {iou}, score_threshold: float = {score}, max_kept: int = {most}"
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]>
        g (float[n, {count}, 4] boxes, float[n, {count}] scores) => (bool[n, {count}] kept) {{
            kept = freqfusion.Nms<{attributes}>(boxes, scores) }}"""
    )


def run(transformed: ir.Model, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    data = ir.to_proto(transformed).SerializeToString()
    return onnxruntime.InferenceSession(data).run(None, {"boxes": boxes, "scores": scores})[0]


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
@pytest.mark.parametrize("count", [1, 60, 200])
@pytest.mark.parametrize("form", ["standard", "unrolled"])
def test_keeps_what_the_loops_keep(form, count, limits):
    boxes, scores = draw(count)
    kept = run(
        AddFunctionBodiesPass()(model(count, *limits)).model if form == "standard" else unrolled(count, *limits),
        boxes,
        scores,
    )
    for i in range(3):
        expected = references.nms(boxes[i].astype(np.float64), scores[i].astype(np.float64), *limits)
        assert np.array_equal(kept[i], expected)


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


def test_a_chain_as_long_as_the_rounds_is_exact_and_a_longer_one_keeps_no_overlaps():
    count = 2 * ROUNDS
    left = np.arange(count) * 0.4
    boxes = np.stack((left, 0 * left, left + 1, 0 * left + 1), axis=1)[None].astype(np.float32)
    scores = np.linspace(1, 0.5, count)[None].astype(np.float32)
    kept = run(unrolled(count, 0.4, 0.0, 1000), boxes, scores)[0]
    expected = references.nms(boxes[0], scores[0], 0.4, 0.0, 1000)
    assert np.array_equal(kept[:ROUNDS], expected[:ROUNDS])
    assert not (kept[1:] & kept[:-1])[: ROUNDS - 1].any()


def test_only_the_best_take_part_where_few_are_wanted():
    boxes, scores = draw(2 * CANDIDATES)
    kept = run(unrolled(2 * CANDIDATES, 0.5, 0.0, 20), boxes, scores)
    for i in range(2):
        assert np.array_equal(kept[i], references.nms(boxes[i], scores[i], 0.5, 0.0, 20))
