# SPDX-License-Identifier: Apache-2.0
"""The model file a repository is made of: what it is, what goes in and out, and what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion_runtime.engines.plan_header import read_plan_header
from freqfusion_runtime.engines.record import read_plan_manifest
from freqfusion_runtime.errors import ManifestError, ModelFileError
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.model_files.free_sizes import BATCH
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec
from freqfusion_runtime.model_files.onnx_growth import check_growth
from freqfusion_runtime.sessions.graph_check import check_graph, tensors_of
from freqfusion_runtime.sessions.protocol import PLAN_SUFFIXES


@dataclass(frozen=True)
class ModelSource:
    """A model file as Triton will see it; ``inputs`` and ``outputs`` are the file's own, in its order."""

    path: Path
    manifest: Manifest
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str

    @property
    def is_plan(self) -> bool:
        """Whether it is a TensorRT engine; an ONNX file otherwise."""
        return self.path.suffix in PLAN_SUFFIXES

    @property
    def can_batch(self) -> bool:
        """Whether the first side of every tensor is free; of a model for ``network``, whether it is the batch."""
        if self.manifest.task == "network":
            return all(spec.shape[:1] == (BATCH,) for spec in (*self.manifest.inputs, *self.manifest.outputs))
        return all(spec.shape and isinstance(spec.shape[0], str) for spec in (*self.inputs, *self.outputs))


def read_source(path: Path) -> ModelSource:
    """Reads what a repository needs to know about a model file.

    An ONNX file is opened as Triton's backend opens it, so that the tensors are those of the graph. A plan can be
    opened only where it was built for, so it is described by the manifest beside it, whose hash must be the plan's.

    Raises:
        ModelFileError: If it is neither, or cannot be opened.
        ManifestError: If it has no manifest, or one of another file.
    """
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise ModelFileError(f"{path} {reason}. Name an .onnx file written by `freqfusion export`, or a .plan.")
    if path.suffix in PLAN_SUFFIXES:
        told = read_plan_manifest(path, with_engine=False)
        if read_plan_header(path).flavour == "tensorrt-rtx":
            raise ModelFileError(
                f"{path} is a plan of TensorRT-RTX, and Triton's backend runs those of TensorRT. Name the .onnx file "
                "it was built from, or build a plan with `freqfusion build --flavour tensorrt`."
            )
        return ModelSource(path, told.manifest, told.manifest.inputs, told.manifest.outputs, told.sha256)
    if path.suffix == ".onnx":
        manifest, inputs, outputs = _open_onnx(path)
        return ModelSource(path, manifest, inputs, outputs, model_sha256(path))
    raise ModelFileError(f"{path} ends in {path.suffix!r}, expected .onnx, .plan or .engine. Name such a file.")


def open_copy(copy: Path, library: Path | None) -> None:
    """Opens a copied ONNX file where it lies, with the kernels it will be used with.

    Raises:
        ModelFileError: If it cannot be opened there.
    """
    _session(copy, library)


def _session(path: Path, library: Path | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # which is to say nothing: its exceptions do
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        if library is not None:
            options.register_custom_ops_library(str(library))
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's errors have no base class of their own
        raise ModelFileError(f"{path} cannot be opened: {e} Write it again with `freqfusion export`.") from e


def _open_onnx(path: Path) -> tuple[Manifest, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    check_growth(path)
    session = _session(path, None)
    try:
        metadata = session.get_modelmeta().custom_metadata_map
        inputs, outputs = tensors_of(session.get_inputs()), tensors_of(session.get_outputs())
    except UnicodeDecodeError as e:
        raise ModelFileError(f"{path} has a name that is not UTF-8. Write it again with `freqfusion export`.") from e
    if METADATA_KEY not in metadata:
        raise ManifestError(
            f"{path} has no FreqFusion manifest (metadata key {METADATA_KEY!r}). "
            "Use a file written by `freqfusion export`."
        )
    manifest = Manifest.from_json(metadata[METADATA_KEY], source=str(path))
    for found, told in ((inputs, manifest.inputs), (outputs, manifest.outputs)):
        if [(t.name, t.dtype, len(t.shape)) for t in found] != [(t.name, t.dtype, len(t.shape)) for t in told]:
            raise ManifestError(
                f"{path}: the manifest tells of {_words(told)}, the graph has {_words(found)}. "
                "Write the model again with `freqfusion export`."
            )
    check_graph(path, manifest, inputs, outputs)
    return manifest, inputs, outputs


def _words(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)
