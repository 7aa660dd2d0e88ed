# SPDX-License-Identifier: Apache-2.0
"""A detector in PyTorch behind the runtime's session interface, so that both have the same pre- and post-processing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from freqfusion import Checkpoint, native
from freqfusion.detection import Detector
from freqfusion_runtime.manifest import Manifest, TensorSpec
from freqfusion_runtime.session import OperatorPath
from numpy.typing import NDArray

from freqfusion_export.forms import form_of
from freqfusion_export.trace import OPSET

INPUTS = (
    TensorSpec("images", "float32", ("batch", 3, "height", "width")),
    TensorSpec("image_sizes", "int64", ("batch", 2)),
)


class DetectorSession:
    """Runs a detector in PyTorch.

    Args:
        network: In evaluation mode.
        path: Where its weights came from, for messages.
        manifest: Of the tensor interface; made by :func:`manifest_of` where there is no exported file.
        device: Where to run.
        by_definition: Compute FreqFusion's operators by their PyTorch definitions, even where native kernels are there.
    """

    def __init__(
        self, network: Detector, path: Path, manifest: Manifest, device: str = "cpu", by_definition: bool = False
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.provider = f"PyTorch {torch.__version__}, {device}"
        self.operator_paths: tuple[OperatorPath, ...] = ()
        self._network = network.to(device)
        self._device = device
        self._by_definition = by_definition

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes all outputs; see ``freqfusion_runtime.session.Session``."""
        tensors = [torch.from_numpy(inputs[spec.name]).to(self._device) for spec in INPUTS]
        with torch.inference_mode(), native.disabled() if self._by_definition else nullcontext():
            results = self._network(*tensors)
        return {name: value.cpu().numpy() for name, value in zip(self._network.output_names, results, strict=True)}


def manifest_of(network: Detector, name: str, checkpoint: Checkpoint | None) -> Manifest:
    """Describes a detector in PyTorch as an exported file of the tensor interface would."""
    form = form_of(network, checkpoint)
    slots = ("batch", 100)
    specs = {
        "num": TensorSpec("num", "int64", ("batch",)),
        "boxes": TensorSpec("boxes", "float32", (*slots, 4)),
        "scores": TensorSpec("scores", "float32", slots),
        "labels": TensorSpec("labels", "int64", slots),
        "masks": TensorSpec("masks", "float32", (*slots, 28, 28)),
        "semantic": TensorSpec("semantic", "float32", ("batch", "classes", "height/4", "width/4")),
    }
    return Manifest(
        model=name,
        task=form.task,
        interface="tensor",
        precision="fp32",
        opset=OPSET,
        num_classes=form.num_classes,
        num_things=form.num_things,
        inputs=INPUTS,
        outputs=tuple(specs[output] for output in network.output_names),
        weights="checkpoint" if checkpoint is not None and checkpoint.weights == "trained" else "random",
        classes=form.classes,
        palette=form.palette,
        preprocessing=form.preprocessing,
    )
