# SPDX-License-Identifier: Apache-2.0
"""Lets TensorRT work in a thread that Ctrl-C stops cleanly."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from freqfusion_runtime.building.progress import Progress
from freqfusion_runtime.engines.errors import BuildInterruptedError
from freqfusion_runtime.engines.messages import silence_s

T = TypeVar("T")

_SILENT = 2.0  # seconds without a word after which a thread of TensorRT is taken to be idle
_WORKING = 0.1  # seconds between two looks for Ctrl-C while TensorRT works


def in_thread(work: Callable[[], T], progress: Progress, subject: Path) -> T:
    """Runs ``work`` beside this thread, asks it to stop on Ctrl-C, and waits for its end.

    Python raises KeyboardInterrupt in the main thread. Were TensorRT at work there, that would be inside one of its
    calls of our logger, where it gets lost.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def keep_outcome() -> None:
        try:
            results.append(work())
        except BaseException as e:
            failures.append(e)

    threads_before = _native_threads()
    thread = threading.Thread(target=keep_outcome, name="TensorRT")
    thread.start()
    while thread.is_alive():
        try:
            thread.join(_WORKING)
        except KeyboardInterrupt:
            progress.stop()
    if progress.is_stopped:
        # What TensorRT made must go while Python still lives: its destructors call our logger. An error refers to it.
        for failure in failures:
            failure.__traceback__ = None
        results.clear()
        failures.clear()
        gc.collect()
        _wait_for_threads(threads_before)
        raise BuildInterruptedError(subject)
    if failures:
        raise failures.pop()
    return results.pop()


def _wait_for_threads(before: set[str]) -> None:
    """Waits until TensorRT's own threads are gone; one that still logs when Python ends would abort the process.

    RTX 1.7 gives a stopped build back while such threads finish what they are at, for some tenths of a second. Threads
    that stay, as in a pool, are told apart by their silence.
    """
    while _native_threads() - before and silence_s() < _SILENT:
        time.sleep(_WORKING)


def _native_threads() -> set[str]:
    try:
        return set(os.listdir("/proc/self/task"))
    except OSError:  # not Linux
        return set()
