# SPDX-License-Identifier: Apache-2.0
"""What a user says of a network of their own, and the form that makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from freqfusion_runtime.model_files.manifest import Interface, Preprocessing
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.own_network import Dynamic, Inputs, describe_network
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.segmenter import SegmenterForm

OwnTask = Literal["network", "semantic_segmentation"]
_TASKS = ("network", "semantic_segmentation")


@dataclass(frozen=True)
class OwnNetwork:
    """Arguments of ``freqfusion_export.export`` that describe a network of the user's own; see there.

    Raises:
        ExportError: If one is not to be had, or says nothing to this task.
    """

    task: OwnTask | None = None
    inputs: Inputs | None = None
    outputs: Sequence[str] | None = None
    dynamic: Dynamic | None = None
    classes: Sequence[str] = ()
    palette: Sequence[tuple[int, int, int]] = ()

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in _TASKS:
            raise ExportError(f"task must be one of {', '.join(_TASKS)}, got {self.task!r}")
        if self.task == "semantic_segmentation":
            if self.inputs is not None or self.outputs is not None or self.dynamic is not None:
                raise ExportError(
                    "a semantic segmenter's tensors are known: images (batch, 3, height, width), and class scores; "
                    "leave inputs, outputs and dynamic out, and give the multiple of its sides as size_divisor of "
                    "preprocessing"
                )
            if not self.classes:
                raise ExportError(
                    "a semantic segmenter needs the names of its classes; give classes, in the scores' order"
                )
        elif self.inputs is None and self.is_told:
            raise ExportError(
                "a network of one's own needs example inputs; give such as inputs={'images': torch.zeros(1, 3, 64, 64)}"
            )
        elif self.classes or self.palette:
            raise ExportError(
                "classes are of a network whose scores are known; give task='semantic_segmentation', or leave them out"
            )

    @property
    def is_told(self) -> bool:
        """Whether there is any; else the network is a registered one."""
        return not (self.task is None and self.inputs is None and self.outputs is None and self.dynamic is None)

    @property
    def usual_interface(self) -> Interface:
        """That of a file if none is asked for."""
        return "tensor" if self.is_told and self.task != "semantic_segmentation" else "image"

    def form(self, network: nn.Module, interface: Interface, preprocessing: Preprocessing | None) -> Form:
        """Finds out what the network takes and puts out.

        Raises:
            ExportError: If that is not what was said.
        """
        if self.task == "semantic_segmentation":
            if preprocessing is None:
                raise ExportError(
                    "a semantic segmenter needs to know how its pictures were prepared; give "
                    "preprocessing=Preprocessing(mean=..., std=..., size_divisor=..., short_side=...) as in training"
                )
            return SegmenterForm.of_own(network, self.classes, self.palette, preprocessing)
        assert self.inputs is not None
        form = describe_network(network, self.inputs, self.outputs, self.dynamic, preprocessing)
        if interface == "image":
            form.image_interface()
        return form
