# SPDX-License-Identifier: Apache-2.0
"""Writes non-maximum suppression as matrices, for TensorRT-RTX, which has no layer for it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN

# A box's fate is settled as many rounds in as the longest chain of overlaps above it; boxes beyond the last round are
# dropped if any box kept so far overlaps them.
ROUNDS = 24
# Best boxes of each set that take part where few are kept: matrices of the proposals of 80 classes would be a gigabyte.
CANDIDATES = 256


class UnrollNmsPass(ir.passes.InPlacePass):
    """Replaces ``Nms`` by a fixed number of rounds of "kept unless a better kept box overlaps".

    Without this pass ``Nms`` becomes the standard NonMaxSuppression, of which TensorRT-RTX 1.7 says that nothing
    implements it (NVIDIA/TensorRT-RTX issue 5). Both keep the same boxes, but for chains longer than ``ROUNDS`` and
    for sets of more than ``CANDIDATES`` boxes of which at most ``max_kept`` < ``CANDIDATES`` are wanted.

        Before: kept = freqfusion::Nms[iou_threshold=t, score_threshold=s, max_kept=m](boxes, scores)
        After:  top, index = TopK(scores, k);  o = overlaps of the boxes at index, above the diagonal, > t
                kept = top > s;  kept = kept and not kept @ o  (ROUNDS times)
                kept = ScatterElements(none, index, the first m of kept)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Nms" and node.domain == DOMAIN:
                _unroll(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _unroll(graph: ir.Graph, node: ir.Node) -> None:
    tape = ir.tape.Tape()
    boxes, scores = node.inputs
    assert boxes is not None
    assert scores is not None
    assert boxes.shape is not None
    available = boxes.shape[1]
    assert isinstance(available, int)
    limit, threshold = (node.attributes.get_float(f"{name}_threshold", 0.0) for name in ("iou", "score"))
    most = node.attributes.get_int("max_kept", 0)
    count = min(available, max(most, CANDIDATES))
    top, index = tape.op_multi_out("TopK", [scores, _integers(tape, count)], num_outputs=2, attributes={"axis": 1})
    last = _integers(tape, 2)
    wide = tape.op("Concat", [tape.op("Unsqueeze", [index, last])] * 4, {"axis": 2})
    overlaps = _overlaps(tape, tape.op("GatherElements", [boxes, wide], {"axis": 1}), limit)
    better = _constant(tape, np.triu(np.ones((count, count), np.float32), 1))  # better boxes have lower places
    overlaps = tape.op("Mul", [_float(tape, overlaps), better])
    candidate = tape.op("Unsqueeze", [_float(tape, tape.op("Greater", [top, _number(tape, threshold)])), last])
    candidate = tape.op("Transpose", [candidate], {"perm": [0, 2, 1]})  # (B, 1, count)
    kept = candidate
    for _ in range(ROUNDS):
        free = tape.op("Less", [tape.op("MatMul", [kept, overlaps]), _number(tape, 0.5)])
        kept = tape.op("Mul", [_float(tape, free), candidate])
    if most < count:
        rank = tape.op("MatMul", [kept, better])
        kept = tape.op("Mul", [kept, _float(tape, tape.op("Less", [rank, _number(tape, most - 0.5)]))])
    flat = tape.op("Squeeze", [kept, _integers(tape, 1)])
    none = tape.op("Mul", [scores, _number(tape, 0.0)])
    mask = tape.op("ScatterElements", [none, index, flat], {"axis": 1})
    result = tape.op("Greater", [mask, _number(tape, 0.5)])
    graph.insert_before(node, tape.nodes)
    old = node.outputs[0]
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _overlaps(tape: ir.tape.Tape, boxes: ir.Value, limit: float) -> ir.Value:
    """Returns where (B, M, 4) boxes overlap by more than ``limit``: (B, M, M) bool."""
    x1, y1, x2, y2 = tape.op_multi_out("Split", [boxes], num_outputs=4, attributes={"axis": 2, "num_outputs": 4})
    zero = _number(tape, 0.0)

    def shared(low: ir.Value, high: ir.Value) -> ir.Value:
        """Length shared along an axis, of every two boxes."""
        row, column = (tape.op("Transpose", [side], {"perm": [0, 2, 1]}) for side in (low, high))
        length = tape.op("Sub", [tape.op("Min", [high, column]), tape.op("Max", [low, row])])
        return tape.op("Max", [length, zero])

    intersection = tape.op("Mul", [shared(x1, x2), shared(y1, y2)])
    area = tape.op("Mul", [tape.op("Sub", [x2, x1]), tape.op("Sub", [y2, y1])])
    areas = tape.op("Add", [area, tape.op("Transpose", [area], {"perm": [0, 2, 1]})])
    union = tape.op("Max", [tape.op("Sub", [areas, intersection]), _number(tape, 1e-30)])
    return tape.op("Greater", [tape.op("Div", [intersection, union]), _number(tape, limit)])


def _integers(tape: ir.tape.Tape, *values: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": list(values)})


def _number(tape: ir.tape.Tape, value: float) -> ir.Value:
    return tape.op("Constant", [], {"value_float": float(value)})


def _constant(tape: ir.tape.Tape, array: np.ndarray) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.AttrTensor("value", ir.Tensor(array))})


def _float(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    return tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})
