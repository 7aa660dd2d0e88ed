# SPDX-License-Identifier: Apache-2.0
"""Files that take long to make, kept between test runs and shared by the processes of one.

An entry is a folder under ``build/test-files``, named after everything its content depends on: the sources of the three
packages, the versions that make it, and the options. It appears whole or not at all; a file that is not, bit for bit,
what was written is made again.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from freqfusion_runtime.files import atomic_path, sha256_of
from places import ROOT

FOLDER = ROOT / "build" / "test-files"
# What the content of an exported file depends on beside our own sources.
DISTRIBUTIONS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")
SOURCES = ("models/freqfusion", "export/freqfusion_export", "runtime/freqfusion_runtime", "tests/data")
SUFFIXES = {".py", ".json", ".so", ".safetensors"}
UNUSED_DAYS = 7


@functools.cache
def sources_key() -> str:
    """A hash of every source that a kept file can depend on."""
    key = hashlib.sha256(sys.version.encode())
    for name in DISTRIBUTIONS:
        key.update(f"{name} {metadata.version(name)}\n".encode())
    paths = [path for place in SOURCES for path in (ROOT / place).rglob("*") if path.suffix in SUFFIXES]
    for path in [
        *sorted(paths),
        Path(__file__).with_name("conftest.py"),
        Path(__file__).with_name("detector_files.py"),
    ]:
        key.update(f"{path.relative_to(ROOT)} {sha256_of(path)}\n".encode())
    return key.hexdigest()


def kept(name: str, make: Callable[[Path], None], folder: Path = FOLDER) -> Path:
    """Gives the folder of an entry, made unless a sound one is there.

    Args:
        name: Of what is in it, options included; two contents never share one.
        make: Fills an empty folder.
        folder: Where entries are kept.

    Returns:
        The folder, to be read only: other tests and processes use it too.
    """
    key = hashlib.sha256(f"{sources_key()} {name}".encode()).hexdigest()[:32]
    place, record = folder / key, folder / f"{key}.json"
    with _locked(folder, key):
        if not _is_sound(place, record):
            record.unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder))
            try:
                make(scratch)
                files = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
                digests = {path.relative_to(scratch).as_posix(): sha256_of(path) for path in files}
                scratch.rename(place)
                with atomic_path(record) as temporary:
                    temporary.write_text(json.dumps({"name": name, "files": digests}, indent=1))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        os.utime(record)  # in use
    return place


def remove_unused(folder: Path = FOLDER, days: float = UNUSED_DAYS) -> None:
    """Removes entries that no run has asked for of late, such as those of sources that have changed."""
    for record in folder.glob("*.json"):
        with _locked(folder, record.stem):
            if record.is_file() and record.stat().st_mtime < time.time() - 86400 * days:
                record.unlink()
                shutil.rmtree(folder / record.stem, ignore_errors=True)


_found_sound: dict[Path, int] = {}  # folder -> when it was last changed, by the time of reading all of it


def _is_sound(place: Path, record: Path) -> bool:
    """Whether every file is what was written; read whole once by each process."""
    try:
        changed = place.stat().st_mtime_ns
        if _found_sound.get(place) != changed:
            digests = json.loads(record.read_text())["files"]
            found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
            if found != set(digests) or any(sha256_of(place / name) != digest for name, digest in digests.items()):
                return False
            _found_sound[place] = changed
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _locked(folder: Path, key: str) -> Iterator[None]:
    """Holds an entry against other processes and runs, which wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{key}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
