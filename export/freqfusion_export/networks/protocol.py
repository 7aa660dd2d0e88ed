# SPDX-License-Identifier: Apache-2.0
"""What every kind of network says of itself, so that the exporter needs to know none of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir
import torch
from freqfusion_runtime.model_files.manifest import FreeSize, Preprocessing, Task, TensorSpec
from torch import Tensor

from freqfusion_export.errors import ExportError

Comparison = Literal["labels", "queries", "detections", "tensors"]
IMAGES = TensorSpec("images", "float32", ("batch", 3, "height", "width"))


@dataclass(frozen=True)
class Form(ABC):
    """One kind of network.

    Attributes:
        task: What it does.
        num_classes: Classes of the manifest.
        num_things: How many of them are things, for panoptic networks.
        classes: Names, if these classes are a known benchmark's.
        palette: Colours, likewise.
        preprocessing: Of the pictures; the official test pipeline unless told otherwise.
        outputs: Of the network itself, from ``inputs``; ``classes`` is a size that only the network knows.
        inputs: Of the network itself, in the order in which it takes them.
        is_own: Whether it is the user's own, whose code may be anything.
        comparison: How a written file is compared with the network; ``verification`` has the one of each name.
    """

    task: Task
    num_classes: int
    num_things: int | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    preprocessing: Preprocessing
    outputs: tuple[TensorSpec, ...]
    inputs: tuple[TensorSpec, ...] = (IMAGES,)
    is_own: bool = False

    comparison: ClassVar[Comparison]

    @property
    def refused(self) -> Mapping[str, str]:
        """What to say to those who ask for a precision that is not offered, by precision."""
        return {}

    def check_offers(self, precision: str) -> None:
        """Raises ``ExportError`` with the reason if networks of this kind are not written in a precision."""
        if precision in self.refused:
            raise ExportError(self.refused[precision])

    def examples(self, n: int, h: int, w: int) -> dict[str, Tensor]:
        """Makes inputs to trace the network with, ``n`` images of ``h`` x ``w``, by name."""
        return {IMAGES.name: torch.zeros(n, 3, h, w)}

    def trace_examples(self, size_divisor: int) -> dict[str, Tensor]:
        """Makes the inputs to trace with: sizes unlike each other and unlike 1, so that none is mistaken or fixed."""
        return self.examples(2, 3 * size_divisor, 4 * size_divisor)

    def free_sizes(self, size_divisor: int) -> dict[str, int]:
        """The names of the sizes that stay free, each with the number it is a multiple of."""
        return {"batch": 1, "height": size_divisor, "width": size_divisor}

    @property
    def shared_sizes(self) -> dict[str, FreeSize]:
        """What the manifest says of free sizes; see there. Those of pictures follow from the preprocessing."""
        return {}

    @abstractmethod
    def image_interface(self) -> ir.passes.PassBase:
        """Returns the pass that takes the traced network to pictures."""
