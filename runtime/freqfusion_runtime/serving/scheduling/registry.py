# SPDX-License-Identifier: Apache-2.0
"""The models of a server by name and version: loaded, warmed up, and replaced when their files change."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from freqfusion_runtime.errors import ManifestError, ModelFileError
from freqfusion_runtime.model_files.classes.class_table import Color, class_colors, class_names
from freqfusion_runtime.model_files.external_data import Stamp, model_sha256, stamp_of
from freqfusion_runtime.model_files.free_sizes import BATCH
from freqfusion_runtime.model_files.manifest import read_sidecar, sidecar_path
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.serving.operation.errors import NotReadyError, NotSupportedError, UnknownModelError
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.footprint import Footprint
from freqfusion_runtime.serving.scheduling.warmup import warm_up
from freqfusion_runtime.sessions.protocol import Session

State = Literal["LOADING", "READY", "UNAVAILABLE"]
Opener = Callable[[Path], Session]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Args:
        name: In URLs: letters, digits, dot, underscore and hyphen.
        path: The model file.
        version: A positive number; clients that name none get the highest.
        opener: Opens the file, instead of the engine that the settings name.
        others: Further files that ``opener`` reads.
        hasher: Hashes the file and these.
    """

    name: str
    path: Path
    version: str = "1"
    opener: Opener | None = None
    others: tuple[Path, ...] = ()
    hasher: Callable[[Path], str] = model_sha256

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not _VERSION.fullmatch(self.version):
            raise ModelFileError(
                f"{self.path}: {self.name!r} version {self.version!r} cannot be served under that name. Use letters, "
                "digits, '.', '_' and '-' for the name and a positive number for the version: NAME:VERSION=PATH."
            )

    def stamp(self) -> Stamp:
        """Tells one state of its files from another; raises what :func:`stamp_of` does."""
        return tuple(of_file for file in (self.path, *self.others) for of_file in stamp_of(file))


def parse_source(text: str | os.PathLike[str]) -> ModelSource:
    """Reads ``PATH``, ``NAME=PATH`` or ``NAME:VERSION=PATH``; the name is the file's stem where none is given.

    Raises:
        ModelFileError: If the name or the version cannot be used in a URL.
    """
    whole = os.fspath(text)
    label, sign, path = whole.partition("=")
    if not sign or Path(whole).exists():
        return ModelSource(Path(whole).stem, Path(whole))
    name, _, version = label.partition(":")
    return ModelSource(name, Path(path), version or "1")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to run, of any task.

    Args:
        source: Where it came from.
        session: The engine.
        max_pixels: Of one picture or tensor.
        sha256: Hash of its files.
        stamp: State of these files.
        footprint: What a run costs in memory.
    """

    source: ModelSource
    session: Session
    max_pixels: int
    sha256: str
    stamp: Stamp
    footprint: Footprint = field(default_factory=Footprint)

    @property
    def is_segmenter(self) -> bool:
        """Whether label maps can be made of its answers."""
        return self.session.manifest.task == "semantic_segmentation"

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes."""
        return class_names(self.session.manifest)

    @cached_property
    def palette(self) -> tuple[Color, ...]:
        """Colours of its classes."""
        return class_colors(self.session.manifest)

    @property
    def is_batchable(self) -> bool:
        """Whether all its inputs and outputs have a free first side of one name, so that requests can be joined.

        Of a model for ``network`` that must be its batch: along any other size, what is in one request counts for all.
        """
        manifest = self.session.manifest
        sides = {spec.shape[0] if spec.shape else 1 for spec in (*manifest.inputs, *manifest.outputs)}
        side = sides.pop()
        return not sides and (side == BATCH if manifest.task == "network" else isinstance(side, str))

    def run_bytes(self, shape: tuple[int, ...]) -> int:
        """Memory that a run over a first input of this shape takes beside the input."""
        return self.footprint.run_bytes(self.session.manifest, shape)

    def batch_limit(self, allowed: int) -> int:
        """How many items may run together: what the server allows, and no more than an engine's profiles take."""
        return min(allowed, getattr(self.session, "max_batch", allowed)) if self.is_batchable else 1


class Slot:
    """One name and version: the model that is served now, and what went wrong since it was loaded."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.told_task = _told_task(source.path)
        self.model: LoadedModel | None = None
        self.problem = ""
        self.refused_for = ""
        self.reloads = 0
        self._refused: Stamp | None = None

    @property
    def told_problem(self) -> str:
        """The problem in words for everyone: files by their names, without the folders of this machine."""
        folders = {self.source.path.parent, self.source.path.parent.absolute(), self.source.path.parent.resolve()}
        told = self.problem
        for folder in sorted(map(str, folders), key=len, reverse=True):
            if folder != ".":
                told = told.replace(f"{folder.rstrip(os.sep)}{os.sep}", "")
        return told

    @property
    def state(self) -> State:
        """``LOADING`` until the first load ends."""
        if self.model is not None:
            return "READY"
        return "UNAVAILABLE" if self.problem else "LOADING"

    def load(self, settings: Settings, measured: Footprint | None = None) -> LoadedModel:
        """Opens, checks and warms up what is in the file now; takes seconds and is for a thread.

        Args:
            settings: Of the server.
            measured: What its runs cost in memory, where that has been measured elsewhere.
        """
        source = self.source
        stamp = source.stamp()
        opened = source.opener(source.path) if source.opener else _open(source.path, settings)
        footprint = warm_up(opened, settings.max_image_pixels, measured)
        if source.stamp() != stamp:
            raise ModelFileError(f"{source.path} changed while it was being read. It will be read again.")
        return LoadedModel(source, opened, settings.max_image_pixels, source.hasher(source.path), stamp, footprint)

    def new_stamp(self) -> Stamp | None:
        """The file's state where that is neither the served one nor one already refused; touches the disk."""
        try:
            now = self.source.stamp()
        except OSError as e:
            self.problem = f"{self.source.path} cannot be read: {(e.strerror or str(e)).lower()}. Put it back."
            return None
        except ModelFileError as e:  # its weights are in other files, one of which is gone
            self.problem = str(e)
            return None
        if self.model is not None and now == self.model.stamp:
            self.problem = ""
            return None
        if now == self._refused:
            self.problem = self.refused_for
            return None
        return now

    def accept(self, model: LoadedModel) -> None:
        """Serves ``model`` from now on; requests already given to the earlier one finish there."""
        earlier = self.model
        if earlier is not None and _network(earlier) == _network(model):
            # It was measured when the server was at rest; now requests may have been in work.
            model = replace(model, footprint=earlier.footprint)
        self.reloads += self.model is not None
        self.model, self.problem, self.refused_for, self._refused = model, "", "", None

    def refuse(self, problem: str, stamp: Stamp | None) -> None:
        """Keeps what is served, and does not try the file again until it is in another state than ``stamp``."""
        self.problem = self.refused_for = problem
        self._refused = stamp


def _network(model: LoadedModel) -> tuple[object, ...]:
    """What the memory of a run depends on, beside the picture."""
    manifest = model.session.manifest
    plan = manifest.preprocessing
    return manifest.model, manifest.interface, manifest.precision, manifest.num_classes, plan, model.session.provider


def _told_task(path: Path) -> str | None:
    """The task in the manifest beside a model file, before the file itself is read; None if there is none to read."""
    try:
        task = read_sidecar(sidecar_path(path), "It is not needed.").get("task")
    except ManifestError:  # the file itself says more
        return None
    return task if isinstance(task, str) else None


class Registry:
    """All slots of a server."""

    def __init__(self, sources: Iterable[ModelSource]) -> None:
        self._slots: dict[tuple[str, str], Slot] = {}
        for source in sources:
            key = (source.name, source.version)
            if key in self._slots:
                raise ModelFileError(
                    f"{self._slots[key].source.path} and {source.path} are both called {source.name}:{source.version}. "
                    "Give one another name or version: NAME:VERSION=PATH."
                )
            self._slots[key] = Slot(source)
        if not self._slots:
            raise ModelFileError("there is no model to serve. Name at least one file written by `freqfusion export`.")

    @property
    def slots(self) -> Sequence[Slot]:
        """In the order they were named."""
        return tuple(self._slots.values())

    @property
    def default_name(self) -> str:
        """The model of requests that name none: the first."""
        return self.slots[0].source.name

    @property
    def is_ready(self) -> bool:
        """Whether every model can answer."""
        return all(slot.model is not None for slot in self.slots)

    def segmenter(self, name: str, version: str = "") -> LoadedModel:
        """Finds a model that labels pictures.

        Raises:
            NotSupportedError: If it is made for another task.
            UnknownModelError, NotReadyError: As :meth:`model`.
        """
        model = self.model(name, version)
        if not model.is_segmenter:
            others = sorted({s.source.name for s in self.slots if s.model is not None and s.model.is_segmenter})
            raise NotSupportedError(
                f"model {name!r} is made for {model.session.manifest.task}, and no label map can be made of its "
                f"answers. Send its tensors to /v2/models/{name}/infer"
                + (f", or choose one of: {', '.join(others)}." if others else ".")
            )
        return model

    def versions(self, name: str) -> list[str]:
        """Versions of a name, the lowest first; empty where there is none."""
        return sorted((v for n, v in self._slots if n == name), key=int)

    def slot(self, name: str, version: str = "") -> Slot:
        """Finds a slot; without a version, the highest.

        Raises:
            UnknownModelError: If there is none.
        """
        versions = self.versions(name)
        if not versions:
            names = ", ".join(sorted({n for n, _ in self._slots}))
            raise UnknownModelError(f"there is no model {name[:80]!r}. Choose one of: {names}.")
        if version and version not in versions:
            raise UnknownModelError(
                f"model {name!r} has no version {version[:40]!r}. Choose one of: {', '.join(versions)}."
            )
        return self._slots[name, version or versions[-1]]

    def model(self, name: str, version: str = "") -> LoadedModel:
        """Finds a model that can run.

        Raises:
            UnknownModelError: If there is none.
            NotReadyError: If it is not loaded.
        """
        slot = self.slot(name, version)
        if slot.model is None:
            raise NotReadyError(f"model {name!r} is not ready: {slot.told_problem or 'it is being loaded'}")
        return slot.model


def _open(path: Path, settings: Settings) -> Session:
    return open_session(path, provider=settings.backend, threads=settings.threads, kernels=settings.kernels)
