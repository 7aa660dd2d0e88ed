# SPDX-License-Identifier: Apache-2.0
"""Decides what the device runs next: bounded queues, batches of one size, deadlines, and turns between models.

A thread takes work as soon as the device is free, so that what queued up while it was busy makes the next batch. Models
share the device by time: the next turn goes to the model that has used least of it since it last had nothing to do.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from freqfusion_runtime.serving.operation.errors import (
    DeadlineError,
    NotReadyError,
    OverloadedError,
    ServingError,
    TooLargeError,
)
from freqfusion_runtime.serving.operation.metrics import Metrics
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.jobs import (
    Admission,
    Job,
    Outcome,
    Tensors,
    as_serving_error,
    bucket_of,
    fail,
    items_of,
    joined,
    run_together,
)
from freqfusion_runtime.serving.scheduling.memory import Holding, MemoryBudget
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.statistics import Statistics

# Share of a request's time that its estimated wait may fill. Runs differ: at twice the capacity of a busy machine, 5 %
# of those admitted up to the whole of it came too late.
_HEADROOM = 0.7
_STOPPING = "the server is stopping. Ask again, it may be back soon."
_SMOOTHING = 0.2  # weight of the newest run in the estimate of a model's time for one item


@dataclass(eq=False)
class _Queue:
    """Requests for one model by size; ``used_s`` is its share of the device's time so far.

    ``length`` counts those that were admitted and do not run yet; some of them are still being decoded.
    """

    buckets: dict[Any, list[Job]] = field(default_factory=dict)
    length: int = 0
    used_s: float = 0.0
    seconds_per_item: float = 0.0
    seconds_per_byte: float = 0.0

    def items(self) -> int:
        return max(self.length, sum(job.items for jobs in self.buckets.values() for job in jobs))


class Scheduler:
    """Runs models for many requests at once. Safe to use from several threads."""

    def __init__(self, settings: Settings, metrics: Metrics, statistics: Statistics, memory: MemoryBudget) -> None:
        self._settings, self._metrics, self._statistics, self._memory = settings, metrics, statistics, memory
        self._delay_s = settings.max_delay_ms / 1e3
        self._condition = threading.Condition()
        self._queues: dict[str, _Queue] = {}
        self._numbers = itertools.count()
        self._running: _Queue | None = None
        self._running_items = 0
        # Runs follow each other, so the largest that waits or runs is all that they take together.
        self._device_memory = memory.hold()
        self._thread: threading.Thread | None = None
        # The delay counts from here where the device was busy before: the clients just answered are about to ask again,
        # and without them two half batches take turns for ever (8 clients: 58 % of the best throughput, with it 90 %).
        self._free_since = 0.0
        self._is_stopping = False

    def start(self) -> None:
        """Starts the device's thread."""
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Answers what still waits with an error and ends the thread after its present run."""
        with self._condition:
            self._is_stopping = True
            left = [job for queue in self._queues.values() for jobs in queue.buckets.values() for job in jobs]
            for queue in self._queues.values():
                queue.buckets.clear()
            self._condition.notify_all()
        for job in left:
            fail(job, NotReadyError(_STOPPING))
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 30.0)

    def check_room(self, model: LoadedModel, deadline: float) -> None:
        """Refuses what could not be admitted now, before anything is spent on it.

        Args:
            model: The model that will run.
            deadline: By ``time.monotonic()``.

        Raises:
            OverloadedError: If the queue is full, or longer than the deadline allows.
        """
        with self._condition:
            self._check_room(self._queue_of(model), model.source.name, deadline)

    def admit(self, model: LoadedModel, deadline: float) -> Admission:
        """Takes a place in a model's queue, to be held while the request is decoded.

        Args:
            model: The model that will run.
            deadline: By ``time.monotonic()``.

        Raises:
            OverloadedError: As :meth:`check_room`.
        """
        with self._condition:
            queue = self._queue_of(model)
            self._check_room(queue, model.source.name, deadline)
            self._count(queue, model.source.name, 1)

        def give_up() -> None:
            with self._condition:
                self._release(admission, queue, model.source.name)

        admission = Admission(give_up)
        return admission

    async def infer(
        self,
        model: LoadedModel,
        inputs: Tensors,
        deadline: float,
        admission: Admission | None = None,
        holding: Holding | None = None,
    ) -> Outcome:
        """Waits for the device and runs a model; if the caller is cancelled, so is the request.

        What has more items than may run together is run in several turns, others' in between.

        Args:
            model: The model.
            inputs: Checked inputs, all with the same first side.
            deadline: By ``time.monotonic()``.
            admission: The request's place; one is taken here where it has none yet.
            holding: Charged with the outputs.

        Raises:
            OverloadedError: If there is no room.
            TooLargeError: If a run of it needs more memory than there is, or all of them more time than the deadline
                leaves.
            DeadlineError: If the deadline passes first.
            BadRequestError: If the model refuses the inputs.
            ModelFailedError: If it fails on them.
        """
        if admission is None:
            with self.admit(model, deadline) as taken:
                return await self.infer(model, inputs, deadline, taken, holding)
        items, limit = items_of(inputs), model.batch_limit(self._settings.max_batch)
        if items <= limit or not model.is_batchable:
            return await self._wait(model, self.submit(model, inputs, deadline, admission, holding), deadline)
        self._check_time(model, inputs, items, deadline)
        outcomes = []
        for start in range(0, items, limit):
            part = {name: value[start : start + limit] for name, value in inputs.items()}
            outcomes.append(await self._wait(model, self.submit(model, part, deadline, admission, holding), deadline))
        if holding is not None:
            holding.add(sum(value.nbytes for outcome in outcomes for value in outcome.outputs.values()))
        return joined(outcomes)

    def _check_time(self, model: LoadedModel, inputs: Tensors, items: int, deadline: float) -> None:
        """Refuses what cannot be done in time even if nobody else asked; pictures differ, so it counts their memory."""
        size = model.run_bytes(inputs[model.session.manifest.inputs[0].name].shape)
        with self._condition:
            needed_s = size * self._queue_of(model).seconds_per_byte
        left_s = deadline - time.monotonic()
        if needed_s > left_s:
            raise TooLargeError(
                f"{items} such inputs keep model {model.source.name!r} busy for {needed_s:.0f} s, and the request has "
                f"{left_s:.1f} s left. Send fewer at a time, or allow more time."
            )

    async def _wait(self, model: LoadedModel, future: Future[Outcome], deadline: float) -> Outcome:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError as e:
            raise late(model) from e
        finally:
            self.give_up(future)

    def give_up(self, future: Future[Outcome]) -> None:
        """Drops a request that nobody waits for any more, unless it runs already; it takes no room from then on."""
        if future.cancel():
            self._forget()

    def submit(
        self,
        model: LoadedModel,
        inputs: Tensors,
        deadline: float,
        admission: Admission,
        holding: Holding | None = None,
    ) -> Future[Outcome]:
        """Queues a request, as :meth:`infer` does, from any thread; what the future calls back must be short.

        Raises:
            NotReadyError: If the server is stopping.
            OverloadedError, TooLargeError: If there is no memory for its run.
        """
        with self._condition:
            queue = self._queue_of(model)
            if self._is_stopping:
                raise NotReadyError(_STOPPING)
            if not admission.is_held:  # it was for the first of several turns
                admission.is_held = True
                self._count(queue, model.source.name, 1)
            if not queue.buckets and queue is not self._running:
                # A model that did nothing for a while has saved up no claim on the device.
                busy = [other.used_s for other in self._queues.values() if other.buckets or other is self._running]
                queue.used_s = max(queue.used_s, min(busy, default=queue.used_s))
            number = next(self._numbers)
            job = Job(model, inputs, items_of(inputs), time.monotonic(), deadline, number, admission, holding)
            size = job.run_bytes(job.items)
            if holding is not None:
                self._memory.check(holding.size + size)
            self._reserve(size)
            if holding is not None:
                part = holding.shared()  # until the run has ended, even if nobody waits for it
                job.future.add_done_callback(lambda _: part.release())
            queue.buckets.setdefault(bucket_of(job), []).append(job)
            self._condition.notify()
        return job.future

    def _reserve(self, size: int) -> None:
        """Sees to it that a run of ``size`` bytes has its memory.

        Raises:
            OverloadedError, TooLargeError: If it cannot have it.
        """
        more = size - self._device_memory.size
        if more > 0:
            self._device_memory.add(more)

    def _settle(self) -> None:
        """Gives back what no request that waits needs."""
        needed = max(
            (
                job.run_bytes(job.items)
                for queue in self._queues.values()
                for jobs in queue.buckets.values()
                for job in jobs
            ),
            default=0,
        )
        self._device_memory.give_back(self._device_memory.size - needed)

    def _queue_of(self, model: LoadedModel) -> _Queue:
        return self._queues.setdefault(model.source.name, _Queue())

    def _count(self, queue: _Queue, name: str, change: int) -> None:
        queue.length += change
        self._metrics.queue.labels(name).set(queue.length)

    def _release(self, admission: Admission, queue: _Queue, name: str) -> None:
        if admission.is_held:
            admission.is_held = False
            self._count(queue, name, -1)

    def _check_room(self, queue: _Queue, name: str, deadline: float) -> None:
        if self._is_stopping:
            raise NotReadyError(_STOPPING)
        sharing = sum(1 for other in self._queues.values() if other.length and other is not queue) + 1
        running = self._running_items if queue is self._running else 0
        wait_s = (queue.items() + running) * queue.seconds_per_item * sharing
        if queue.length >= self._settings.queue:
            raise OverloadedError(
                f"{queue.length} requests wait for model {name!r}, which is the limit. Try again in {wait_s:.1f} s.",
                max(1.0, wait_s),
            )
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineError(f"the request's time ended before model {name!r} could take it. Allow more.")
        if wait_s > _HEADROOM * left_s:
            raise OverloadedError(
                f"model {name!r} is busy for {wait_s:.1f} s, too long for the {left_s:.1f} s this request may take. "
                "Try again later, or allow more time.",
                max(1.0, wait_s - _HEADROOM * left_s),
            )

    def _forget(self) -> None:
        """Drops cancelled requests at once, so that they take no room in the queue."""
        with self._condition:
            for queue in self._queues.values():
                for key, jobs in list(queue.buckets.items()):
                    kept = [job for job in jobs if not job.future.cancelled()]
                    if kept:
                        queue.buckets[key] = kept
                    else:
                        del queue.buckets[key]
            if self._running is None:
                self._settle()

    def _serve(self) -> None:
        for name, batch in self._batches():
            queue = self._queues[name]
            start = time.monotonic()
            ended = self._run_batch(batch, start)
            seconds = time.monotonic() - start
            items = sum(job.items for job in batch)
            with self._condition:
                queue.used_s += seconds
                queue.seconds_per_item = _smoothed(queue.seconds_per_item, seconds / items)
                size = sum(job.run_bytes(job.items) for job in batch)
                queue.seconds_per_byte = _smoothed(queue.seconds_per_byte, seconds / size)
                self._running = None
                self._settle()
                self._free_since = time.monotonic()
            self._metrics.batches.labels(name).observe(items)
            for job, result in ended:
                if isinstance(result, ServingError):
                    fail(job, result)
                else:
                    job.future.set_result(result)

    def _batches(self) -> Iterator[tuple[str, list[Job]]]:
        while True:
            expired: list[Job] = []
            with self._condition:
                name, key, wait_s = self._choose(time.monotonic())
                if self._is_stopping:
                    return
                if name is None:
                    self._condition.wait(wait_s)
                    continue
                queue = self._queues[name]
                batch = self._take(queue, name, key, expired)
                if batch:
                    self._running, self._running_items = queue, sum(job.items for job in batch)
                else:
                    self._settle()
            for job in expired:
                fail(job, DeadlineError("the request's time ended in the queue. Allow more, or ask less often."))
            if batch:
                yield name, batch

    def _choose(self, now: float) -> tuple[str | None, Any, float | None]:
        """Finds the model whose turn it is and its oldest bucket that is full or has waited; else, how long to wait."""
        best: tuple[float, int, str, Any] | None = None
        wait_s: float | None = None
        for name, queue in self._queues.items():
            for key, jobs in queue.buckets.items():
                patience = max(jobs[0].arrived, self._free_since) + self._delay_s - now if self._room(jobs) > 0 else 0.0
                if patience > 0:
                    wait_s = patience if wait_s is None else min(wait_s, patience)
                    continue
                rank = (queue.used_s, jobs[0].number, name, key)
                if best is None or rank[:2] < best[:2]:
                    best = rank
        return (best[2], best[3], None) if best else (None, None, wait_s)

    def _room(self, jobs: list[Job]) -> int:
        limit = jobs[0].model.batch_limit(self._settings.max_batch)
        return limit - sum(job.items for job in jobs)

    def _take(self, queue: _Queue, name: str, key: Any, expired: list[Job]) -> list[Job]:
        jobs = queue.buckets[key]
        limit = jobs[0].model.batch_limit(self._settings.max_batch)
        batch: list[Job] = []
        now = time.monotonic()
        while jobs and (not batch or self._may_join(jobs[0], sum(job.items for job in batch), limit)):
            job = jobs.pop(0)
            self._release(job.admission, queue, name)
            if not job.future.set_running_or_notify_cancel():
                continue
            (expired if now > job.deadline else batch).append(job)
        if not jobs:
            del queue.buckets[key]
        return batch

    def _may_join(self, job: Job, items: int, limit: int) -> bool:
        if items + job.items > limit:
            return False
        try:
            self._reserve(job.run_bytes(items + job.items))
        except ServingError:  # it runs alone, later
            return False
        return True

    def _run_batch(self, batch: list[Job], start: float) -> list[tuple[Job, Outcome | ServingError]]:
        try:
            results = run_together(batch)
        except BaseException as e:  # an engine may raise anything, and this thread must live
            if len(batch) == 1:
                return [(batch[0], as_serving_error(batch[0].model, e))]
            # One bad request must not fail its neighbours.
            return [ended for job in batch for ended in self._run_batch([job], time.monotonic())]
        inference_ms = (time.monotonic() - start) * 1e3
        total = sum(job.items for job in batch)
        self._statistics.add_execution(batch[0].model, total, inference_ms)
        return [
            (job, _charged(job, Outcome(outputs, (start - job.arrived) * 1e3, inference_ms, total)))
            for job, outputs in zip(batch, results, strict=True)
        ]


def _charged(job: Job, outcome: Outcome) -> Outcome | ServingError:
    if job.holding is not None:
        try:
            job.holding.add(sum(value.nbytes for value in outcome.outputs.values()))
        except ServingError as e:
            return e
    return outcome


def _smoothed(known: float, newest: float) -> float:
    return known + _SMOOTHING * (newest - known) if known else newest


def late(model: LoadedModel) -> DeadlineError:
    """Words the answer to a request whose time is over."""
    return DeadlineError(
        f"model {model.source.name!r} did not answer within the request's time. Allow more, or ask less often."
    )
