# SPDX-License-Identifier: Apache-2.0
"""What a detector in PyTorch looks like as an exported file of the tensor interface would."""

from __future__ import annotations

from freqfusion import Checkpoint
from freqfusion.detection import Detector
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec

from freqfusion_export.networks.forms import form_of
from freqfusion_export.networks.trace import OPSET

INPUTS = (
    TensorSpec("images", "float32", ("batch", 3, "height", "width")),
    TensorSpec("image_sizes", "int64", ("batch", 2)),
)


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
