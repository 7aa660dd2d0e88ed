# SPDX-License-Identifier: Apache-2.0
"""The memory of a batch: which pictures are done, so that a second run does the rest only."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from freqfusion_runtime.batch.items import BatchError, Item
from freqfusion_runtime.batch.labeller import STAGING_FOLDER, STATE_FOLDER, Outcome, Work
from freqfusion_runtime.errors import OutputError
from freqfusion_runtime.files import check_stays, kind_of, make_folder

if sys.platform != "win32":
    import fcntl

DONE_FILE = "done.jsonl"
FAILURES_FILE = "failures.jsonl"


class Ledger:
    """``done.jsonl`` and ``failures.jsonl`` of an output folder; see :func:`open_ledger`."""

    def __init__(self, work: Work, done: IO[str], failures: IO[str], known: dict[str, dict[str, Any]]) -> None:
        self._work, self._done, self._failures, self._known = work, done, failures, known

    def split(self, items: Iterable[Item]) -> tuple[list[Item], list[dict[str, Any]]]:
        """Separates what is to be done from the records of what is done.

        Done means: the same bytes by size and time of change, the same model by hash, and every result there in the
        size it was written with.
        """
        todo, done = [], []
        for item in items:
            record = self._known.get(item.key)
            if record is not None and self._is_done(item, record):
                done.append(record)
            else:
                todo.append(item)
        return todo, done

    def add(self, outcome: Outcome) -> None:
        """Appends one outcome; a line is written whole before the next item is counted."""
        if outcome.error:
            self._write(self._failures, {"input": outcome.key, "error": outcome.error})
            return
        record = outcome.as_record()
        del record["error"], record["stages_ms"]
        self._write(self._done, {**record, "model_sha256": self._work.model_sha256})

    def _is_done(self, item: Item, record: dict[str, Any]) -> bool:
        same = (item.size, item.mtime_ns, self._work.model_sha256)
        if (record.get("size"), record.get("mtime_ns"), record.get("model_sha256")) != same:
            return False
        sizes = record.get("outputs")
        return isinstance(sizes, dict) and all(
            name in sizes and _size_of(Path(self._work.output) / name) == sizes[name]
            for name in self._work.outputs_of(item.name)
        )

    def _write(self, file: IO[str], record: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(record) + "\n")
            file.flush()
        except OSError as e:
            raise OutputError(Path(file.name), (e.strerror or str(e)).lower()) from e


@contextmanager
def open_ledger(work: Work) -> Iterator[Ledger]:
    """Opens the ledger of an output folder for one run at a time, and clears what a killed run left half written.

    Raises:
        BatchError: If another run writes there.
        OutputError: If the folder cannot be written.
    """
    root = make_folder(work.output)
    for path in (root / STATE_FOLDER / STAGING_FOLDER, root / DONE_FILE, root / FAILURES_FILE):
        check_stays(root, path)
    for path in (root / DONE_FILE, root / FAILURES_FILE):
        if path.exists() and not path.is_file():
            raise OutputError(path, f"it is {kind_of(path.stat().st_mode)}, not a file")
    state = make_folder(root / STATE_FOLDER)
    try:
        with (state / "lock").open("a") as lock:
            _lock(lock, root)
            shutil.rmtree(state / STAGING_FOLDER, ignore_errors=True)
            make_folder(state / STAGING_FOLDER)
            known = _read(root / DONE_FILE)
            with _append(root / DONE_FILE) as done, (root / FAILURES_FILE).open("w", encoding="utf-8") as failures:
                yield Ledger(work, done, failures, known)
                os.fsync(done.fileno())
    except PermissionError as e:
        raise OutputError(root, (e.strerror or str(e)).lower()) from e


def _lock(file: IO[str], root: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise BatchError(f"{root} is being written by another `freqfusion batch`. Wait for it, or stop it.") from e


def _read(path: Path) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    known[record["key"]] = record
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue  # a line that a crash cut short: that picture is done again
    return known


def _append(path: Path) -> IO[str]:
    file = path.open("a+", encoding="utf-8")
    if file.tell():
        with path.open("rb") as before:
            before.seek(-1, os.SEEK_END)
            if before.read(1) != b"\n":
                file.write("\n")
    return file


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
