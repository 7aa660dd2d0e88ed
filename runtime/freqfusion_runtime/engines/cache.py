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
from typing import Any

from freqfusion_runtime.engines.flavours import Flavour
from freqfusion_runtime.files import atomic_path, make_folder, sha256_of

FOLDER_VARIABLE = "FREQFUSION_CACHE_DIR"


def cache_folder() -> Path:
    """Names the folder: ``$FREQFUSION_CACHE_DIR``, else ``freqfusion`` in the user's cache folder."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "freqfusion"


@dataclass(frozen=True)
class BuildKey:
    """Everything that an engine depends on, part by part, so that a miss can say what changed."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Names the cache entry."""
        return hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class CachedEngine:
    """A plan in the cache, and what was written of it."""

    plan: Path
    record: dict[str, Any]


class EngineCache:
    """Plans by key. An entry is a plan and, written after it, its record; without the record there is no entry."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / "engines"

    def find(self, key: BuildKey) -> tuple[CachedEngine | None, str]:
        """Looks an engine up.

        Returns:
            The engine, or None; and the reason: what of the key differs from the nearest engine that is there.
        """
        record = self._record(self.folder / f"{key.digest}.json")
        plan = self.folder / f"{key.digest}.plan"
        if record is None:
            return None, self._miss(key)
        if not plan.is_file() or sha256_of(plan) != record["sha256"]:
            with contextlib.suppress(OSError):
                plan.with_suffix(".json").unlink(missing_ok=True)
                plan.unlink(missing_ok=True)
            return None, "the cached plan was damaged and has been removed"
        return CachedEngine(plan, record["record"]), "the model, options, TensorRT, plugin and GPU are the same"

    def store(self, key: BuildKey, plan: Path, record: dict[str, Any]) -> None:
        """Keeps a copy of a plan."""
        make_folder(self.folder)
        with atomic_path(self.folder / f"{key.digest}.plan") as temporary:
            shutil.copyfile(plan, temporary)
            sha256 = sha256_of(temporary)
        entry = {"parts": dict(key.parts), "sha256": sha256, "record": record}
        with atomic_path(self.folder / f"{key.digest}.json") as temporary:
            temporary.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")

    def remove(self, key: BuildKey) -> None:
        """Forgets an engine, for instance one that the gate refused."""
        for suffix in (".json", ".plan"):
            (self.folder / f"{key.digest}{suffix}").unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """Bytes that the plans take."""
        return sum(path.stat().st_size for path in self.folder.glob("*.plan"))

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
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
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


def _short(value: str) -> str:
    """Cuts a hash down to what a person compares."""
    return value[:12] + "..." if re.fullmatch(r"[0-9a-f]{64}", value) else value
