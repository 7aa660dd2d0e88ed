# SPDX-License-Identifier: Apache-2.0
"""Batches, turns, bounds, deadlines and cancellation, on a real session slowed down to a device's pace."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.serving.operation.errors import DeadlineError, OverloadedError
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.scheduling.service import Service


class Paced:
    """A session that takes ``seconds`` a run whatever the batch, as a GPU does, and remembers what it ran."""

    def __init__(self, path, seconds: float) -> None:
        self._inner, self._seconds = open_session(path), seconds
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def run(self, inputs):
        self.shapes.append(inputs["image"].shape)
        time.sleep(self._seconds)
        return self._inner.run(inputs)


class Bench:
    """A service with paced models, and a way to ask it."""

    def __init__(self, path, seconds: dict[str, float], **settings) -> None:
        self.sessions: dict[str, Paced] = {}

        def opener(name):
            def open_paced(path):
                self.sessions[name] = Paced(path, seconds[name])
                return self.sessions[name]

            return open_paced

        sources = [ModelSource(name, path, opener=opener(name)) for name in seconds]
        self.service = Service(sources, Settings(reload_interval_s=0, **settings))

    def ask(self, name="a", size=(4, 4), value=0, within_s=10.0):
        model = self.service.registry.model(name)
        inputs = {"image": np.full((1, *size, 3), value, np.uint8)}
        return self.service.scheduler.infer(model, inputs, time.monotonic() + within_s)

    def run(self, story):
        async def main():
            async with self.service.running():
                await self.service.loading
                for session in self.sessions.values():
                    session.shapes.clear()
                return await story()

        return asyncio.run(main())


def test_what_queues_while_the_device_is_busy_runs_as_one_batch(models):
    bench = Bench(models["colors"], {"a": 0.05}, max_batch=8)

    async def story():
        return await asyncio.gather(*(bench.ask(value=40 * k) for k in range(6)))

    outcomes = bench.run(story)
    assert sorted(shape[0] for shape in bench.sessions["a"].shapes) in ([1, 5], [6])
    for k, outcome in enumerate(outcomes):
        alone = bench.sessions["a"]._inner.run({"image": np.full((1, 4, 4, 3), 40 * k, np.uint8)})
        np.testing.assert_array_equal(outcome.outputs["labels"], alone["labels"])


def test_pictures_of_other_sizes_wait_for_their_own_batch(models):
    bench = Bench(models["colors"], {"a": 0.02}, max_batch=8, max_delay_ms=40)

    async def story():
        sizes = [(4, 4), (6, 4), (4, 4), (6, 4), (4, 6)]
        return await asyncio.gather(*(bench.ask(size=size) for size in sizes))

    outcomes = bench.run(story)
    assert sorted(bench.sessions["a"].shapes) == [(1, 4, 6, 3), (2, 4, 4, 3), (2, 6, 4, 3)]
    assert [o.outputs["labels"].shape[1:] for o in outcomes] == [(4, 4), (6, 4), (4, 4), (6, 4), (4, 6)]


def test_a_lone_request_waits_no_longer_than_the_delay_and_a_full_batch_not_at_all(models):
    bench = Bench(models["colors"], {"a": 0.0}, max_batch=4, max_delay_ms=200)

    async def story():
        lone = await bench.ask()
        full = await asyncio.gather(*(bench.ask() for _ in range(4)))
        return lone, full

    lone, full = bench.run(story)
    assert 195 < lone.queue_ms < 400
    assert max(outcome.queue_ms for outcome in full) < 150
    assert {outcome.batch for outcome in full} == {4}


def test_a_full_queue_refuses_at_once_and_names_a_time(models):
    bench = Bench(models["colors"], {"a": 0.1}, queue=3)

    async def story():
        asked = [asyncio.ensure_future(bench.ask()) for _ in range(12)]
        start = time.monotonic()
        await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        return time.monotonic() - start, await asyncio.gather(*asked, return_exceptions=True)

    seconds, results = bench.run(story)
    refused = [r for r in results if isinstance(r, OverloadedError)]
    assert seconds < 0.05
    assert len(refused) in (8, 9)  # 3 wait, and perhaps one already runs
    assert all(r.retry_after_s >= 1 for r in refused)


def test_a_wait_beyond_the_deadline_is_refused_before_it_begins(models):
    bench = Bench(models["colors"], {"a": 0.1}, queue=100)

    async def story():
        await bench.ask()  # from which the pace is known
        patient = [asyncio.ensure_future(bench.ask()) for _ in range(5)]
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match=r"too long for the 0\.2 s this request may take"):
            await bench.ask(within_s=0.2)
        return await asyncio.gather(*patient)

    assert len(bench.run(story)) == 5


def test_a_deadline_that_passes_in_the_queue_costs_no_run(models):
    bench = Bench(models["colors"], {"a": 0.15}, queue=100)

    async def story():
        first = asyncio.ensure_future(bench.ask())
        await asyncio.sleep(0.02)
        bench.service.scheduler._queue_of(bench.service.registry.model("a")).seconds_per_item = 0.0
        with pytest.raises(DeadlineError):
            await bench.ask(within_s=0.05)
        await first
        await asyncio.sleep(0.05)

    bench.run(story)
    assert len(bench.sessions["a"].shapes) == 1


def test_a_cancelled_request_gives_up_its_place_and_is_not_run(models):
    bench = Bench(models["colors"], {"a": 0.1}, queue=2)

    async def story():
        first = asyncio.ensure_future(bench.ask())
        await asyncio.sleep(0.02)
        gone = [asyncio.ensure_future(bench.ask(size=(9, 9))) for _ in range(2)]
        await asyncio.sleep(0.01)
        for request in gone:
            request.cancel()
        await asyncio.sleep(0.01)
        await asyncio.gather(bench.ask(), bench.ask())  # both places are free again
        await first

    bench.run(story)
    assert bench.sessions["a"].shapes == [(1, 4, 4, 3)] * 3


def test_a_flood_for_one_model_leaves_the_other_its_half_of_the_device(models):
    bench = Bench(models["colors"], {"a": 0.01, "b": 0.01}, queue=200)

    async def story():
        flood = [asyncio.ensure_future(bench.ask("a")) for _ in range(60)]
        await asyncio.sleep(0.05)
        start = time.monotonic()
        for _ in range(10):
            await bench.ask("b")
        seconds = time.monotonic() - start
        for request in flood:
            request.cancel()
        return seconds

    # Each of the ten waits for at most two runs of the other: one in progress, one whose turn came meanwhile.
    assert bench.run(story) < 10 * 0.03 + 0.15


def test_time_not_counts_is_shared(models):
    bench = Bench(models["colors"], {"slow": 0.04, "quick": 0.01}, queue=200)

    async def story():
        asked = [asyncio.ensure_future(bench.ask(name)) for name in ("slow", "quick") for _ in range(40)]
        await asyncio.sleep(0.6)
        for request in asked:
            request.cancel()

    bench.run(story)
    slow, quick = (bench.service.scheduler._queues[name].used_s for name in ("slow", "quick"))
    runs = [len(bench.sessions[name].shapes) for name in ("slow", "quick")]
    assert runs[0] < runs[1]
    assert abs(slow - quick) < 0.15  # of about 0.3 s each; a turn is 0.04 s, the rest is for a busy machine
