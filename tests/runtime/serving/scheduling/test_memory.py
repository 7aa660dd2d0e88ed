# SPDX-License-Identifier: Apache-2.0
"""What requests may cost together: charged before it is spent, and until the last thread has let go of it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.serving.operation.errors import DeadlineError, OverloadedError, TooLargeError
from freqfusion_runtime.serving.operation.settings import MEBIBYTE, Settings
from freqfusion_runtime.serving.scheduling.footprint import Footprint, Run, measure
from freqfusion_runtime.serving.scheduling.memory import MemoryBudget
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.scheduling.service import Service
from small_models import image_manifest, tensor_manifest

SOON = 20.0


def test_what_is_given_back_can_be_taken_again():
    budget = MemoryBudget(100)
    with budget.hold(60) as holding:
        holding.give_back(50)
        assert (budget.held, holding.size) == (10, 10)
        holding.give_back(50)  # more than there is
        assert budget.held == 0
        holding.add(100)
    assert budget.held == 0


def test_a_request_that_can_never_fit_is_told_so_even_if_it_grows_step_by_step():
    budget = MemoryBudget(100 * MEBIBYTE)
    with budget.hold(60 * MEBIBYTE) as holding:
        with pytest.raises(TooLargeError, match=r"needs 120 MiB to be worked on, all .* have 100 MiB\. Send less"):
            holding.add(60 * MEBIBYTE)
        with pytest.raises(OverloadedError, match=r"hold 60 MiB of the 100 MiB .* this one needs 50\.0 MiB more"):
            budget.hold(50 * MEBIBYTE)


def test_what_a_thread_still_works_on_is_held_after_the_request_has_ended():
    budget = MemoryBudget(100)
    holding = budget.hold(60)
    part = holding.shared()
    holding.release()
    assert budget.held == 60
    part.release()
    assert budget.held == 0


class Slow:
    """A session that notes what it runs, one run at a time, and keeps to a pace."""

    def __init__(self, path, seconds: float = 0.0) -> None:
        self._inner, self._seconds = open_session(path), seconds
        self.shapes: list[tuple[int, ...]] = []
        self.held: list[int] = []
        self.look = int

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def run(self, inputs):
        self.shapes.append(inputs["image"].shape)
        self.held.append(self.look())
        time.sleep(self._seconds)
        return self._inner.run(inputs)


@pytest.fixture
def served(models):
    """Gives a function that serves the small image model and tells a story to the service and its session."""

    def serve(story, seconds: float = 0.0, **settings):
        sessions = []

        def opener(path):
            sessions.append(Slow(path, seconds))
            return sessions[-1]

        async def main():
            service = Service(
                [ModelSource("colors", models["colors"], opener=opener)],
                Settings(reload_interval_s=0, grpc_port=None, **settings),
            )
            async with service.running():
                await service.loading
                sessions[0].shapes.clear()
                sessions[0].held.clear()
                sessions[0].look = lambda: service.memory.held
                return await story(service, sessions[0])

        return asyncio.run(main())

    return serve


def pictures(count: int, height: int = 1, width: int = 1) -> dict[str, np.ndarray]:
    return {
        "image": np.arange(count * height * width * 3, dtype=np.uint32).astype(np.uint8).reshape(-1, height, width, 3)
    }


def test_a_batch_is_run_in_turns_of_max_batch_and_gives_what_each_gives_alone(served):
    inputs = pictures(7, 2, 3)

    async def story(service, session):
        model = service.registry.model("colors")
        outcome = await service.scheduler.infer(model, inputs, time.monotonic() + SOON)
        return session.shapes, outcome, session._inner.run(inputs)

    shapes, outcome, alone = served(story, max_batch=3)
    assert [shape[0] for shape in shapes] == [3, 3, 1]
    assert outcome.batch == 3
    np.testing.assert_array_equal(outcome.outputs["labels"], alone["labels"])


def test_a_few_bytes_that_become_many_network_pixels_are_charged_as_such(served):
    """1 x 1 pictures, which the network may resize to 512 x 512 each."""

    async def story(service, session):
        model = service.registry.model("colors")
        expected = model.footprint.network * 512 * 512
        await service.scheduler.infer(model, pictures(100), time.monotonic() + SOON)
        one, session.held[:] = session.held[0], []
        assert one >= expected
        await service.scheduler.infer(model, pictures(8), time.monotonic() + SOON)
        after = service.memory.held
        return one, session.held, after

    one, held, after = served(story)
    assert set(held) == {one}  # runs follow each other: many pictures take no more than one
    assert after == 0


def test_a_run_that_needs_more_than_there_is_is_refused_before_it_begins(served):
    async def story(service, session):
        model = service.registry.model("colors")
        with pytest.raises(TooLargeError, match="Send less at a time, or start the server with a larger --max-mem"):
            await service.scheduler.infer(model, pictures(4), time.monotonic() + SOON)
        assert session.shapes == []
        assert service.memory.held == 0

    served(story, max_batch=4, max_memory_mb=4 * 24 * 512 * 512 / MEBIBYTE - 1)


def test_the_deadline_ends_a_batch_between_its_turns_and_others_have_theirs(served):
    async def story(service, session):
        model, start = service.registry.model("colors"), time.monotonic()
        long = asyncio.ensure_future(service.scheduler.infer(model, pictures(1000), start + 1.0))
        await asyncio.sleep(0.2)
        await service.scheduler.infer(model, pictures(1, 2, 2), start + SOON)  # in between
        assert not long.done()
        with pytest.raises(DeadlineError):
            await long
        await asyncio.sleep(0.2)
        ran = len(session.shapes)
        await asyncio.sleep(0.2)
        assert len(session.shapes) == ran < 1000
        assert service.memory.held == 0

    served(story, seconds=0.02)


def test_a_batch_that_cannot_be_done_in_time_is_refused_once_the_model_s_pace_is_known(served):
    async def story(service, session):
        model = service.registry.model("colors")
        await service.scheduler.infer(model, pictures(1), time.monotonic() + SOON)
        session.shapes.clear()
        with pytest.raises(
            TooLargeError, match=r"1000 such inputs keep model 'colors' busy for \d+ s, and .* Send fewer"
        ):
            await service.scheduler.infer(model, pictures(1000), time.monotonic() + 2.0)
        assert session.shapes == []

    served(story, seconds=0.02)


def test_what_expires_in_the_queue_gives_its_memory_back(served):
    async def story(service, session):
        model = service.registry.model("colors")
        admission = service.scheduler.admit(model, time.monotonic() + SOON)
        future = service.scheduler.submit(model, pictures(1), time.monotonic() - 1.0, admission)
        with pytest.raises(DeadlineError, match="time ended in the queue"):
            await asyncio.wrap_future(future)
        assert session.shapes == []
        assert service.memory.held == 0

    served(story)


def test_a_run_that_nobody_waits_for_is_held_until_it_ends(served):
    async def story(service, session):
        model = service.registry.model("colors")
        holding = service.memory.hold(5 * MEBIBYTE)
        admission = service.scheduler.admit(model, time.monotonic() + SOON)
        with pytest.raises(DeadlineError):
            await service.scheduler.infer(model, pictures(1), time.monotonic() + 0.2, admission, holding)
        holding.release()
        assert service.memory.held >= 5 * MEBIBYTE
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not service.memory.held:
                return
        raise AssertionError("never given back")

    served(story, seconds=1.0)


def test_the_deadline_covers_work_in_threads_and_its_memory_is_held_until_it_ends(served):
    async def story(service, session):
        holding, go_on = service.memory.hold(7), threading.Event()
        with pytest.raises(DeadlineError, match=r"time ended while its body was being read"):
            await service.in_thread(service.readers, lambda: go_on.wait(10), holding, time.monotonic() + 0.1)
        begun = []
        with pytest.raises(DeadlineError):  # the thread is taken, so this one never begins
            await service.in_thread(service.readers, lambda: begun.append(1), holding, time.monotonic() + 0.1)
        assert await service.in_thread(service.workers, lambda: 5, holding, time.monotonic() + SOON) == 5
        holding.release()
        assert service.memory.held == 7
        go_on.set()
        while service.memory.held:
            await asyncio.sleep(0.01)
        assert begun == []

    served(story)


def test_a_run_costs_the_networks_pixels_and_the_pictures():
    footprint = Footprint(network=100.0, picture=10.0)
    assert footprint.run_bytes(image_manifest(), (100, 1, 1, 3)) == 100 * (100 * 512 * 512 + 10)
    assert footprint.run_bytes(image_manifest(), (1, 1000, 3000, 3)) == 100 * 512 * 1536 + 10 * 3_000_000
    assert footprint.run_bytes(tensor_manifest(), (2, 3, 64, 96)) == 2 * 100 * 64 * 96


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a peak that is gone")
def test_what_a_pixel_costs_is_measured():
    kept = []

    def take(size: int) -> None:
        kept.append(np.ones(size, np.uint8))

    first = Run(lambda: take(64 * MEBIBYTE), 1 << 18, 1 << 18)
    second = Run(lambda: take(48 * MEBIBYTE), 1 << 18, 1 << 20)
    footprint = measure(first, second)
    assert footprint.network == pytest.approx(64 * MEBIBYTE / (1 << 18), rel=0.1)
    assert footprint.picture == pytest.approx(48 * MEBIBYTE / ((1 << 20) - (1 << 18)), rel=0.1)
    kept.clear()
    twice = measure(first, Run(lambda: take(192 * MEBIBYTE), 1 << 19, 1 << 20))
    assert twice.network == pytest.approx(256 * MEBIBYTE / (1 << 19), rel=0.1)
    nothing = measure(Run(list, 1 << 18, 1 << 18), None)
    assert nothing == Footprint()  # what the tensors themselves take
