# SPDX-License-Identifier: Apache-2.0
"""What TensorRT says while it works: kept, and turned into errors of ours."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from freqfusion_runtime.engines.errors import BuildFailedError, EngineError, EngineMemoryError
from freqfusion_runtime.engines.flavours import Flavour

# TensorRT keeps the first logger of a process and ignores all later ones, so there is one for each flavour.
_loggers: dict[str, Any] = {}
_listeners: list[Messages] = []
_lock = threading.Lock()
_last_said = 0.0  # time.monotonic() of the last message

_MEMORY = re.compile(
    r"out of memory|outofmemory|MEM_ALLOC|cudaErrorMemoryAllocation|within workspace limit|"
    r"insufficient memory|memory allocation failed|requested size was \d+|bad_alloc",
    re.IGNORECASE,
)
# Said after every failed call of a machine without a driver, whatever it was about.
_NOISE = re.compile(r"catchCudaError|The logger passed into")


class Messages:
    """What was said while :func:`listening` lasted, worst first told apart."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.details: list[str] = []

    def number_after(self, words: str) -> int | None:
        """The last number that TensorRT said after ``words``."""
        for note in reversed(self.notes):
            if match := re.search(re.escape(words) + r"\s*(\d+)", note):
                return int(match[1])
        return None

    def reason(self) -> str:
        """The first error, without TensorRT's own file names."""
        text = next((error for error in self.errors if not _NOISE.search(error)), "TensorRT gave no reason")
        text = re.sub(r"\s+", " ", text).strip()
        text = re.sub(r" In \w+ at /_src/\S+\)?$", "", text)
        return text[:400].rstrip(" .")

    def failure(self, subject: str, workspace: str = "its default") -> EngineError:
        """Makes the error of a build that ended without an engine."""
        if any(_MEMORY.search(text) for text in self.errors):
            return EngineMemoryError(
                f"{subject} ran out of memory (workspace: {workspace}): {self.reason()}. Raise or leave out "
                "--workspace, make --max smaller, or free memory on the GPU (`nvidia-smi` shows who has it)."
            )
        return BuildFailedError(
            f"{subject} failed: {self.reason()}. "
            "Try --allow-function-bodies or another TensorRT version (`freqfusion doctor` lists what is here)."
        )


def logger_of(flavour: Flavour) -> Any:
    """The one logger of this process for a flavour."""
    with _lock:
        if flavour.name not in _loggers:
            _loggers[flavour.name] = _make_logger(flavour.api)
        return _loggers[flavour.name]


@contextmanager
def listening() -> Iterator[Messages]:
    """Collects what every flavour says from here to the end of the block, in all threads."""
    messages = Messages()
    with _lock:
        _listeners.append(messages)
    try:
        yield messages
    finally:
        with _lock:
            _listeners.remove(messages)


def silence_s() -> float:
    """Seconds since any TensorRT of this process last said something, even in passing."""
    return time.monotonic() - _last_said


def _make_logger(api: Any) -> Any:
    severity = api.ILogger

    class Logger(api.ILogger):  # type: ignore[misc]
        def log(self, level: Any, text: str) -> None:
            global _last_said
            with _lock:
                _last_said = time.monotonic()
                for messages in _listeners:
                    if level <= severity.ERROR:
                        messages.errors.append(text)
                    elif level == severity.WARNING:
                        messages.warnings.append(text)
                    elif level == severity.INFO:
                        messages.notes.append(text)
                    elif text.startswith("Layers:"):
                        messages.details.append(text)

    return Logger()
