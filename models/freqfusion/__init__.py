# SPDX-License-Identifier: Apache-2.0
"""FreqFusion models in plain PyTorch, with the official names, shapes and numbers, and without mmcv.

Rooms, from the ground up:

    ops/               The operators of FreqFusion and of detectors, as ``torch.ops.freqfusion.*``.
    detection/         Faster R-CNN, Mask R-CNN and Panoptic FPN with FreqFusion in the pyramid, in the official names.
    mask2former/       Mask2Former on Swin with FreqFusion in its pixel decoder, in the official names.
    checkpoint_files/  How files with weights are read: by content, running nothing, and which entries count.
    configs/           What a training config says about testing: read as data, never executed.
    adoption/          Proves and replaces the FreqFusions that somebody's own network carries.
"""

from freqfusion.adoption import AdoptionReport, adopt
from freqfusion.checkpoint import Checkpoint, load_checkpoint, load_model, read_checkpoint
from freqfusion.demo import demo_checkpoint
from freqfusion.errors import AdoptionError, CheckpointError, FreqFusionError, UnknownModelError
from freqfusion.fusion import FreqFusion
from freqfusion.registry import create_model, describe_model, list_models, recognize_model

__all__ = [
    "AdoptionError",
    "AdoptionReport",
    "Checkpoint",
    "CheckpointError",
    "FreqFusion",
    "FreqFusionError",
    "UnknownModelError",
    "adopt",
    "create_model",
    "demo_checkpoint",
    "describe_model",
    "list_models",
    "load_checkpoint",
    "load_model",
    "read_checkpoint",
    "recognize_model",
]
