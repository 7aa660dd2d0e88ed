# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model of a checkpoint, to be served beside files made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from freqfusion import load_model
from freqfusion.checkpoint_files.formats import files_of
from freqfusion.checkpoint_files.weights import Choice
from freqfusion.errors import FreqFusionError
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.triton.source import read_source

from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256
from freqfusion_export.networks.manifests import network_outputs, taken_of
from freqfusion_export.parity.pytorch_session import PytorchSession

SUFFIX = "-pytorch"


def reference_source(
    checkpoint: Path, served: Sequence[ModelSource], threads: int = 0, which: Choice | None = None
) -> ModelSource:
    """Makes a server's model of a checkpoint, called as the file that was exported from it with ``-pytorch`` behind.

    That file's manifest says with which bases, classes and sizes the two are one model.

    Args:
        checkpoint: A file or folder that ``freqfusion export`` reads.
        served: The models it is to be compared with.
        threads: Cores for one run, 0 for all.
        which: As ``freqfusion.read_checkpoint`` takes it; None for those that the file was exported with.

    Raises:
        ModelFileError: If none of them was exported from the checkpoint, or it is for another task.
        ManifestError: If a model has no manifest.
    """
    files = _files(checkpoint)
    source, manifest = _exported_from(checkpoint, served)
    if manifest.task != "semantic_segmentation":
        raise ModelFileError(
            f"{source.path} is made for {manifest.task}; side by side with PyTorch go label maps only. "
            "Leave --reference out."
        )

    by_tensors = replace(
        manifest,
        interface="tensor",
        precision="fp32",
        inputs=(TensorSpec("images", "float32", ("batch", 3, "height", "width")),),
        outputs=network_outputs(manifest),
        operators={},
    )

    def open_reference(path: Path) -> PytorchSession:
        _check_hash(path, manifest)
        try:
            taken = which or taken_of(manifest)
            network, _, _ = load_model(
                path, manifest.model, which=taken, bases_seed=manifest.nmf_bases_seed or 0, **manifest.network
            )
        except FreqFusionError as e:
            raise ModelFileError(str(e)) from e
        if threads:  # PyTorch knows one number for the whole process
            torch.set_num_threads(threads)
        return PytorchSession(network, path, by_tensors, by_definition=True)

    return ModelSource(
        source.name + SUFFIX, files[0], source.version, open_reference, others=files[1:], hasher=checkpoint_sha256
    )


def _files(checkpoint: Path) -> tuple[Path, ...]:
    """The file to open and those it leads to."""
    try:
        files = files_of(checkpoint)
    except FreqFusionError as e:
        raise ModelFileError(str(e)) from e
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ModelFileError(f"{missing[0]} does not exist. Name the checkpoint a served file was exported from.")
    return files


def _exported_from(checkpoint: Path, served: Sequence[ModelSource]) -> tuple[ModelSource, Manifest]:
    digest = checkpoint_sha256(checkpoint)
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
    if (found := checkpoint_sha256(path)) != manifest.weights_sha256:
        raise ModelFileError(
            f"{path} has sha256 {found[:12]}, the served file was exported from {str(manifest.weights_sha256)[:12]}. "
            "Export it again and start the server again."
        )
