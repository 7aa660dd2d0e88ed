# SPDX-License-Identifier: Apache-2.0
"""Bodies are held as they arrive, and must arrive at a pace."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from freqfusion_runtime.serving.http import requests
from freqfusion_runtime.serving.http.requests import new_record, read_body
from freqfusion_runtime.serving.operation.errors import OverloadedError, SlowClientError, TooLargeError
from freqfusion_runtime.serving.operation.settings import MEBIBYTE, Settings
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.scheduling.service import Service
from starlette.requests import Request

LATER = float("inf")


@pytest.fixture
def read(models):
    """Gives a function that reads a body of parts, each sent after a pause, and tells what was held on the way."""

    def tell(parts: list[bytes], pause_s: float = 0.0, headers: dict[str, str] | None = None, **settings):
        held = []

        async def main():
            service = Service([ModelSource("colors", models["colors"])], Settings(grpc_port=None, **settings))
            record = new_record("x", service.memory)
            left = list(parts)

            async def receive():
                held.append(service.memory.held)
                await asyncio.sleep(pause_s)
                return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

            raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
            scope = {"type": "http", "headers": raw, "freqfusion.record": record}
            try:
                return await read_body(Request(scope, receive), service, LATER), held, service.memory.held
            finally:
                record.holding.release()
                assert service.memory.held == 0
                service.log.close()

        return asyncio.run(main())

    return tell


def test_bytes_are_held_when_they_are_there_and_not_when_they_are_announced(read):
    body, held, after = read([bytes(1000)] * 5, headers={"content-length": "5000"})
    assert body == bytes(5000)
    assert held == [0, 1000, 2000, 3000, 4000]
    assert after == 5000  # and not what joining them took


def test_more_than_there_is_memory_for_is_refused_while_it_arrives(read):
    with pytest.raises(TooLargeError, match="--max-memory-mb"):
        read([bytes(MEBIBYTE)] * 4, max_memory_mb=2.5)


def test_a_bomb_is_charged_as_it_grows(read):
    bomb = gzip.compress(bytes(8 * MEBIBYTE))
    assert len(bomb) < 10_000
    body, _, after = read([bomb], headers={"content-encoding": "gzip"})
    assert len(body) == 8 * MEBIBYTE
    assert after == len(bomb) + len(body)
    with pytest.raises((TooLargeError, OverloadedError)):
        read([bomb], headers={"content-encoding": "gzip"}, max_memory_mb=6)


@pytest.fixture
def no_grace(monkeypatch):
    monkeypatch.setattr(requests, "_GRACE_S", 0.2)


@pytest.mark.usefixtures("no_grace")
def test_a_body_that_comes_more_slowly_than_the_least_rate_is_refused(read):
    with pytest.raises(
        SlowClientError, match=r"\d+ bytes of the body came in \d+ s, fewer than 16 KiB/s\. .* --min-body-rate-kb"
    ):
        read([b"x" * 100] * 1000, pause_s=0.05)


@pytest.mark.usefixtures("no_grace")
def test_one_that_keeps_the_pace_may_take_as_long_as_bodies_may(read):
    assert len(read([bytes(4096)] * 12, pause_s=0.05)[0]) == 12 * 4096  # three times as long as the grace
    assert len(read([bytes(1)] * 12, pause_s=0.05, min_body_rate_kb=0.0)[0]) == 12
    with pytest.raises(
        SlowClientError, match=r"the body did not arrive within 0\.3 s\. Send it faster, or a smaller one\."
    ):
        read([bytes(4096)] * 100, pause_s=0.05, body_timeout_s=0.3)
