# SPDX-License-Identifier: Apache-2.0
"""Which nodes stay in fp32 when the rest of a network goes to a half type, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from freqfusion_export.errors import ExportError
from freqfusion_export.passes.label_stages import MODULE_KEY, STAGE_KEY
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Island:
    """A rule that keeps nodes in fp32.

    Attributes:
        name: As listings and the manifest show it.
        reason: What is lost without it.
        operators: Every node of these types belongs to it.
        modules: Every node whose module (``freqfusion.module``) matches one of these patterns does.
        feeds: Operator type and index of an input: everything that computes this input does, back to the nearest
            weighted layer, which is not part of it.
        outputs: Names of network outputs: everything that computes them does, in the same way.
        sources: Whether what belongs to no module, and is read by such nodes alone, does too: how weights are cut up.
        follows: Whether what is computed from all these does too, on to the next weighted layer, FreqFusion node or
            network output.
    """

    name: str
    reason: str
    operators: frozenset[str] = frozenset()
    modules: tuple[str, ...] = ()
    feeds: tuple[tuple[str, int], ...] = ()
    outputs: tuple[str, ...] = ()
    sources: bool = False
    follows: bool = False


# Figures: official goldens and inputs (seed 0), emulated with every rounding, 2026-11; docs/precision.md has them all.
# What the FreqFusion operators hold in fp32 is inside their nodes: similarity, softmax over taps, sampling coordinates.
ISLANDS = (
    Island(
        "factorisation",
        "products grow with the picture: 142 at 128 x 128, 2362 at 512 x 512, 9439 at 512 x 2048 of fp16's 65504; "
        "without it the logits' error rises by 3 % in fp16, 2 % in bf16",
        modules=("*.hamburger.ham",),
    ),
    Island(
        "normalisation statistics",
        "a group's sum of squares is 7.8e3 at 128 x 128, 1.2e5 at 512 x 512, 4.8e5 at 512 x 2048 of fp16's 65504, "
        "and no attribute of InstanceNormalization asks for sums in fp32",
        operators=frozenset(
            {"InstanceNormalization", "GroupNormalization", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"}
        ),
    ),
    Island(
        "softmax",
        "fp16 ends at e ** 11.1, and a share below 6e-8 of the largest becomes zero",
        operators=frozenset({"Softmax", "LogSoftmax", "ReduceLogSumExp", "Exp", "Log"}),
    ),
    Island(
        "coordinates",
        "above 1024 fp16 holds whole pixels only, above 256 bf16 every second; scores an ulp apart change their order; "
        "areas of boxes reach 1e6 of fp16's 65504",
        operators=frozenset({"NonMaxSuppression", "TopK", "GridSample"}),
        # Not OffsetResample: its offsets are a few pixels, and typing what computes them changed no figure. Its
        # absolute coordinates are fp32 inside the node; in half they cost 19 % more error and 0.14 % of the labels.
        feeds=(
            ("GridSample", 1),
            ("PyramidRoiAlign", 4),
            ("NonMaxSuppression", 0),
            ("NonMaxSuppression", 1),
            ("TopK", 0),
        ),
        outputs=("boxes", "scores"),
        # From decoded boxes to overlaps, thresholds and the detections that are left.
        follows=True,
    ),
    Island(
        "hidden keys",
        "signs of logits decide what queries look at, and one that flips may change a tenth of what follows; the "
        "official code computes its pixel decoder in fp32, too",
        modules=("sem_seg_head*",),
        sources=True,
    ),
)
USER = "asked for"
RANGE = "out of range in calibration"
WEIGHTS = "weights out of range"


def find_islands(
    model: ir.Model, dtype: ir.DataType, keep: Sequence[str] = (), without: Iterable[str] = ()
) -> dict[ir.Node, str]:
    """Assigns nodes to islands.

    Args:
        model: Still in fp32 throughout.
        dtype: The half type.
        keep: Patterns (``fnmatch``) of node, module or stage names that are kept as well.
        without: Names of islands to leave out, to measure what they are for.

    Returns:
        The island's name by node.

    Raises:
        ExportError: If a pattern matches nothing.
    """
    found: dict[ir.Node, str] = {}
    skipped = set(without)
    for island in ISLANDS:
        if island.name in skipped:
            continue
        for node in model.graph:
            if node.op_type in island.operators or _matches(node.metadata_props.get(MODULE_KEY), island.modules):
                found.setdefault(node, island.name)
        for node in (*_feeding(model.graph, island.feeds), *_computing(model.graph, island.outputs)):
            found.setdefault(node, island.name)
        if island.sources:
            for node in _sources([node for node, name in found.items() if name == island.name]):
                found.setdefault(node, island.name)
        if island.follows:
            for node in _following([node for node, name in found.items() if name == island.name]):
                found.setdefault(node, island.name)
    for pattern in keep:
        matched = nodes_matching(model.graph, pattern)
        if not matched:
            raise ExportError(
                f"no node, module or stage is called {pattern!r}; `freqfusion parity --layers` lists the stages"
            )
        for node in matched:
            found.setdefault(node, USER)
    for node in model.graph:
        if any(_leaves_range(value, dtype) for value in node.inputs):
            found.setdefault(node, WEIGHTS)
    return found


def nodes_matching(graph: ir.Graph, pattern: str) -> list[ir.Node]:
    """Lists the nodes whose name, stage or module matches an ``fnmatch`` pattern, or lies inside a module that does."""
    return [
        node
        for node in graph
        if fnmatchcase(node.name or "", pattern)
        or _matches(node.metadata_props.get(STAGE_KEY), (pattern, f"{pattern}.*"))
        or _matches(node.metadata_props.get(MODULE_KEY), (pattern, f"{pattern}.*"))
    ]


def reasons() -> Mapping[str, str]:
    """The reason of every island by its name."""
    return {
        **{island.name: island.reason for island in ISLANDS},
        RANGE: "a value leaves the half type's range on a calibration picture, or comes within a factor of 4 of it",
        USER: "named by --keep-fp32",
        WEIGHTS: "a weight is beyond the half type's range, or all of a tensor's weights are below its normal numbers",
    }


def _matches(name: str | None, patterns: Iterable[str]) -> bool:
    return name is not None and any(fnmatchcase(name, pattern) for pattern in patterns)


def _feeding(graph: ir.Graph, feeds: Sequence[tuple[str, int]]) -> list[ir.Node]:
    """Lists what computes inputs, back to the weighted layers."""
    indices = dict[str, list[int]]()
    for operator, index in feeds:
        indices.setdefault(operator, []).append(index)
    return _back_from(
        node.inputs[index] for node in graph for index in indices.get(node.op_type, ()) if index < len(node.inputs)
    )


def _computing(graph: ir.Graph, outputs: Sequence[str]) -> list[ir.Node]:
    """Lists what computes network outputs, back to the weighted layers."""
    return _back_from(value for value in graph.outputs if value.name in outputs)


def _back_from(values: Iterable[ir.Value | None]) -> list[ir.Node]:
    waiting = list(values)
    seen: dict[ir.Node, None] = {}
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is None or node in seen or _is_layer(node) or not _is_float(value):
            continue
        seen[node] = None
        waiting.extend(node.inputs)
    return list(seen)


def _sources(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Lists what belongs to no module and is read by these nodes alone, directly or through each other."""
    seen = dict.fromkeys(nodes)
    waiting = list(seen)
    while waiting:
        for value in waiting.pop().inputs:
            node = None if value is None else value.producer()
            if node is None or node in seen or MODULE_KEY in node.metadata_props:
                continue
            if all(use.node in seen for output in node.outputs for use in output.uses()):
                seen[node] = None
                waiting.append(node)
    return list(seen)


def _following(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Lists what reads floats of these nodes, and so on up to the weighted layers and FreqFusion's nodes."""
    waiting = list(nodes)
    seen: dict[ir.Node, None] = {}
    while waiting:
        for value in waiting.pop().outputs:
            for use in value.uses() if _is_float(value) else ():
                if use.node not in seen and not _is_layer(use.node):
                    seen[use.node] = None
                    waiting.append(use.node)
    return list(seen)


def _is_layer(node: ir.Node) -> bool:
    return node.op_type in _WEIGHTED or node.domain == DOMAIN


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in (ir.DataType.FLOAT, None)


def _leaves_range(value: ir.Value | None, dtype: ir.DataType) -> bool:
    """Whether a constant holds numbers that the half type cannot."""
    if value is None or value.const_value is None or value.const_value.dtype != ir.DataType.FLOAT:
        return False
    magnitude = float(np.abs(value.const_value.numpy()).max(initial=0.0))
    limits = LIMITS[dtype]
    return magnitude > limits.largest or 0 < magnitude < limits.smallest_normal


@dataclass(frozen=True)
class Limits:
    """What a half type can hold.

    Attributes:
        largest: The largest finite number.
        smallest_normal: Below this, digits are lost one by one.
        smallest: Half of this and below becomes zero.
    """

    largest: float
    smallest_normal: float
    smallest: float


LIMITS = {
    ir.DataType.FLOAT16: Limits(65504.0, 2.0**-14, 2.0**-24),
    ir.DataType.BFLOAT16: Limits(3.3895313892515355e38, 2.0**-126, 2.0**-133),
}
