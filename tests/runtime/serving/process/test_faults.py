# SPDX-License-Identifier: Apache-2.0
"""Faults while serving: model files that vanish or are bad, engines that fail, full disks, and the end by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.serving.client import Client
from freqfusion_runtime.serving.operation.errors import ModelFailedError, NotReadyError
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.registry import ModelSource, Slot, parse_source
from freqfusion_runtime.serving.scheduling.service import Service
from server_process import ServerProcess, photo, png, wait_until
from small_models import image_manifest, keep_weights_outside, write_image_model


@pytest.fixture
def own_model(models, tmp_path):
    return shutil.copy(models["colors"], tmp_path / "colors.onnx")


def ready_problems(server) -> dict:
    return json.loads(server.ask("GET", "/v2/health/ready")[2])["problems"]


def served_classes(server) -> list[str]:
    return [c["name"] for c in json.loads(server.ask("GET", "/v1/models")[2])["models"][0]["classes"]]


def test_a_model_file_may_vanish_turn_to_garbage_and_be_replaced_without_a_failed_request(own_model, tmp_path):
    server = ServerProcess([own_model], "--reload-interval-s", "0.1", folder=tmp_path)
    picture = png(photo(16, 16))
    statuses: list[int] = []
    done = threading.Event()

    def ask_all_the_time():
        while not done.is_set():
            statuses.append(server.ask("POST", "/v1/segment", picture)[0])

    asking = threading.Thread(target=ask_all_the_time)
    asking.start()
    try:
        own_model.unlink()
        wait_until(lambda: "cannot be read" in ready_problems(server).get("colors:1", ""))
        assert server.metric("freqfusion_model_stale") == 1

        own_model.write_bytes(b"garbage" * 1000)
        wait_until(lambda: "is no ONNX model" in ready_problems(server).get("colors:1", ""))
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        index = json.loads(server.ask("POST", "/v2/repository/index")[2])
        assert (index[0]["state"], "no ONNX model" in index[0]["reason"]) == ("READY", True)

        replacement = tmp_path / "next.onnx"
        write_image_model(replacement, image_manifest(classes=("a", "b", "c", "d")))
        os.replace(replacement, own_model)
        wait_until(lambda: served_classes(server) == ["a", "b", "c", "d"])
        assert ready_problems(server) == {}
        assert server.metric("freqfusion_model_reloads") == 1
    finally:
        done.set()
        asking.join()
        server.terminate()
    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_weights_outside_the_model_file_are_watched_like_it(own_model):
    slot = Slot(parse_source(keep_weights_outside(own_model)))
    data = own_model.with_name("colors.data")
    with pytest.warns(UserWarning, match="keeps weights in colors.data"):
        slot.accept(slot.load(Settings()))
    assert slot.new_stamp() is None
    changed = data.with_name("changed")
    changed.write_bytes(data.read_bytes()[::-1])
    os.replace(changed, data)
    assert slot.new_stamp() is not None
    served = slot.model.sha256
    with pytest.warns(UserWarning, match="keeps weights in"):
        slot.accept(slot.load(Settings()))
    assert slot.model.sha256 != served
    data.unlink()
    assert slot.new_stamp() is None
    assert "keeps weights in colors.data, which is not beside it" in slot.problem


def test_a_server_whose_model_is_bad_from_the_start_is_live_and_not_ready(tmp_path, models):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"x")
    server = ServerProcess([models["colors"], bad], folder=tmp_path)
    try:
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 503
        assert server.ask("GET", "/v2/models/colors/ready")[0] == 200
        assert server.ask("GET", "/v2/models/bad/ready")[0] == 503
        status, reason = server.error("POST", "/v2/models/bad/infer", b"{}")
        assert (status, "model 'bad' is not ready" in reason) == (503, True)
        assert server.ask("POST", "/v1/segment", png(photo()))[0] == 200
    finally:
        server.terminate()


def test_a_full_disk_for_logs_loses_lines_and_no_request(models, tmp_path):
    server = ServerProcess([models["colors"]], "--log-file", "/dev/full", folder=tmp_path)
    try:
        for _ in range(5):
            assert server.ask("POST", "/v1/segment", png(photo()))[0] == 200
        wait_until(lambda: server.metric("freqfusion_log_lines_lost_total") >= 5)
    finally:
        assert server.terminate() == 0


def test_a_folder_as_log_file_is_refused_at_once(models, tmp_path):
    with pytest.raises(AssertionError, match="cannot be written: is a directory"):
        ServerProcess([models["colors"]], "--log-file", str(tmp_path), folder=tmp_path)


class Fragile:
    """A real session that fails in a chosen way on a picture whose first value is 13."""

    def __init__(self, path, failure: BaseException) -> None:
        self._inner, self._failure = open_session(path), failure

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def run(self, inputs):
        if inputs["image"].flat[0] == 13 or (inputs["image"][:, 0, 0, 0] == 13).any():
            raise self._failure
        return self._inner.run(inputs)


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_an_engine_that_fails_fails_only_the_request_that_did_it(models, failure):
    source = ModelSource("fragile", models["colors"], opener=lambda path: Fragile(path, failure))
    service = Service([source], Settings(max_batch=4, max_delay_ms=50, reload_interval_s=0))

    async def run():
        async with service.running():
            await service.loading
            model = service.registry.model("fragile")
            pictures = [np.full((1, 4, 4, 3), value, np.uint8) for value in (7, 13, 20)]
            deadline = time.monotonic() + 10
            calls = [service.scheduler.infer(model, {"image": picture}, deadline) for picture in pictures]
            return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert isinstance(second, ModelFailedError)
    assert first.outputs["labels"].shape == third.outputs["labels"].shape == (1, 4, 4)


def test_a_stopped_scheduler_answers_what_waits(models):
    service = Service([ModelSource("colors", models["colors"])], Settings(max_batch=8, max_delay_ms=60_000))

    async def run():
        async with service.running():
            await service.loading
            model = service.registry.model("colors")
            inputs = {"image": np.zeros((1, 4, 4, 3), np.uint8)}
            waiting = asyncio.ensure_future(service.scheduler.infer(model, inputs, time.monotonic() + 100))
            await asyncio.sleep(0.05)
        return await asyncio.gather(waiting, return_exceptions=True)

    assert isinstance(asyncio.run(run())[0], NotReadyError)


def test_sigterm_finishes_what_was_accepted_and_says_so_first(models, tmp_path):
    server = ServerProcess([models["means"]], "--drain-delay-s", "1", folder=tmp_path)
    picture = png(photo(700, 900))
    statuses: list[object] = []

    def ask():
        try:
            statuses.append(server.ask("POST", "/v1/segment?model=means", picture)[0])
        except OSError as e:
            statuses.append(e)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    wait_until(lambda: server.metric("freqfusion_requests_in_flight") > 4)
    server.process.terminate()
    wait_until(lambda: server.ask("GET", "/v2/health/ready")[0] == 503)
    status, headers, _ = server.ask("GET", "/v2/health/live")
    assert (status, headers["connection"]) == (200, "close")
    for asker in askers:
        asker.join()
    assert statuses == [200] * 8
    assert server.terminate() == 0
    assert [e["event"] for e in server.events()][-1] == "stopped"


def test_sources_are_read_as_documented_and_bad_names_refused(tmp_path):
    assert parse_source("a/b.onnx") == ModelSource("b", parse_source("a/b.onnx").path, "1")
    assert parse_source("net:3=a/b.onnx").version == "3"
    for text in ("../x=a.onnx", "a b=c.onnx", "net:0=c.onnx", "net:x=c.onnx", "=c.onnx"):
        with pytest.raises(ModelFileError, match="cannot be served under that name"):
            parse_source(text)
    with pytest.raises(ModelFileError, match="both called net:1"):
        Service([ModelSource("net", tmp_path), ModelSource("net", tmp_path)], Settings())
    with pytest.raises(ModelFileError, match="there is no model to serve"):
        Service([], Settings())


def worker_of(server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def test_a_worker_that_dies_is_replaced_and_clients_wait_instead_of_being_refused(models, tmp_path):
    server = ServerProcess([models["colors"]], "--restarts", "3", folder=tmp_path)
    try:
        first = worker_of(server)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{first}").exists())
        assert Client(server.url, retries=8).labels(png(photo())).shape == (60, 80)
        assert worker_of(server) != first
    finally:
        assert server.terminate() == 0


def test_a_worker_that_dies_too_often_is_given_up(models, tmp_path):
    server = ServerProcess([models["colors"]], "--restarts", "1", folder=tmp_path)
    for _ in range(2):
        wait_until(lambda: Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text())
        os.kill(worker_of(server), signal.SIGKILL)
        time.sleep(0.3)
    _, error = server.process.communicate(timeout=10)
    assert server.process.returncode == 1
    assert "the worker died 2 times, by SIGKILL" in error
