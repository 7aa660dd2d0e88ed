# SPDX-License-Identifier: Apache-2.0
"""Compares which keys the attention of a segmenter by queries hides, on which all numbers behind it hang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from freqfusion.mask2former.predictor import HiddenKeys
from freqfusion_runtime.agreement.comparison import Comparison, compare
from freqfusion_runtime.agreement.tolerances import KEY_MARGINS
from numpy.typing import NDArray
from torch import Tensor, nn

from freqfusion_export.passes.label_stages import MODULE_KEY

HEAD = "sem_seg_head.predictor."


def hidden_values(graph: ir.Graph) -> list[str]:
    """Names of the values that say which keys are hidden, layer by layer; none of another kind of network."""
    nodes = [node for node in graph if (node.metadata_props.get(MODULE_KEY) or "").endswith(".hidden_keys")]
    return [str(node.outputs[0].name) for node in nodes if node.op_type == "And"]


class KeyRecorder:
    """Within it, keeps the logits by which a network in PyTorch hides keys, layer by layer.

    Args:
        network: In PyTorch.
        given: Keys to hide in place of those that the logits say, ``(N, Q, K)`` bool by layer; None for those.
    """

    def __init__(self, network: nn.Module, given: Sequence[NDArray[Any]] | None = None) -> None:
        self.logits: list[Tensor] = []
        self._modules = [module for module in network.modules() if isinstance(module, HiddenKeys)]
        self._given = given

    def __enter__(self) -> KeyRecorder:
        self._handles = [m.register_forward_hook(self._record) for m in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, _: nn.Module, inputs: tuple[Tensor], hidden: Tensor) -> Tensor:
        self.logits.append(inputs[0])
        return hidden if self._given is None else torch.from_numpy(self._given[len(self.logits) - 1])


def compare_keys(
    names: Sequence[str], found: Mapping[str, NDArray[Any]], logits: Sequence[Tensor], precision: str = "fp32"
) -> tuple[list[Comparison], bool]:
    """Compares the keys hidden in each layer.

    Args:
        names: Of what says it in the file, by layer.
        found: What that is.
        logits: Of PyTorch, by layer. Keys of an fp32 file are compared until one differs, behind which nothing can be;
            for other precisions PyTorch was given the file's keys, see :class:`KeyRecorder`, so that all layers are.
        precision: Of the file.

    Returns:
        A comparison a layer, which agrees if nothing differs but what rounding may decide; and whether what is behind
        can be held to its tolerance.
    """
    comparisons = []
    for layer, (name, expected) in enumerate(zip(names, logits, strict=True)):
        hidden = HiddenKeys()(expected).numpy()
        differs = found[name] != hidden
        is_explained = bool(undecided(expected, KEY_MARGINS[precision]).numpy()[differs].all())
        bound = inf if is_explained and differs.any() else 0.0
        title = f"keys hidden from layer {layer}"
        comparisons.append(
            compare("attention", title, found[name].astype(np.float32), hidden.astype(np.float32), bound)
        )
        if differs.any() and precision == "fp32":
            return comparisons, False
    return comparisons, True


def undecided(logits: Tensor, margin: float) -> Tensor:
    """Says which keys rounding may decide otherwise: those near zero, and all of a row whose largest logit is.

    Args:
        logits: ``(N, Q, K)``.
        margin: Over their deviation.

    Returns:
        ``(N, Q, K)`` bool.
    """
    near = logits.abs() < margin * logits.std()
    return near | (logits.amax(dim=-1, keepdim=True).abs() < margin * logits.std())
