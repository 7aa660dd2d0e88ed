# SPDX-License-Identifier: Apache-2.0
"""What the protocols of one server share: models, scheduler, threads, metrics, log and state."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import metadata
from typing import TypeVar

from freqfusion_runtime.serving.operation.errors import DeadlineError, NotReadyError
from freqfusion_runtime.serving.operation.logs import EventLog
from freqfusion_runtime.serving.operation.metrics import Metrics
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.memory import Holding, MemoryBudget
from freqfusion_runtime.serving.scheduling.registry import ModelSource, Registry
from freqfusion_runtime.serving.scheduling.scheduler import Scheduler
from freqfusion_runtime.serving.scheduling.statistics import Statistics
from freqfusion_runtime.serving.scheduling.watching import Watcher

T = TypeVar("T")


class Service:
    """One server process, apart from its sockets."""

    def __init__(self, models: Iterable[ModelSource], settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.log = EventLog(settings.log_file, self.metrics.lost_log_lines.inc)
        self.registry = Registry(models)
        self.watcher = Watcher(self.registry.slots, settings, self.log, self.metrics.watcher_restarts.inc)
        self.statistics = Statistics()
        self.memory = MemoryBudget(settings.max_memory_bytes)
        self.scheduler = Scheduler(settings, self.metrics, self.statistics, self.memory)
        # Decoding and encoding: Pillow lets go of Python's lock there, so more threads than cores gain nothing.
        self.workers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="codec")
        # Reading JSON holds that lock from beginning to end, so a second thread gains nothing; and hostile bodies must
        # not keep pictures waiting.
        self.readers = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self.is_draining = False
        self.loading: asyncio.Task[None]

    @property
    def is_ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.registry.is_ready and not self.is_draining

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads the models in the background and serves until the block ends."""
        self.loading = asyncio.create_task(self.watcher.load_all())
        watching = asyncio.create_task(self.watcher.watch())
        self.scheduler.start()
        try:
            yield
        finally:
            self.loading.cancel()
            watching.cancel()
            await asyncio.gather(self.loading, watching, return_exceptions=True)
            await self.scheduler.stop()
            self.workers.shutdown(wait=False, cancel_futures=True)
            self.readers.shutdown(wait=False, cancel_futures=True)
            self.log.event("stopped")
            self.log.close()

    async def in_thread(self, pool: Executor, work: Callable[[], T], holding: Holding, deadline: float) -> T:
        """Does work for a request in a thread; what the request holds is held until the work has really ended.

        Args:
            pool: :attr:`workers` or :attr:`readers`.
            work: What to do.
            holding: Of the request.
            deadline: By ``time.monotonic()``; what has not begun by then is not begun.

        Raises:
            DeadlineError: If it passes first.
        """
        part = holding.shared()

        def run() -> T:
            try:
                if time.monotonic() >= deadline:
                    raise _too_late()
                return work()
            finally:
                part.release()

        try:
            future = pool.submit(run)
        except RuntimeError as e:  # shut down
            part.release()
            raise NotReadyError("the server is stopping. Ask again, it may be back soon.") from e
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError as e:
            raise _too_late() from e
        finally:
            if future.cancel():  # it had not begun
                part.release()

    def update_gauges(self) -> None:
        """Copies what is known elsewhere into the metrics, for who reads them now."""
        self.metrics.memory.set(self.memory.held)
        self.metrics.watcher_age.set(self.watcher.age_s)
        for slot in self.registry.slots:
            labels = (slot.source.name, slot.source.version)
            self.metrics.ready.labels(*labels).set(slot.model is not None)
            self.metrics.stale.labels(*labels).set(slot.model is not None and bool(slot.problem))
            self.metrics.reloads.labels(*labels).set(slot.reloads)
            if slot.model is not None:
                self.metrics.pixel_bytes.labels(*labels, "network").set(slot.model.footprint.network)
                self.metrics.pixel_bytes.labels(*labels, "picture").set(slot.model.footprint.picture)


def _too_late() -> DeadlineError:
    return DeadlineError("the request's time ended while its body was being read. Allow more, or send a smaller one.")


def release() -> str:
    """Version of the installed distribution, 0 where it runs from its source folder."""
    try:
        return metadata.version("freqfusion-deploy")
    except metadata.PackageNotFoundError:
        return "0"
