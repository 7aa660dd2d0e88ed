# SPDX-License-Identifier: Apache-2.0
"""Runs a PyTorch network on pictures as parity does: plain definitions of the operators, official pre-processing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from freqfusion import native
from freqfusion.detection import Detector
from freqfusion_runtime.agreement.reference_data import RecordedSession
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.predictors.loading import predictor_of
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from freqfusion_export.networks.detector import DetectorForm
from freqfusion_export.networks.label_maps import labels_by_pytorch
from freqfusion_export.networks.manifests import network_outputs


@dataclass(frozen=True, eq=False)
class OperatorCall:
    """One call of a FreqFusion operator: its PyTorch name, its tensors, its result."""

    operator: str
    inputs: tuple[Tensor, ...]
    output: Tensor


class RecordOperators(TorchDispatchMode):
    """Keeps every call of a FreqFusion operator made within it, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[OperatorCall] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "freqfusion":
            inputs = tuple(value for value in args if isinstance(value, Tensor))
            self.calls.append(OperatorCall(func._opname, inputs, result))
        return result


def run_pytorch(network: nn.Module, manifest: Manifest, photo: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Computes the network's outputs, by name."""
    images = torch.from_numpy(prepare(photo, manifest.preprocessing))
    with torch.inference_mode(), native.disabled():
        if not isinstance(network, Detector):
            return {
                name: value.numpy() for name, value in outputs_of(network, network_outputs(manifest), images).items()
            }
        sizes = torch.tensor([keep_ratio_size(photo.shape[0], photo.shape[1], manifest.preprocessing)])
        outputs = network(images, sizes)
    return {name: value.numpy() for name, value in zip(network.output_names, outputs, strict=True)}


def outputs_of(network: nn.Module, specs: Sequence[TensorSpec], images: Tensor) -> dict[str, Tensor]:
    """What a segmenter computes, by the names that a file of it has for that."""
    found = network(images)
    values = (found,) if isinstance(found, Tensor) else found
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}


def labels_of(outputs: Mapping[str, NDArray[Any]], manifest: Manifest, photo: NDArray[np.uint8]) -> NDArray[Any]:
    """The label map at the picture's size, by PyTorch's definition of every step."""
    size = photo.shape[0], photo.shape[1]
    tensors = {name: torch.from_numpy(value) for name, value in outputs.items()}
    labels: NDArray[Any] = labels_by_pytorch(tensors, size, manifest.preprocessing)[0]
    return labels


def pytorch_manifest(manifest: Manifest, network: nn.Module) -> Manifest:
    """An exported file's manifest as it is for the network itself."""
    if isinstance(network, Detector):
        return replace(manifest, interface="tensor", precision="fp32", inputs=DetectorForm.inputs)
    return manifest


def objects_of(outputs: Mapping[str, NDArray[Any]], manifest: Manifest, path: Path, photo: NDArray[np.uint8]) -> Any:
    """What a detector's outputs say of a picture; ``manifest`` as :func:`pytorch_manifest` gives it."""
    return predictor_of(RecordedSession(path, manifest, outputs)).predict(photo)
