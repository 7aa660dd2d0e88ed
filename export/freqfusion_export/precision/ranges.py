# SPDX-License-Identifier: Apache-2.0
"""Finds the values of an fp32 network that a half type could not hold, by running pictures through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from freqfusion_runtime.sessions.kernel_library import usable_library
from numpy.typing import NDArray

from freqfusion_export.passes.assign_precision import MOVEMENT
from freqfusion_export.precision.islands import LIMITS

# How much larger a value may be on a picture that was not among the calibration's.
MARGIN = 4.0


@dataclass(frozen=True)
class OutOfRange:
    """A value that the half type cannot hold.

    Attributes:
        value: Its name.
        node: Name of the node that computes it.
        reason: ``overflow``, ``underflow`` (all of it below the type's normal numbers), or ``divisor`` (part of it
            becomes zero and something is divided by it).
        magnitude: The largest, or for a divisor the smallest, absolute number seen.
    """

    value: str
    node: str
    reason: str
    magnitude: float

    def __str__(self) -> str:
        extreme = "smallest" if self.reason == "divisor" else "largest"
        return f"{self.node}: {self.reason}, {extreme} magnitude {self.magnitude:.3g}"


def scan(
    model: ir.Model, dtype: ir.DataType, feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> tuple[list[OutOfRange], set[ir.Node]]:
    """Runs an fp32 network and compares every float value with a half type's range.

    Args:
        model: All fp32; not changed.
        dtype: The half type.
        feeds: Inputs by name, picture by picture.

    Returns:
        What was found, and the nodes of ``model`` that must then stay in fp32: those that compute such a value and
        those that read it, through nodes that only move it.
    """
    limits = LIMITS[dtype]
    largest, smallest = extremes(model, feeds)
    values = {value.name: value for node in model.graph for value in node.outputs if value.name in largest}
    found, kept = [], set[ir.Node]()
    for name, value in values.items():
        node = value.producer()
        assert name is not None
        assert node is not None
        reason, magnitude = None, largest[name]
        if not largest[name] * MARGIN <= limits.largest:
            reason = "overflow"
        elif 0 < largest[name] < limits.smallest_normal:
            reason = "underflow"
        elif _divides(value) and 0 < smallest[name] < limits.smallest * MARGIN:
            reason, magnitude = "divisor", smallest[name]
        if reason is not None:
            found.append(OutOfRange(name, node.name or node.op_type, reason, magnitude))
            kept.add(node)
            kept.update(_readers(value))
    return found, kept


def extremes(model: ir.Model, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> tuple[dict[str, float], dict[str, float]]:
    """The largest and the smallest non-zero magnitude of every float value that is computed, by name."""
    probed = ir.from_proto(ir.to_proto(model))
    names: list[str] = []
    for node in list(probed.graph):
        for value in node.outputs:
            if value.name and value.dtype == ir.DataType.FLOAT and node.op_type not in MOVEMENT:
                names.append(value.name)
                _reduce(probed.graph, value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if (library := usable_library()) is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(ir.to_proto(probed).SerializeToString(), options)
    wanted = [f"{name}{suffix}" for name in names for suffix in (_LARGEST, _SMALLEST)]
    largest, smallest = dict.fromkeys(names, 0.0), dict.fromkeys(names, np.inf)
    for feed in feeds:
        results = session.run(wanted, dict(feed))
        for name, high, low in zip(names, results[::2], results[1::2], strict=True):
            # Not max(): a NaN must come out as one.
            largest[name] = float(np.maximum(largest[name], high))
            smallest[name] = float(np.minimum(smallest[name], low))
    return largest, smallest


_LARGEST, _SMALLEST = "/largest", "/smallest"


def _reduce(graph: ir.Graph, value: ir.Value) -> None:
    """Adds two numbers to the network's outputs; whole tensors of every stage would be a gigabyte."""
    size = ir.node("Abs", [value])
    high = ir.node("ReduceMax", [size.outputs[0]], {"keepdims": 0}, name=f"{value.name}{_LARGEST}")
    # Zeros do not count: nothing is lost when they stay zeros.
    zero = ir.node("Constant", [], {"value_float": 0.0})
    infinity = ir.node("Constant", [], {"value_float": float("inf")})
    is_zero = ir.node("Equal", [size.outputs[0], zero.outputs[0]])
    filled = ir.node("Where", [is_zero.outputs[0], infinity.outputs[0], size.outputs[0]])
    low = ir.node("ReduceMin", [filled.outputs[0]], {"keepdims": 0}, name=f"{value.name}{_SMALLEST}")
    graph.extend([size, high, zero, infinity, is_zero, filled, low])
    for node, suffix in ((high, _LARGEST), (low, _SMALLEST)):
        output = node.outputs[0]
        output.name, output.type, output.shape = f"{value.name}{suffix}", ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        graph.outputs.append(output)


def _divides(value: ir.Value) -> bool:
    return any(
        (use.node.op_type == "Div" and use.idx == 1) or use.node.op_type in ("Reciprocal", "Log")
        for use in value.uses()
    )


def _readers(value: ir.Value) -> set[ir.Node]:
    readers = set[ir.Node]()
    for use in value.uses():
        readers.add(use.node)
        if use.node.op_type in MOVEMENT:
            for output in use.node.outputs:
                readers |= _readers(output)
    return readers
