# SPDX-License-Identifier: Apache-2.0
"""Loading and watching: what a file may do to others, which is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.probing import Probe
from freqfusion_runtime.serving.scheduling.registry import ModelSource, Slot
from freqfusion_runtime.serving.scheduling.service import Service
from server_process import wait_until
from small_models import image_manifest, write_hostile_model, write_image_model

pytestmark = pytest.mark.serial


def running(service, story):
    """Runs ``story`` while the service does, and gives its result."""

    async def main():
        async with service.running():
            return await story()

    return asyncio.run(main())


async def until(condition):
    """Waits for a condition that another task or thread brings about."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
def children():
    """Gives the processes that this one has started since, in whichever thread."""

    def told() -> set[str]:
        found = set()
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                found |= set((task / "children").read_text().split())
        return found

    before = told()  # what tests that ran earlier keep, such as Python's tracker of shared memory
    return lambda: told() - before


@pytest.mark.parametrize("failure", [RecursionError("too deep"), MemoryError(), KeyError("x"), SystemExit(3)])
def test_any_failure_of_one_file_refuses_it_and_no_other(models, failure):
    def fail(path):
        raise failure

    sources = [ModelSource("bad", models["colors"], opener=fail), ModelSource("good", models["colors"])]
    service = Service(sources, Settings(reload_interval_s=0))

    async def story():
        await service.loading
        return [(slot.state, slot.problem) for slot in service.registry.slots]

    (state, problem), good = running(service, story)
    assert state == "UNAVAILABLE"
    assert type(failure).__name__ in problem
    assert good == ("READY", "")


def test_watching_goes_on_after_any_failure_and_tells_of_it(models, tmp_path):
    path = shutil.copy(models["colors"], tmp_path / "colors.onnx")
    service = Service([ModelSource("colors", path)], Settings(reload_interval_s=0.02))
    slot = service.registry.slots[0]

    def fail():
        raise RecursionError("too deep")

    async def story():
        await service.loading
        slot.new_stamp = fail
        await until(lambda: slot.problem)
        service.update_gauges()
        told = slot.problem, b'freqfusion_model_stale{model="colors",version="1"} 1.0' in service.metrics.render()
        await until(lambda: b"freqfusion_watcher_restarts_total 0.0" not in service.metrics.render())
        del slot.new_stamp
        write_image_model(tmp_path / "next.onnx", image_manifest(classes=("a", "b", "c", "d")))
        os.replace(tmp_path / "next.onnx", path)
        await until(lambda: slot.reloads == 1 and not slot.problem)
        await until(lambda: service.watcher.age_s < 1)
        return told

    problem, is_stale = running(service, story)
    assert "colors.onnx cannot be watched: unexpected RecursionError: too deep" in problem
    assert is_stale


def test_a_file_that_changed_while_it_was_refused_is_read_again(models, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"half a mod")

    def replace_then_fail(of):
        if of.stat().st_size == 10:
            shutil.copy(models["colors"], path)
            raise ModelFileError("is half there")
        return open_session(of)

    service = Service([ModelSource("net", path, opener=replace_then_fail)], Settings(reload_interval_s=0.02))
    slot = service.registry.slots[0]

    async def story():
        await service.loading
        assert slot.state == "UNAVAILABLE"
        await until(lambda: slot.state == "READY")

    running(service, story)


def test_a_model_without_end_is_given_up_and_keeps_no_other_waiting(models, tmp_path, children):
    endless = write_hostile_model(tmp_path / "endless.onnx", "endless")
    sources = [ModelSource("endless", endless), ModelSource("good", models["colors"])]
    service = Service(sources, Settings(reload_interval_s=0, load_timeout_s=4, threads=1))
    bad, good = service.registry.slots

    async def story():
        await until(lambda: good.state == "READY")
        assert bad.state == "LOADING"
        await service.loading

    running(service, story)
    assert f"{endless} was still being opened after 4 s, and was given up. Write it again" in bad.problem
    assert children() == set()


def test_a_thread_that_does_not_end_is_given_up(models):
    let_go = threading.Event()
    sources = [
        ModelSource("stuck", models["colors"], opener=lambda path: let_go.wait() and open_session(path)),
        ModelSource("good", models["colors"]),
    ]
    service = Service(sources, Settings(reload_interval_s=0, load_timeout_s=4))

    async def story():
        await service.loading
        return [slot.problem for slot in service.registry.slots]

    stuck, good = running(service, story)
    let_go.set()
    assert "was still being opened after 4 s, and its thread was given up" in stuck
    assert good == ""


def test_a_model_that_takes_more_memory_than_allowed_is_refused(tmp_path):
    greedy = write_hostile_model(tmp_path / "greedy.onnx", "greedy")
    with pytest.raises(ModelFileError, match=r"takes more than 2048 MiB of memory to be opened .* --load-memory-mb"):
        Probe(greedy, Settings(load_memory_mb=2048, threads=1)).run()


def test_a_model_that_ends_its_process_ends_no_other(tmp_path):
    probe = Probe(write_hostile_model(tmp_path / "endless.onnx", "endless"), Settings(threads=1))

    def crash():
        wait_until(lambda: probe._process is not None)
        os.kill(probe._process.pid, signal.SIGSEGV)

    threading.Thread(target=crash).start()
    with pytest.raises(ModelFileError, match=r"the process that opened it first died by SIGSEGV, as this one would"):
        probe.run()


def test_a_stop_while_a_model_is_opened_leaves_no_process(tmp_path, children):
    endless = write_hostile_model(tmp_path / "endless.onnx", "endless")
    service = Service([ModelSource("endless", endless)], Settings(reload_interval_s=0, threads=1))

    async def story():
        await until(children)

    start = time.monotonic()
    running(service, story)
    wait_until(lambda: children() == set())
    assert time.monotonic() - start < Settings().load_timeout_s / 4


def test_a_file_system_that_does_not_answer_is_told(models, monkeypatch):
    from freqfusion_runtime.serving.scheduling import watching

    monkeypatch.setattr(watching, "_LOOK_S", 0.1)
    service = Service([ModelSource("colors", models["colors"])], Settings(reload_interval_s=0.02))
    slot, let_go, looks = service.registry.slots[0], threading.Event(), []

    def hang():
        looks.append(1)
        let_go.wait()

    async def story():
        await service.loading
        slot.new_stamp = hang
        await until(lambda: "the file system has not answered" in slot.problem)
        await asyncio.sleep(0.3)
        let_go.set()

    running(service, story)
    assert len(looks) == 1  # and not a thread for each time nothing came


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff", b'{"task": 7}', None])
def test_a_bad_sidecar_stops_nothing(tmp_path, content):
    sidecar = tmp_path / "net.json"
    if content is None:
        os.mkfifo(sidecar)
    else:
        sidecar.write_bytes(content)
    assert Slot(ModelSource("net", tmp_path / "net.onnx")).told_task is None


def test_what_is_no_file_is_not_opened_as_a_model(tmp_path):
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=r"net\.onnx is a FIFO\. Name an ONNX file"):
        open_session(tmp_path / "net.onnx")
