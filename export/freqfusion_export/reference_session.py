# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model of a checkpoint behind the runtime's session interface, to be served beside files made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from freqfusion import load_model, native
from freqfusion.errors import FreqFusionError
from freqfusion_runtime.errors import InputError, ModelFileError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.manifest import Manifest, TensorSpec
from freqfusion_runtime.serving.registry import ModelSource
from freqfusion_runtime.session import OperatorPath
from freqfusion_runtime.triton.source import read_source
from numpy.typing import NDArray
from torch import nn

SUFFIX = "-pytorch"


class ReferenceSession:
    """A checkpoint's model on PyTorch's own operators; see :class:`freqfusion_runtime.session.Session`.

    Pictures are prepared and scores made labels of by the runtime, as for a file of the tensor interface.

    Args:
        path: The checkpoint.
        network: Its model, in evaluation mode.
        manifest: That of a file exported from it.
        threads: Cores for one run, 0 for all; PyTorch knows one number for the whole process.
    """

    def __init__(self, path: Path, network: nn.Module, manifest: Manifest, threads: int = 0) -> None:
        self._path, self._network = path, network
        sides = ("batch", manifest.num_classes, "height/8", "width/8")
        self._manifest = replace(
            manifest,
            interface="tensor",
            precision="fp32",
            inputs=(TensorSpec("images", "float32", ("batch", 3, "height", "width")),),
            outputs=(TensorSpec("logits", "float32", sides),),
            operators={},
        )
        if threads:
            torch.set_num_threads(threads)

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """That of the exported file, except for the interface and the precision."""
        return self._manifest

    @property
    def provider(self) -> str:
        """PyTorch and its release."""
        return f"PyTorch {torch.__version__}"

    @property
    def operator_paths(self) -> tuple[OperatorPath, ...]:
        """Empty: there are no nodes, every operator is its PyTorch definition."""
        return ()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Computes the logits.

        Raises:
            InputError: If a name, dtype or shape is not what the model takes.
        """
        images = self._checked(inputs)
        with torch.inference_mode(), native.disabled():
            logits = self._network(torch.tensor(images))  # a copy: what came from a client cannot be written to
        return {"logits": logits.numpy()}

    def _checked(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        if list(inputs) != ["images"]:
            raise InputError(f"{self._path}: the input is 'images', got {sorted(inputs)}. Name it.")
        images = inputs["images"]
        step = self._manifest.preprocessing.size_divisor
        fits = images.ndim == 4 and images.shape[1] == 3 and images.size > 0
        if images.dtype != np.float32 or not fits or images.shape[2] % step or images.shape[3] % step:
            raise InputError(
                f"{self._path}: 'images' must be float32 of shape (batch, 3, height, width) with sides that are "
                f"multiples of {step}, got {images.dtype} {images.shape}. Convert or resize it."
            )
        return images


def reference_source(checkpoint: Path, served: Sequence[ModelSource], threads: int = 0) -> ModelSource:
    """Makes a server's model of a checkpoint, called as the file that was exported from it with ``-pytorch`` behind.

    That file's manifest says with which bases, classes and sizes the two are one model.

    Args:
        checkpoint: A file that ``freqfusion export`` reads.
        served: The models it is to be compared with.
        threads: Cores for one run, 0 for all.

    Raises:
        ModelFileError: If none of them was exported from the checkpoint, or it is for another task.
        ManifestError: If a model has no manifest.
    """
    source, manifest = _exported_from(checkpoint, served)
    if manifest.task != "semantic_segmentation":
        raise ModelFileError(
            f"{source.path} is made for {manifest.task}; side by side with PyTorch go label maps only. "
            "Leave --reference out."
        )

    def open_reference(path: Path) -> ReferenceSession:
        _check_hash(path, manifest)
        try:
            network, _, _ = load_model(path, manifest.model, bases_seed=manifest.nmf_bases_seed or 0)
        except FreqFusionError as e:
            raise ModelFileError(str(e)) from e
        return ReferenceSession(path, network, manifest, threads)

    return ModelSource(source.name + SUFFIX, checkpoint, source.version, open_reference)


def _exported_from(checkpoint: Path, served: Sequence[ModelSource]) -> tuple[ModelSource, Manifest]:
    if not checkpoint.is_file():
        reason = "is a folder" if checkpoint.is_dir() else "does not exist"
        raise ModelFileError(f"{checkpoint} {reason}. Name the checkpoint a served file was exported from.")
    digest = sha256_of(checkpoint)
    manifests = [(source, read_source(source.path).manifest) for source in served]
    for source, manifest in manifests:
        if manifest.weights_sha256 == digest:
            return source, manifest
    origins = "; ".join(f"{s.path} from {m.weights_file} (sha256 {str(m.weights_sha256)[:12]})" for s, m in manifests)
    raise ModelFileError(
        f"no served file was exported from {checkpoint} (sha256 {digest[:12]}): {origins}. "
        "Name the checkpoint of one of them."
    )


def _check_hash(path: Path, manifest: Manifest) -> None:
    if (found := sha256_of(path)) != manifest.weights_sha256:
        raise ModelFileError(
            f"{path} has sha256 {found[:12]}, the served file was exported from {str(manifest.weights_sha256)[:12]}. "
            "Export it again and start the server again."
        )
