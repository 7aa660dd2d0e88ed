# SPDX-License-Identifier: Apache-2.0
"""What each group of layers loses in 8 bits, and which groups stay in fp32 until the loss is within a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from freqfusion_runtime.agreement.comparison import label_agreement, mean_iou
from freqfusion_runtime.sessions.kernel_library import usable_library
from numpy.typing import NDArray

from freqfusion_export.errors import ExportError
from freqfusion_export.precision.quantization import Quantization

LOGITS = "logits"
_UNDEFINED = -1  # the label where a score is infinite or not a number


@dataclass(frozen=True)
class GroupLoss:
    """One line of the sensitivity table: the network with this group alone in 8 bits.

    Attributes:
        group: Its name; ``all`` for everything together, ``kept`` for the final choice.
        layers: Convolutions in it.
        label_drop: Share of labels that differ from fp32, at the logits' size. Of a network without labels what its
            outputs are off by, root mean square over their standard deviation, the worst of them.
        miou_drop: 1 less the mean IoU between both label maps; None of a network without labels.
        is_kept: Whether it stays in fp32.
    """

    group: str
    layers: int
    label_drop: float
    miou_drop: float | None
    is_kept: bool = False


def settle(
    model: ir.Model,
    quantization: Quantization,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    max_drop: float,
    by_outputs: bool = False,
) -> tuple[Quantization, tuple[GroupLoss, ...]]:
    """Measures every group, then takes the worst ones out until the label drop is at most ``max_drop``.

    Args:
        model: All fp32.
        quantization: All layers that may be in 8 bits.
        feeds: Inputs by name, one run each.
        max_drop: As ``GroupLoss.label_drop``.
        by_outputs: Whether the network's outputs have no labels to lose.

    Raises:
        ExportError: If nothing would be left, or the network's own scores are not finite.
    """
    if by_outputs:
        return _settle_outputs(model, quantization, feeds, max_drop)
    expected = _labels(model, feeds, optimise=True)
    if (undefined := float((expected == _UNDEFINED).mean())) > 0:
        raise ExportError(
            f"{undefined:.1%} of the network's own class scores on the calibration pictures are infinite or not a "
            "number, so nothing can be lost against them. Look at its weights"
        )
    optimise = quantization.dtype != ir.DataType.FLOAT8E4M3FN  # see EIGHT_BIT_NOTE

    def loss(group: str, nodes: Sequence[str]) -> GroupLoss:
        labels = _labels(quantization.applied(model, nodes), feeds, optimise)
        return GroupLoss(group, len(nodes), 1 - label_agreement(labels, expected), 1 - mean_iou(labels, expected))

    return _taking_out_the_worst(quantization, loss, max_drop, "of the labels")


def _settle_outputs(
    model: ir.Model, quantization: Quantization, feeds: Sequence[Mapping[str, NDArray[Any]]], max_drop: float
) -> tuple[Quantization, tuple[GroupLoss, ...]]:
    optimise = quantization.dtype != ir.DataType.FLOAT8E4M3FN  # see EIGHT_BIT_NOTE
    expected = _outputs(model, feeds, optimise=True)
    if any(not np.isfinite(values).all() for values in expected):
        raise ExportError(
            "the network's own outputs on the calibration's arrays are infinite or not a number, so nothing can be "
            "lost against them. Look at its weights"
        )

    def loss(group: str, nodes: Sequence[str]) -> GroupLoss:
        found = _outputs(quantization.applied(model, nodes), feeds, optimise)
        return GroupLoss(group, len(nodes), max(map(relative_rms, found, expected), default=0.0), None)

    return _taking_out_the_worst(quantization, loss, max_drop, "of the outputs' deviation")


def relative_rms(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square of the error over the standard deviation of the reference; infinite for what is not a number."""
    spread = float(expected.std(dtype=np.float64)) or float(np.abs(expected).max()) or 1.0
    error = float(np.sqrt(np.mean((found.astype(np.float64) - expected) ** 2))) / spread
    return error if np.isfinite(error) else float("inf")


def _outputs(model: ir.Model, feeds: Sequence[Mapping[str, NDArray[Any]]], optimise: bool) -> list[NDArray[np.float64]]:
    """Each output of floats, over all inputs one after the other."""
    names = [str(value.name) for value in model.graph.outputs if value.dtype == ir.DataType.FLOAT]
    session = eight_bit_session(ir.to_proto(model).SerializeToString(), optimise)
    runs = [session.run(names, dict(feed)) for feed in feeds]
    return [np.concatenate([np.ravel(run[place]).astype(np.float64) for run in runs]) for place in range(len(names))]


def _taking_out_the_worst(
    quantization: Quantization, loss: Callable[[str, Sequence[str]], GroupLoss], max_drop: float, of_what: str
) -> tuple[Quantization, tuple[GroupLoss, ...]]:
    members: dict[str, list[str]] = {}
    for node, group in quantization.nodes.items():
        members.setdefault(group, []).append(node)
    lines = sorted((loss(*item) for item in members.items()), key=lambda line: -line.label_drop)
    kept: list[str] = []
    total = loss("all", list(quantization.nodes))
    final = total
    while not final.label_drop <= max_drop:
        if len(kept) + 1 >= len(lines):
            raise ExportError(
                f"8 bits change {final.label_drop:.1%} {of_what} even with only {final.layers} layers in them, "
                f"more than the {max_drop:.1%} allowed. Raise --max-drop, or export fp16."
            )
        kept.append(lines[len(kept)].group)
        final = loss("kept", [node for node, group in quantization.nodes.items() if group not in kept])
    table = [replace(line, is_kept=line.group in kept) for line in lines]
    nodes = {node: group for node, group in quantization.nodes.items() if group not in kept}
    return replace(quantization, nodes=nodes), (*table, total, replace(final, group="kept"))


def _labels(model: ir.Model, feeds: Sequence[Mapping[str, NDArray[Any]]], optimise: bool) -> NDArray[np.int64]:
    """The best class of every logit position of every picture, one after the other; -1 where a score is not finite."""
    probed = ir.from_proto(ir.to_proto(model))
    if LOGITS not in {value.name for value in probed.graph.outputs}:
        probed.graph.outputs.append(next(v for node in probed.graph for v in node.outputs if v.name == LOGITS))
    session = eight_bit_session(ir.to_proto(probed).SerializeToString(), optimise)
    found = []
    for feed in feeds:
        (logits,) = session.run([LOGITS], dict(feed))
        # argmax takes what is not a number for the largest, so broken scores would be equal labels
        best = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), _UNDEFINED)
        found.append(best.ravel())
    return np.concatenate(found)


EIGHT_BIT_NOTE = (
    "ONNX Runtime 1.32's logits of an fp8 file were off by 130 % of their deviation with its optimisations on, by 12 % "
    "with them off; presumably it removes a ReLU before a QuantizeLinear whose zero point's byte is 0, as it may for "
    "uint8. So they are switched off for fp8"
)


def eight_bit_session(content: bytes | str, optimise: bool) -> Any:
    """Opens a quantised network on ONNX Runtime's CPU provider."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if (library := usable_library()) is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
