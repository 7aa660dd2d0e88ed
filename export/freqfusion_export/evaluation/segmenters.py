# SPDX-License-Identifier: Apache-2.0
"""Anything that labels pictures, behind one face: a checkpoint in PyTorch, a file or engine in the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from freqfusion.checkpoint_files.weights import Choice
from freqfusion.configs.overrides import Overrides
from freqfusion_runtime.errors import NetworkOutputError
from freqfusion_runtime.evaluation.errors import EvaluationError
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.predictors.segmenter import load_segmenter
from freqfusion_runtime.sessions.protocol import PLAN_SUFFIXES, Kernels, Provider
from numpy.typing import NDArray

from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256

# What the runtime opens, or says why not; all else is read as a checkpoint.
_MODEL_SUFFIXES = (".onnx", ".ort", *PLAN_SUFFIXES)


def is_checkpoint(path: Path) -> bool:
    """Whether a file or folder is read as weights, which may have any suffix.

    Raises:
        EvaluationError: If there is no such file.
    """
    if not path.exists():
        raise EvaluationError(f"{path} does not exist. Name checkpoints, .onnx files or engines.")
    return path.is_dir() or path.suffix.lower() not in _MODEL_SUFFIXES


def sha256_of_model(path: Path) -> str:
    """The hash of a checkpoint, of one file or several, or of a model with all its weights."""
    return checkpoint_sha256(path) if is_checkpoint(path) else model_sha256(path)


class PictureLabeller(Protocol):
    """Labels pictures."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def backend(self) -> str:
        """What computes it."""

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; empty where the file names none."""

    @property
    def weights(self) -> str:
        """``checkpoint`` or ``random``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to a checkpoint's entries as they were read."""

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """A colour for each class."""

    def label(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """Labels ``(H, W, 3)`` RGB: ``(H, W)``."""


class TorchLabeller:
    """A checkpoint on PyTorch's own operators, with the official test pipeline around it."""

    def __init__(
        self,
        path: Path,
        name: str | None,
        provider: Provider,
        threads: int,
        which: Choice | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        import torch
        from freqfusion import load_model
        from freqfusion_runtime.errors import ProviderError

        from freqfusion_export.networks.forms import form_of

        if provider == "cuda" and not torch.cuda.is_available():
            raise ProviderError(f"{path}: PyTorch finds no CUDA device. Use --provider cpu, or install torch for CUDA.")
        if threads:
            torch.set_num_threads(threads)
        network, self.model, checkpoint = load_model(path, name, overrides, which=which)
        self._path, self._network = path, network.to(provider)
        form = form_of(network, checkpoint)
        if form.task != "semantic_segmentation":
            raise EvaluationError(f"{path} is made for {form.task}, not for semantic segmentation. Choose its --task.")
        self._outputs = form.outputs
        self._preprocessing, self.num_classes, self.palette = form.preprocessing, form.num_classes, form.palette
        self.classes, self.notes = form.classes, checkpoint.notes
        self.weights = "checkpoint" if checkpoint.weights == "trained" else "random"
        self.backend = f"PyTorch {torch.__version__}, {provider}"
        self._device = provider

    def label(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """See ``PictureLabeller``."""
        import torch
        from freqfusion import native

        from freqfusion_export.networks.label_maps import labels_by_pytorch
        from freqfusion_export.parity.pytorch_run import outputs_of

        images = torch.from_numpy(prepare(picture, self._preprocessing)).to(self._device)
        with torch.inference_mode(), native.disabled():
            outputs = outputs_of(self._network, self._outputs, images)
        for name, values in outputs.items():
            if not (is_finite := values.isfinite()).all():  # labels of such scores are any
                raise NetworkOutputError(
                    f"{int((~is_finite).sum())} of {values.numel()} {name} of {self._path} are infinite or not a "
                    "number. Check its weights."
                )
        labels: NDArray[Any] = labels_by_pytorch(outputs, picture.shape[:2], self._preprocessing)[0]
        return labels


class RuntimeLabeller:
    """An exported file or engine in the torch-free runtime."""

    def __init__(self, path: Path, provider: Provider, threads: int, kernels: Kernels) -> None:
        self._segmenter = load_segmenter(path, provider=provider, threads=threads, kernels=kernels)
        session = self._segmenter.session
        manifest = session.manifest
        self.model = manifest.model
        self.num_classes, self.classes, self.weights = manifest.num_classes, manifest.classes, manifest.weights
        self.notes: tuple[str, ...] = ()
        self.palette = self._segmenter.palette
        by_kernel = sum(entry.path == "kernel" for entry in session.operator_paths)
        self.backend = (
            f"{session.provider}, {manifest.precision}, {by_kernel} of {len(session.operator_paths)} by kernel"
        )

    def label(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """See ``PictureLabeller``."""
        return self._segmenter.predict(picture).labels


def open_labeller(
    path: Path,
    name: str | None,
    provider: Provider,
    threads: int,
    kernels: Kernels,
    which: Choice | None = None,
    overrides: Overrides | None = None,
) -> PictureLabeller:
    """Opens a model file with what its suffix names.

    Raises:
        FreqFusionError: If it cannot be used; the subclass says why.
    """
    if is_checkpoint(path):
        return TorchLabeller(path, name, provider, threads, which, overrides)
    return RuntimeLabeller(path, provider, threads, kernels)
