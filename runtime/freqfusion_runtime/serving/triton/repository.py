# SPDX-License-Identifier: Apache-2.0
"""Writes a Triton model repository: each model's folder appears whole or not at all, nobody else's is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from freqfusion_runtime.errors import KernelLibraryError, ModelFileError, OutputError
from freqfusion_runtime.files import atomic_path, make_folder, scratch_folder
from freqfusion_runtime.model_files.external_data import copy_external_files
from freqfusion_runtime.model_files.hostile_json import read_json_file
from freqfusion_runtime.model_files.manifest import LIMITS
from freqfusion_runtime.model_files.onnx_nodes import list_nodes
from freqfusion_runtime.serving.triton.config import LABELS_FILE, ConfigOptions, write_config, write_labels
from freqfusion_runtime.serving.triton.readme import write_readme
from freqfusion_runtime.serving.triton.source import ModelSource, open_copy, read_source
from freqfusion_runtime.sessions.kernel_library import BODIES_INSTEAD, FOLDER_VARIABLE, library_fault, library_path
from freqfusion_runtime.sessions.protocol import Kernels

MARK = "freqfusion.json"  # in the repository and in each model's folder; Triton looks at folders and config.pbtxt only
CONFIG_FILE = "config.pbtxt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PLUGIN = "libfreqfusion_tensorrt.so"


@dataclass(frozen=True, kw_only=True)
class RepositoryOptions:
    """How a repository is written.

    Args:
        name: Of the model; the file's stem where None.
        config: Of the model.
        kernels: ``auto`` copies the native library that fits where it is found, ``never`` does not, ``require``
            insists on it.
        library: That library, instead of the one in the usual place.
        mount: Where the server will see the repository; paths to libraries start there.
        image: Container image for the instructions.
        replace: Whether a model of this name that this command wrote may be replaced.
    """

    name: str | None = None
    config: ConfigOptions = field(default_factory=ConfigOptions)
    kernels: Kernels = "auto"
    library: Path | None = None
    mount: str = "/models"
    image: str = "nvcr.io/nvidia/tritonserver:25.08-py3"
    replace: bool = False


def write_repository(model: Path, output: Path, options: RepositoryOptions) -> dict[str, Any]:
    """Adds a model to a repository, which is made where it does not exist.

    Args:
        model: An exported ``.onnx``, or a ``.plan`` with its manifest beside it.
        output: The repository's folder.
        options: See there.

    Returns:
        What was written, as stored in the model's ``freqfusion.json``.

    Raises:
        ModelFileError, ManifestError: If the model cannot be served by Triton.
        KernelLibraryError: If the library is required and missing.
        OutputError: If the folder holds what others wrote, the model is there already, or a file cannot be written.
    """
    name = options.name or model.stem
    if not _NAME.fullmatch(name):
        raise ModelFileError(
            f"{name!r} cannot be a model's name. Give one of letters, digits, '.', '_' and '-' with --name."
        )
    is_new = _check_output(output, name, options.replace)
    source = read_source(model)
    library = _find_library(source, options)
    place = make_folder(output.parent if is_new else output)
    try:
        # Beside a new repository, inside an old one: both are one file system with the target.
        with scratch_folder("triton", place) as staging:
            folder = staging / name
            facts = _write_model(folder, name, source, library, options)
            if is_new:
                _write_text(staging / MARK, json.dumps({"format_version": 1}) + "\n")
                _write_text(staging / "README.md", write_readme([facts], output.name))
                staging.chmod(0o777 & ~_umask())
                os.rename(staging, output)
            else:
                _exchange(folder, output / name, staging / "old")
                with atomic_path(output / "README.md") as temporary:
                    temporary.write_text(write_readme(_models_in(output), output.name), encoding="utf-8")
    except OSError as e:
        raise OutputError(output, (e.strerror or str(e)).lower()) from e
    return facts


def _check_output(output: Path, name: str, replace: bool) -> bool:
    """Tells whether the repository is to be made."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return True
    if not output.is_dir():
        raise OutputError(output, "it is a file, not a folder")
    if not (output / MARK).is_file():
        raise OutputError(output, f"it holds files that `freqfusion triton` did not write (it has no {MARK})")
    model = output / name
    if not model.exists():
        return False
    if not (model / MARK).is_file():
        raise OutputError(model, f"`freqfusion triton` did not write what is there (it has no {MARK})")
    if not replace:
        raise OutputError(model, "a model of that name is there already, and --replace was not given")
    return False


def _find_library(source: ModelSource, options: RepositoryOptions) -> Path | None:
    if options.kernels == "never":
        return None
    usual = library_path()
    library = options.library or (usual.with_name(_PLUGIN) if source.is_plan else usual)
    is_asked = options.kernels == "require" or options.library is not None
    if library.is_file():
        fault = None if source.is_plan else library_fault(library, list_nodes(source.path))
        if fault is None:
            return library
        remedy = "Build it again with `make plugins`, or name another with --library."
        if is_asked:
            raise KernelLibraryError(f"{source.path}: {fault} {remedy}")
        warnings.warn(f"{source.path}: {fault} {BODIES_INSTEAD} {remedy}", stacklevel=3)
        return None
    if is_asked:
        raise KernelLibraryError(
            f"{library} does not exist. Build it with `make plugins`, name its folder in {FOLDER_VARIABLE}, "
            "or give its path with --library."
        )
    return None


def _write_model(
    folder: Path, name: str, source: ModelSource, library: Path | None, options: RepositoryOptions
) -> dict[str, Any]:
    version = folder / "1"
    version.mkdir(parents=True)
    copy = version / ("model.plan" if source.is_plan else "model.onnx")
    shutil.copyfile(source.path, copy)
    weights = () if source.is_plan else copy_external_files(source.path, version)
    library_copy = None
    if library is not None:
        library_copy = folder / library.name
        shutil.copyfile(library, library_copy)
        library_copy.chmod(0o777 & ~_umask())
    seen = None if library_copy is None else f"{options.mount.rstrip('/')}/{name}/{library_copy.name}"
    config = write_config(name, source, options.config, None if source.is_plan else seen)
    if not source.is_plan:
        open_copy(copy, library_copy)
    facts: dict[str, Any] = {
        "name": name,
        "file": copy.name,
        "platform": "tensorrt_plan" if source.is_plan else "onnxruntime_onnx",
        "model_sha256": source.sha256,
        "max_batch_size": options.config.batch_of(source),
        "library": seen,
        "mount": options.mount,
        "image": options.image,
        "device": "gpu" if source.is_plan else options.config.device,
        "inputs": [asdict(spec) for spec in source.inputs],
        "outputs": [asdict(spec) for spec in source.outputs],
        "manifest": json.loads(source.manifest.to_json()),
    }
    _write_text(folder / CONFIG_FILE, config)
    if source.manifest.task != "network":
        _write_text(folder / LABELS_FILE, write_labels(source))
    _write_text(folder / MARK, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    for path in (copy, *weights, library_copy):
        if path is not None:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    return facts


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _exchange(new: Path, target: Path, aside: Path) -> None:
    """Puts ``new`` at ``target``, and what is there at ``aside``; a failure leaves the old one in place."""
    had_one = target.exists()
    if had_one:
        os.rename(target, aside)
    try:
        os.rename(new, target)
    except OSError:
        if had_one:
            os.rename(aside, target)
        raise


def _models_in(repository: Path) -> list[dict[str, Any]]:
    return [read_json_file(path, LIMITS) for path in sorted(repository.glob(f"[!.]*/{MARK}"))]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
