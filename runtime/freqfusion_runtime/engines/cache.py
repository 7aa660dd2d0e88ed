# SPDX-License-Identifier: Apache-2.0
"""Engines that were built before, and what TensorRT measured while it built them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from freqfusion_runtime.engines.errors import CacheLimitError
from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.files import atomic_path, is_in_use, make_folder, mark_in_use, sha256_of, sha256_of_open
from freqfusion_runtime.model_files.hostile_json import JsonError, read_json_file
from freqfusion_runtime.model_files.manifest import LIMITS

FOLDER_VARIABLE = "FREQFUSION_CACHE_DIR"
LIMIT_VARIABLE = "FREQFUSION_CACHE_MB"
DEFAULT_LIMIT_MB = 8192  # some 200 engines of SegNeXt-T, or 40 of a detector


def cache_folder() -> Path:
    """Names the folder: ``$FREQFUSION_CACHE_DIR``, else ``freqfusion`` in the user's cache folder."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "freqfusion"


def cache_limit_bytes() -> int:
    """What plans in the cache may take together: ``$FREQFUSION_CACHE_MB`` megabytes, else 8192.

    Raises:
        CacheLimitError: If the variable is no whole number.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_MB)
    if not re.fullmatch(r"\d+", text):
        raise CacheLimitError(
            f"{LIMIT_VARIABLE} must be a whole number of megabytes, got {text!r}. Correct it, or unset it."
        )
    return int(text) * 1_000_000


@dataclass(frozen=True)
class BuildKey:
    """Everything that an engine depends on, part by part, so that a miss can say what changed."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Names the cache entry."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()


class CachedEngine:
    """A plan in the cache, and what was written of it. It is in use, and so not evicted, until it is closed."""

    def __init__(self, plan: Path, record: dict[str, Any], file: BinaryIO) -> None:
        self.plan, self.record, self._file = plan, record, file

    def copy_to(self, path: Path) -> None:
        """Copies the plan's bytes, which were hashed when it was found."""
        self._file.seek(0)
        with path.open("wb") as copy:
            shutil.copyfileobj(self._file, copy, 1 << 20)

    def close(self) -> None:
        """Lets go of it."""
        self._file.close()

    def __enter__(self) -> CachedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EngineCache:
    """Plans by key. An entry is a plan and, written after it, its record; without the record there is no entry.

    Args:
        folder: Where; :func:`cache_folder` by default.
        limit_bytes: What all plans together may take; :func:`cache_limit_bytes` by default.

    Raises:
        CacheLimitError: If the environment says no number.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = (folder or cache_folder()) / "engines"
        self.limit_bytes = cache_limit_bytes() if limit_bytes is None else limit_bytes

    def find(self, key: BuildKey) -> tuple[CachedEngine | None, str]:
        """Looks an engine up, which makes it the most recently used one.

        Returns:
            The engine, or None; and the reason: what of the key differs from the nearest engine that is there.
        """
        entry = self.folder / f"{key.digest}.json"
        record, plan = self._record(entry), entry.with_suffix(".plan")
        if record is None:
            return None, self._miss(key)
        try:
            file = plan.open("rb")
        except OSError:
            return None, self._damaged(key)
        mark_in_use(file)
        if sha256_of_open(file) != record["sha256"]:
            file.close()
            return None, self._damaged(key)
        with contextlib.suppress(OSError):  # a cache that may be read and not written
            os.utime(plan)
        return CachedEngine(plan, record["record"], file), "the model, options, TensorRT, plugin and GPU are the same"

    def store(self, key: BuildKey, plan: Path, record: dict[str, Any]) -> list[Path]:
        """Keeps a copy of a plan; then evicts the least recently used ones until all are within the limit.

        The new one stays however large it is, and so does one that another process is reading.

        Returns:
            The plans that were evicted.
        """
        make_folder(self.folder)
        kept = self.folder / f"{key.digest}.plan"
        with atomic_path(kept) as temporary:
            shutil.copyfile(plan, temporary)
            sha256 = sha256_of(temporary)
        entry = {"parts": dict(key.parts), "sha256": sha256, "record": record}
        with atomic_path(kept.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        return self._evict(kept)

    def remove(self, key: BuildKey) -> None:
        """Forgets an engine, for instance one that the gate refused."""
        self._remove(self.folder / f"{key.digest}.plan")

    def plans(self) -> list[Path]:
        """All plans, the least recently used first."""
        found = []
        for path in self.folder.glob("[!.]*.plan"):
            with contextlib.suppress(OSError):  # removed by another process meanwhile
                found.append((path.stat().st_mtime_ns, path.name, path))
        return [path for *_, path in sorted(found)]

    def size_bytes(self) -> int:
        """Bytes that the plans take."""
        return sum(map(_size, self.plans()))

    def _evict(self, newest: Path) -> list[Path]:
        for leftover in self.folder.glob(".*.plan"):  # of a process that was killed while it wrote
            if not is_in_use(leftover):
                self._remove(leftover)
        evicted = []
        excess = self.size_bytes() - self.limit_bytes
        for path in self.plans():
            if excess <= 0:
                break
            if path == newest or is_in_use(path):
                continue
            size = _size(path)
            self._remove(path)
            if not path.exists():
                excess -= size
                evicted.append(path)
        return evicted

    def _remove(self, plan: Path) -> None:
        with contextlib.suppress(OSError):
            # The record first: without it there is no entry, whatever happens before the plan is gone.
            plan.with_suffix(".json").unlink(missing_ok=True)
            plan.unlink(missing_ok=True)

    def _damaged(self, key: BuildKey) -> str:
        self.remove(key)
        return "the cached plan was damaged and has been removed"

    def _miss(self, key: BuildKey) -> str:
        others = [record["parts"] for path in self.folder.glob("*.json") if (record := self._record(path))]
        if not others:
            return "the cache is empty"
        differing = [[name for name, value in key.parts.items() if other.get(name) != value] for other in others]
        index = min(range(len(others)), key=lambda i: len(differing[i]))
        changes = [
            f"{name}: {_short(others[index].get(name, 'none'))} -> {_short(key.parts[name])}"
            for name in differing[index]
        ]
        return "other than the nearest engine there: " + "; ".join(changes)

    def _record(self, path: Path) -> dict[str, Any] | None:
        try:
            record = read_json_file(path, LIMITS)
        except JsonError:
            return None
        is_whole = isinstance(record, dict) and all(
            isinstance(record.get(name), kind) for name, kind in (("parts", dict), ("sha256", str), ("record", dict))
        )
        return record if is_whole else None


class TimingCache:
    """What one version of TensorRT measured on one GPU, in one file; never shared between two of either."""

    def __init__(self, flavour: Flavour, gpu: str, folder: Path | None = None) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{flavour.name}-{flavour.version}-{gpu}").strip("-")
        self.path = (folder or cache_folder()) / "timing" / f"{name}.cache"

    def read(self) -> bytes:
        """The measurements so far; none if there is no file."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Replaces the file whole. Of two builds at a time, the measurements of the one that ends first are lost."""
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(data)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _short(value: str) -> str:
    """Cuts a hash down to what a person compares."""
    return value[:12] + "..." if re.fullmatch(r"[0-9a-f]{64}", value) else value
