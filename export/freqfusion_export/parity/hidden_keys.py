# SPDX-License-Identifier: Apache-2.0
"""Compares which keys the attention of a segmenter by queries hides, on which all numbers behind it hang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import onnx_ir as ir
from freqfusion.mask2former.predictor import HiddenKeys
from freqfusion_runtime.agreement.comparison import Comparison, compare
from numpy.typing import NDArray
from torch import Tensor, nn

from freqfusion_export.passes.label_stages import MODULE_KEY

# A logit within this of zero, in deviations, may be hidden by one right computation and seen by another: ten times what
# fp32 differs from fp64 by (the reference's SPEC, section 9), as parity looks at pictures of any size.
UNDECIDED = 4e-5
HEAD = "sem_seg_head.predictor."


def hidden_values(graph: ir.Graph) -> list[str]:
    """Names of the values that say which keys are hidden, layer by layer; none of another kind of network."""
    nodes = [node for node in graph if (node.metadata_props.get(MODULE_KEY) or "").endswith(".hidden_keys")]
    return [str(node.outputs[0].name) for node in nodes if node.op_type == "And"]


class KeyRecorder:
    """Within it, keeps the logits by which a network in PyTorch hides keys, layer by layer."""

    def __init__(self, network: nn.Module) -> None:
        self.logits: list[Tensor] = []
        self._modules = [module for module in network.modules() if isinstance(module, HiddenKeys)]

    def __enter__(self) -> KeyRecorder:
        self._handles = [m.register_forward_pre_hook(lambda _, x: self.logits.append(x[0])) for m in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def compare_keys(
    names: Sequence[str], found: Mapping[str, NDArray[Any]], logits: Sequence[Tensor]
) -> tuple[list[Comparison], bool]:
    """Compares the keys hidden in each layer, until one differs.

    Returns:
        A comparison a layer, which agrees if nothing differs but rows with a key that rounding may decide; and whether
        nothing differs, so that what is behind can be held to its tolerance.
    """
    comparisons = []
    for layer, (name, expected) in enumerate(zip(names, logits, strict=True)):
        hidden = HiddenKeys()(expected).numpy()
        rows = (found[name] != hidden).any(axis=-1)
        nearest = (expected.abs().amin(dim=-1) / expected.std()).numpy()
        is_explained = bool((nearest[rows] < UNDECIDED).all())
        title = f"keys hidden from layer {layer}"
        bound = inf if is_explained and rows.any() else 0.0
        comparisons.append(
            compare("attention", title, found[name].astype(np.float32), hidden.astype(np.float32), bound)
        )
        if rows.any():
            return comparisons, False
    return comparisons, True
