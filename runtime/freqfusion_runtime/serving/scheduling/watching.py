# SPDX-License-Identifier: Apache-2.0
"""Loads the models of a server, and loads them again when their files change; no file can keep another from either."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from freqfusion_runtime.errors import FreqFusionError, ModelFileError
from freqfusion_runtime.model_files.external_data import Stamp
from freqfusion_runtime.serving.operation.logs import EventLog
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.footprint import Footprint
from freqfusion_runtime.serving.scheduling.probing import Probe
from freqfusion_runtime.serving.scheduling.registry import LoadedModel, Slot
from freqfusion_runtime.sessions.protocol import PLAN_SUFFIXES

T = TypeVar("T")

_AT_ONCE = 2  # models being opened: one that takes all its time leaves the other place to those that do not
_LOOK_S = 10.0  # a file system that takes longer to say what is there has a problem worth telling


class Watcher:
    """Looks at the files of all slots, each in a task of its own.

    Args:
        slots: The server's.
        settings: Its settings.
        log: Its log.
        on_failure: Called when looking at a file failed in a way that was not foreseen; it is begun again.
    """

    def __init__(
        self, slots: Sequence[Slot], settings: Settings, log: EventLog, on_failure: Callable[[], object]
    ) -> None:
        self._slots, self._settings, self._log, self._on_failure = slots, settings, log, on_failure
        self._looks: dict[Slot, asyncio.Future[Stamp | None]] = {}
        self._last_look = dict.fromkeys(slots, time.monotonic())

    @property
    def age_s(self) -> float:
        """Time since a file was last looked at, of that for which it is the longest."""
        return time.monotonic() - min(self._last_look.values()) if self._settings.reload_interval_s > 0 else 0.0

    async def load_all(self) -> None:
        """Loads every slot that holds nothing yet; a file that cannot be loaded is refused."""
        places = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._load(slot, places) for slot in self._slots if slot.model is None))

    async def watch(self) -> None:
        """Looks again and again, and replaces a model once its new file has stopped changing, until cancelled."""
        if self._settings.reload_interval_s > 0:
            places = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(self._watch(slot, places) for slot in self._slots))

    async def _watch(self, slot: Slot, places: asyncio.Semaphore) -> None:
        seen: Stamp | None = None
        while True:
            await asyncio.sleep(self._settings.reload_interval_s)
            before = slot.problem
            try:
                if slot.state == "LOADING":
                    continue
                stamp = await self._look(slot)
                if stamp is not None and stamp == seen:
                    await self._load(slot, places)
                seen = stamp
            except Exception as e:  # none may end the watch: nobody would know that files are no longer looked at
                seen = None
                slot.problem = f"{slot.source.path} cannot be watched: unexpected {type(e).__name__}: {e}"
                self._on_failure()
            if slot.problem and slot.problem != before and slot.problem != slot.refused_for:
                self._log.event("model_file_lost", level="warning", model=slot.source.name, error=slot.problem)

    async def _look(self, slot: Slot) -> Stamp | None:
        """Gives the state of a file that is to be loaded, None if nothing is."""
        look = self._looks.get(slot) or _begin(slot.new_stamp)
        self._looks[slot] = look  # kept where it does not end: each look at a dead file system would cost a thread
        try:
            await asyncio.wait((look,), timeout=_LOOK_S)
        except asyncio.CancelledError:
            look.cancel()
            raise
        if not look.done():
            slot.problem = f"{slot.source.path}: the file system has not answered for {_LOOK_S:g} s. Check it."
            return None
        del self._looks[slot]
        self._last_look[slot] = time.monotonic()
        return look.result()

    async def _load(self, slot: Slot, places: asyncio.Semaphore) -> None:
        source = slot.source
        async with places:
            stamp: Stamp | None = None
            try:
                with contextlib.suppress(OSError, ModelFileError):  # which opening it words better
                    stamp = await self._in_time(slot, source.stamp)
                model = await self._open(slot)
            except Exception as e:
                is_foreseen = isinstance(e, FreqFusionError | OSError | ValueError)
                problem = str(e) if is_foreseen else f"{source.path}: unexpected {type(e).__name__}: {e}"
                slot.refuse(problem, stamp)
                self._log.event(
                    "model_refused", level="error", model=source.name, version=source.version, error=problem
                )
                return
            finally:
                self._last_look[slot] = time.monotonic()
        slot.accept(model)
        self._log.event("model_loaded", model=source.name, version=source.version, sha256=model.sha256)

    async def _open(self, slot: Slot) -> LoadedModel:
        # What is opened by others' code cannot be opened elsewhere, and a plan is code that is trusted or not loaded.
        measured: Footprint | None = None
        if self._settings.load_timeout_s and not slot.source.opener and slot.source.path.suffix not in PLAN_SUFFIXES:
            probe = Probe(slot.source.path, self._settings)
            try:
                measured = await _begin(probe.run)
            finally:
                probe.stop()
        return await self._in_time(slot, lambda: slot.load(self._settings, measured))

    async def _in_time(self, slot: Slot, work: Callable[[], T]) -> T:
        limit_s = self._settings.load_timeout_s or None
        begun = _begin(work)
        try:
            await asyncio.wait((begun,), timeout=limit_s)
            if not begun.done():
                raise ModelFileError(
                    f"{slot.source.path} was still being opened after {limit_s:g} s, and its thread was given up. "
                    "Write it again, or allow more with --load-timeout-s if it is trusted."
                )
            return begun.result()
        finally:
            begun.cancel()


def _begin(work: Callable[[], T]) -> asyncio.Future[T]:
    """Runs ``work`` in a thread for which neither another one nor the end of the process has to wait."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        except BaseException as e:
            outcome.set_exception(e if isinstance(e, Exception) else RuntimeError(f"{type(e).__name__}: {e}"))
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name="load", daemon=True).start()
    begun = asyncio.wrap_future(outcome)
    begun.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have been given up
    return begun
