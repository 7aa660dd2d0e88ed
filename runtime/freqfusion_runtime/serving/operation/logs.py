# SPDX-License-Identifier: Apache-2.0
"""Log lines as JSON, one a line, written by a thread of their own so that a slow or full disk delays no request."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from freqfusion_runtime.errors import OutputError

# Lines that come so soon after another are written with it: a thread that wakes for each takes Python's lock from the
# event loop in the middle of the next request.
_GATHER_S = 0.02
_WAITING_BYTES = 8 << 20  # more means that nobody takes them
_LINE_BYTES = 80  # that a line takes beside its characters
_LONGEST_TEXT = 1000  # characters of what a client chose, such as a path


class EventLog:
    """Takes events from any thread; never blocks and never raises.

    Args:
        path: File to append to, None for standard error.
        on_loss: Called with a number of lines that could not be written.

    Raises:
        OutputError: If the file cannot be opened.
    """

    def __init__(self, path: Path | None = None, on_loss: Callable[[int], None] = lambda _: None) -> None:
        self._on_loss = on_loss
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._waiting, self._lock = 0, threading.Lock()
        self._file = _open(path)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def event(self, event: str, level: str = "info", **facts: Any) -> None:
        """Adds a line: the time in UTC, the level, the event's name, and its facts, long texts but a traceback cut."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        cut = {name: _cut(value) if name != "traceback" else value for name, value in facts.items()}
        line = json.dumps({"time": now, "level": level, "event": event, **cut}, default=str)
        with self._lock:
            is_taken = self._waiting + _size(line) <= _WAITING_BYTES
            if is_taken:
                self._waiting += _size(line)
        if is_taken:
            self._lines.put(line)
        else:
            self._on_loss(1)

    def close(self, timeout_s: float = 2.0) -> None:
        """Writes what is waiting and stops; later events are lost."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            time.sleep(_GATHER_S)
            while not self._lines.empty() and len(lines) < 1000:
                following = self._lines.get()
                if following is None:
                    self._emit(lines)
                    return
                lines.append(following)
            self._emit(lines)

    def _emit(self, lines: list[str]) -> None:
        try:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()
        except (OSError, ValueError):  # disk full, pipe closed, file closed
            self._on_loss(len(lines))
        with self._lock:
            self._waiting -= sum(map(_size, lines))


def _size(line: str) -> int:
    return len(line) + _LINE_BYTES  # all ASCII


def _cut(value: Any) -> Any:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def _open(path: Path | None) -> TextIO:
    if path is None:
        return sys.stderr
    try:
        return path.open("a", encoding="utf-8")
    except OSError as e:
        raise OutputError(path, (e.strerror or str(e)).lower()) from e
