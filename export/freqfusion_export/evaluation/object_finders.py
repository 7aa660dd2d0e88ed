# SPDX-License-Identifier: Apache-2.0
"""Anything that finds objects, behind one face: a checkpoint in PyTorch, an exported file or engine in the runtime."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion_runtime.evaluation.errors import EvaluationError
from freqfusion_runtime.predictors.loading import ObjectFinder, load, predictor_of
from freqfusion_runtime.predictors.network import Network
from freqfusion_runtime.predictors.segmenter import Segmenter

from freqfusion_export.evaluation.segmenters import is_checkpoint


@dataclass(frozen=True)
class Contestant:
    """A model file, opened.

    Args:
        path: The file.
        finder: What predicts.
        backend: What computes it, in words.
        notes: What was done to a checkpoint's entries as they were read.
    """

    path: Path
    finder: ObjectFinder
    backend: str
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.finder.session.manifest.model


def open_contestants(args: argparse.Namespace, kinds: tuple[type[Any], ...]) -> list[Contestant]:
    """Opens ``args.models``.

    Args:
        args: Of the command.
        kinds: Classes of predictors that the task can score.

    Raises:
        FreqFusionError: If one cannot be used, or is no model for the task.
    """
    contestants = [_open(path, args) for path in args.models]
    for contestant in contestants:
        if not isinstance(contestant.finder, kinds):
            task = contestant.finder.session.manifest.task
            raise EvaluationError(
                f"{contestant.path} is made for {task} and cannot be scored with --task {args.task}. "
                "Name another task or another model."
            )
    return contestants


def _open(path: Path, args: argparse.Namespace) -> Contestant:
    if is_checkpoint(path):
        return _open_checkpoint(path, args)
    finder = load(path, provider=args.provider, threads=args.threads, kernels=args.kernels)
    session = finder.session
    if isinstance(finder, Segmenter):
        raise EvaluationError(f"{path} labels pixels and finds no objects. Use --task semantic, or another model.")
    if isinstance(finder, Network):
        raise EvaluationError(f"{path} does not say what its tensors mean, so nothing scores them. Name another model.")
    by_kernel = sum(entry.path == "kernel" for entry in session.operator_paths)
    backend = (
        f"{session.provider}, {session.manifest.precision}, {by_kernel} of {len(session.operator_paths)} by kernel"
    )
    return Contestant(path, finder, backend)


def _open_checkpoint(path: Path, args: argparse.Namespace) -> Contestant:
    import torch
    from freqfusion import load_model
    from freqfusion.detection import Detector
    from freqfusion_runtime.errors import ProviderError

    from freqfusion_export.networks.forms import form_of
    from freqfusion_export.networks.manifests import Origin, network_manifest
    from freqfusion_export.parity.pytorch_session import PytorchSession

    if args.provider == "cuda" and not torch.cuda.is_available():
        raise ProviderError(f"{path}: PyTorch finds no CUDA device. Use --provider cpu, or install torch for CUDA.")
    if args.threads:
        torch.set_num_threads(args.threads)
    network, name, checkpoint = load_model(path, args.model, args.overrides, which=args.weights)
    if not isinstance(network, Detector):
        raise EvaluationError(f"{path} labels pixels and finds no objects. Use --task semantic, or another model.")
    manifest = network_manifest(form_of(network, checkpoint), Origin(name, checkpoint))
    session = PytorchSession(network, path, manifest, args.provider)
    finder = predictor_of(session)
    assert not isinstance(finder, (Segmenter, Network))
    return Contestant(path, finder, session.provider, checkpoint.notes)
