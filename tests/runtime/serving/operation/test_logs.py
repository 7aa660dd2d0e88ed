# SPDX-License-Identifier: Apache-2.0
"""The log takes what it can hold and counts the rest, by bytes, whatever clients put into a line."""

from __future__ import annotations

import json
import threading

import pytest
from freqfusion_runtime.serving.operation import logs
from freqfusion_runtime.serving.operation.logs import EventLog


class Stuck:
    """A file that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.text = ""

    def write(self, text: str) -> None:
        self.go_on.wait(20)
        self.text += text

    def flush(self) -> None:
        """Nothing is kept back."""


@pytest.fixture
def stuck(monkeypatch):
    file = Stuck()
    monkeypatch.setattr(logs, "_open", lambda path: file)
    yield file
    file.go_on.set()


@pytest.mark.parametrize("length", [10, 100_000])
def test_waiting_lines_are_bounded_by_their_bytes(stuck, monkeypatch, length):
    monkeypatch.setattr(logs, "_WAITING_BYTES", 1_000_000)
    lost = []
    log = EventLog(on_loss=lost.append)
    for number in range(20_000):
        log.event("request", number=number, path="/" * length)
    assert log._waiting <= 1_000_000
    taken = 20_000 - sum(lost)
    assert 500 < taken < 8_000  # lines of 160 to 1,160 bytes
    stuck.go_on.set()
    log.close(20)
    lines = [json.loads(line) for line in stuck.text.splitlines()]
    assert [line["number"] for line in lines] == list(range(taken))  # the first, whole and in order
    assert {len(line["path"]) for line in lines} == {min(length, 1000)}
    assert log._waiting == 0


def test_a_traceback_is_written_whole(stuck):
    stuck.go_on.set()
    log = EventLog()
    log.event("unexpected_error", traceback="x" * 5000)
    log.close(20)
    assert len(json.loads(stuck.text)["traceback"]) == 5000
