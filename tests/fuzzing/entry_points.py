# SPDX-License-Identifier: Apache-2.0
"""Where inputs of strangers enter, by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

# Module and class; imported in the process that needs it: torch takes seconds, and a server's client has no use for it.
ENTRY_POINTS = {
    "http_json": "server_inputs.HttpJson",
    "http_binary": "server_inputs.HttpBinary",
    "http_image": "server_inputs.HttpImage",
    "grpc": "server_inputs.Grpc",
    "checkpoint": "checkpoint_inputs.Checkpoint",
    "training_config": "checkpoint_inputs.TrainingConfig",
    "onnx": "model_inputs.OnnxFile",
    "onnx_opened": "model_inputs.OpenedOnnxFile",
    "manifest": "model_inputs.ManifestText",
    "plan_manifest": "model_inputs.PlanManifestFile",
    "npz": "model_inputs.ReferenceFile",
    "annotations": "dataset_inputs.Annotations",
    "label_png": "dataset_inputs.LabelPng",
    "picture_list": "dataset_inputs.PictureList",
}


def open_point(place: str, folder: Path) -> Any:
    """Makes an entry point of its module and class, with a folder to write into."""
    module, _, name = place.partition(".")
    return getattr(importlib.import_module(f"fuzzing.{module}"), name)(folder)
