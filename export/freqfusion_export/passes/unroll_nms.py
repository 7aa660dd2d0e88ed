# SPDX-License-Identifier: Apache-2.0
"""Writes non-maximum suppression as matrices, for TensorRT-RTX, which has no layer for it."""

from __future__ import annotations

import math

import onnx_ir as ir
from freqfusion_runtime.predictors.object_network import UNSETTLED

from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN

BLOCK = 256
"""Boxes of consecutive ranks that are settled together, at most."""
ROUNDS = 24
"""A box is settled as many rounds in as the longest chain of overlaps above it within its block."""


class UnrollNmsPass(ir.passes.InPlacePass):
    """Replaces ``Nms`` by blocks of rounds of "kept unless a better kept box overlaps".

    Without this pass ``Nms`` becomes the standard NonMaxSuppression, of which TensorRT-RTX 1.7 says that nothing
    implements it (NVIDIA/TensorRT-RTX issue 5). Boxes are sorted and taken in blocks. A block first loses what kept
    boxes of earlier blocks overlap; then rounds settle it from the best box down, and more rounds change nothing any
    more. That is the exact answer unless more than ``ROUNDS`` of a block's boxes hang on each other in a chain. Whether
    they do is computed: the last round then still changes something, and ``num`` of that image becomes -1.

        Before: kept = freqfusion::Nms[iou_threshold=t, score_threshold=s, max_kept=m](boxes, scores)
        After:  top, index = TopK(scores);  for each block:  o = overlaps > t of better boxes with the block's
                free = relu(top > s - kept of better blocks @ o);  kept = relu(free - kept @ o)  (ROUNDS times)
                kept = ScatterElements(none, index, the first m of kept);  num = settled ? num : -1
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "Nms" and node.domain == DOMAIN]
        if nodes:
            _report(model.graph, [_unroll(model.graph, node) for node in nodes])
        return ir.passes.PassResult(model, modified=bool(nodes))


def _unroll(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """Replaces a node; returns how many boxes of each set are not settled, (B, 1, 1)."""
    tape = ir.tape.Tape()
    boxes, scores = node.inputs
    assert boxes is not None
    assert scores is not None
    assert boxes.shape is not None
    count = boxes.shape[1]
    assert isinstance(count, int)
    limit, threshold = (node.attributes.get_float(f"{name}_threshold", 0.0) for name in ("iou", "score"))
    most = node.attributes.get_int("max_kept", 0)
    top, index = tape.op_multi_out("TopK", [scores, _integers(tape, count)], num_outputs=2, attributes={"axis": 1})
    wide = tape.op("Concat", [tape.op("Unsqueeze", [index, _integers(tape, 2)])] * 4, {"axis": 2})
    ranked = tape.op("GatherElements", [boxes, wide], {"axis": 1})
    candidate = tape.op(
        "Unsqueeze", [_float(tape, tape.op("Greater", [top, _number(tape, threshold)])), _integers(tape, 1)]
    )
    kept: list[ir.Value] = []
    unsettled: list[ir.Value] = []
    for start, end in _blocks(count):
        block, rest = _settle(tape, ranked, candidate, kept, (start, end), limit)
        kept.append(block)
        unsettled.append(rest)
    result = tape.op("Concat", kept, {"axis": 2}) if len(kept) > 1 else kept[0]  # (B, 1, count)
    if most < count:
        rank = tape.op("MatMul", [result, _upper_triangle(tape, count)])
        result = tape.op("Mul", [result, _float(tape, tape.op("Less", [rank, _number(tape, most - 0.5)]))])
    flat = tape.op("Squeeze", [result, _integers(tape, 1)])
    none = tape.op("Mul", [scores, _number(tape, 0.0)])
    mask = tape.op("ScatterElements", [none, index, flat], {"axis": 1})
    result = tape.op("Greater", [mask, _number(tape, 0.5)])
    total = tape.op("Sum", unsettled)
    graph.insert_before(node, tape.nodes)
    old = node.outputs[0]
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return total


def _blocks(count: int) -> list[tuple[int, int]]:
    number = math.ceil(count / BLOCK)
    return [(count * i // number, count * (i + 1) // number) for i in range(number)]


def _settle(
    tape: ir.tape.Tape,
    boxes: ir.Value,
    candidate: ir.Value,
    better: list[ir.Value],
    block: tuple[int, int],
    limit: float,
) -> tuple[ir.Value, ir.Value]:
    """Decides which boxes of a block are kept.

    Args:
        tape: Gets the nodes.
        boxes: ``(B, M, 4)``, best first.
        candidate: ``(B, 1, M)``, 1 where a box takes part, else 0.
        better: What is kept of each block before.
        block: Its first box, and one past its last.
        limit: Of the overlap.

    Returns:
        ``(B, 1, block)``, 1 where a box is kept; and how many of them the last round changed, ``(B, 1, 1)``.
    """
    start, end = block
    own = _slice(tape, boxes, start, end, 1)
    free = _slice(tape, candidate, start, end, 2)
    if better:
        before = tape.op("Concat", better, {"axis": 2}) if len(better) > 1 else better[0]
        overlaps = _overlaps(tape, _slice(tape, boxes, 0, start, 1), own, limit)
        free = tape.op("Relu", [tape.op("Sub", [free, tape.op("MatMul", [before, overlaps])])])
    overlaps = tape.op("Mul", [_overlaps(tape, own, own, limit), _upper_triangle(tape, end - start)])
    kept = free
    for _ in range(ROUNDS):
        last, kept = kept, tape.op("Relu", [tape.op("Sub", [free, tape.op("MatMul", [kept, overlaps])])])
    changed = tape.op("Abs", [tape.op("Sub", [kept, last])])
    return kept, tape.op("ReduceSum", [changed, _integers(tape, 2)], {"keepdims": 1})


def _report(graph: ir.Graph, unsettled: list[ir.Value]) -> None:
    """Makes ``num`` (N,) -1 in images of which a set is not settled; the sets of an image follow each other."""
    position = next(i for i, output in enumerate(graph.outputs) if output.name == "num")
    num = graph.outputs[position]
    num.name = "num_unless_unsettled"
    tape = ir.tape.Tape()
    by_image = tape.op("Concat", [tape.op("Shape", [num]), _integers(tape, -1)], {"axis": 0})
    sums = [
        tape.op("ReduceSum", [tape.op("Reshape", [each, by_image]), _integers(tape, 1)], {"keepdims": 0})
        for each in unsettled
    ]
    settled = tape.op("Less", [tape.op("Sum", sums), _number(tape, 0.5)])
    marked = tape.op("Where", [settled, num, _integers(tape, UNSETTLED)])
    marked.name, marked.shape, marked.type = "num", num.shape, num.type
    graph.extend(tape.nodes)
    graph.outputs[position] = marked


def _overlaps(tape: ir.tape.Tape, a: ir.Value, b: ir.Value, limit: float) -> ir.Value:
    """Returns where boxes ``(B, I, 4)`` and ``(B, J, 4)`` overlap by more than ``limit``: ``(B, I, J)``, 1 or 0."""

    def sides(boxes: ir.Value, axis: int) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
        x1, y1, x2, y2 = tape.op_multi_out("Split", [boxes], num_outputs=4, attributes={"axis": axis, "num_outputs": 4})
        return x1, y1, x2, y2

    def area(x1: ir.Value, y1: ir.Value, x2: ir.Value, y2: ir.Value) -> ir.Value:
        return tape.op("Mul", [tape.op("Sub", [x2, x1]), tape.op("Sub", [y2, y1])])

    def shared(low: ir.Value, high: ir.Value, other_low: ir.Value, other_high: ir.Value) -> ir.Value:
        length = tape.op("Sub", [tape.op("Min", [high, other_high]), tape.op("Max", [low, other_low])])
        return tape.op("Max", [length, _number(tape, 0.0)])

    x1, y1, x2, y2 = sides(a, 2)
    u1, v1, u2, v2 = sides(tape.op("Transpose", [b], {"perm": [0, 2, 1]}), 1)
    intersection = tape.op("Mul", [shared(x1, x2, u1, u2), shared(y1, y2, v1, v2)])
    areas = tape.op("Add", [area(x1, y1, x2, y2), area(u1, v1, u2, v2)])
    union = tape.op("Max", [tape.op("Sub", [areas, intersection]), _number(tape, 1e-30)])
    return _float(tape, tape.op("Greater", [tape.op("Div", [intersection, union]), _number(tape, limit)]))


def _upper_triangle(tape: ir.tape.Tape, size: int) -> ir.Value:
    """Returns ``(size, size)``, 1 above the diagonal: better boxes have lower places."""
    zero, one = (tape.op("Constant", [], {"value_int": value}) for value in (0, 1))
    places = tape.op("Range", [zero, tape.op("Constant", [], {"value_int": size}), one])
    return _float(tape, tape.op("Less", [tape.op("Unsqueeze", [places, _integers(tape, 1)]), places]))


def _slice(tape: ir.tape.Tape, value: ir.Value, start: int, end: int, axis: int) -> ir.Value:
    return tape.op("Slice", [value, *(_integers(tape, number) for number in (start, end, axis))])


def _integers(tape: ir.tape.Tape, *values: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": list(values)})


def _number(tape: ir.tape.Tape, value: float) -> ir.Value:
    return tape.op("Constant", [], {"value_float": float(value)})


def _float(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    return tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})
