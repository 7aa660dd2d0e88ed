# SPDX-License-Identifier: Apache-2.0
"""What the protocols of one server share: models, scheduler, threads, metrics, log and state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import metadata

from freqfusion_runtime.serving.operation.logs import EventLog
from freqfusion_runtime.serving.operation.metrics import Metrics
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.memory import MemoryBudget
from freqfusion_runtime.serving.scheduling.registry import ModelSource, Registry
from freqfusion_runtime.serving.scheduling.scheduler import Scheduler
from freqfusion_runtime.serving.scheduling.statistics import Statistics
from freqfusion_runtime.serving.scheduling.watching import Watcher


class Service:
    """One server process, apart from its sockets."""

    def __init__(self, models: Iterable[ModelSource], settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.log = EventLog(settings.log_file, self.metrics.lost_log_lines.inc)
        self.registry = Registry(models)
        self.watcher = Watcher(self.registry.slots, settings, self.log, self.metrics.watcher_restarts.inc)
        self.statistics = Statistics()
        self.scheduler = Scheduler(settings, self.metrics, self.statistics)
        self.memory = MemoryBudget(settings.max_memory_bytes)
        # Decoding and encoding: Pillow lets go of Python's lock there, so more threads than cores gain nothing.
        self.workers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="codec")
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
            self.log.event("stopped")
            self.log.close()

    def update_gauges(self) -> None:
        """Copies what is known elsewhere into the metrics, for who reads them now."""
        self.metrics.memory.set(self.memory.held)
        self.metrics.watcher_age.set(self.watcher.age_s)
        for slot in self.registry.slots:
            labels = (slot.source.name, slot.source.version)
            self.metrics.ready.labels(*labels).set(slot.model is not None)
            self.metrics.stale.labels(*labels).set(slot.model is not None and bool(slot.problem))
            self.metrics.reloads.labels(*labels).set(slot.reloads)


def release() -> str:
    """Version of the installed distribution, 0 where it runs from its source folder."""
    try:
        return metadata.version("freqfusion-deploy")
    except metadata.PackageNotFoundError:
        return "0"
