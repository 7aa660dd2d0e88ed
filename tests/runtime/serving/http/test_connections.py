# SPDX-License-Identifier: Apache-2.0
"""Clients that are slow, never read, never stop, or speak no HTTP: each costs a timer and a refusal."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest
from freqfusion_runtime.serving.operation.errors import OverloadedError
from freqfusion_runtime.serving.scheduling.memory import MemoryBudget
from server_process import ServerProcess, photo, png, wait_until


@pytest.fixture(scope="module")
def strict(models, tmp_path_factory):
    """A server with short times and few connections."""
    started = ServerProcess(
        [models["colors"]],
        *("--header-timeout-s", "1", "--body-timeout-s", "1", "--write-timeout-s", "1", "--max-connections", "20"),
        *("--max-memory-mb", "256", "--max-body-mb", "40"),
        folder=tmp_path_factory.mktemp("strict"),
    )
    yield started
    assert started.terminate() == 0


def connect(server, receive_buffer: int | None = None) -> socket.socket:
    raw = socket.socket()
    raw.settimeout(8)
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.connect(("127.0.0.1", server.port))
    return raw


def everything(raw: socket.socket) -> bytes:
    parts = []
    while part := raw.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_headers_that_trickle_in_end_with_408(strict):
    with closing(connect(strict)) as raw:
        start = time.monotonic()
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(4):
            time.sleep(0.2)
            raw.sendall(b"X: y\r\n")
        answer = everything(raw)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"headers did not arrive in 1 s" in answer
    assert time.monotonic() - start < 5


def test_a_connection_that_says_nothing_is_closed(strict):
    with closing(connect(strict)) as raw:
        assert everything(raw) == b""


def test_a_body_that_trickles_in_ends_with_408(strict):
    with closing(connect(strict)) as raw:
        raw.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        answer = everything(raw)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body did not arrive within 1 s" in answer


def test_chunks_without_end_are_cut_off_and_the_client_sees_why(strict):
    with closing(connect(strict)) as raw:
        raw.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
        sent = 0
        try:
            while sent < 2000:
                raw.sendall(chunk)
                sent += 1
        except OSError:
            pass
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert 40 <= sent < 2000


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, id="one-long-header"),
        pytest.param(b"GET /" + b"a" * 100_000, id="long-line"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(10_000)), id="many-headers"),
    ],
)
def test_long_heads_end_with_431(strict, head):
    with closing(connect(strict)) as raw:
        raw.sendall(head)
        assert raw.recv(65536).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # a TLS greeting
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        bytes(range(256)) * 4,
    ],
)
def test_what_is_no_http_is_refused(strict, data):
    with closing(connect(strict)) as raw:
        raw.sendall(data)
        answer = raw.recv(65536)
    assert answer.split(b" ")[1] in (b"400", b"408")


def test_a_client_that_never_reads_is_dropped_and_its_memory_freed(strict):
    picture = png(photo(3000, 4000))
    request = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n"
    request += b"Content-Length: %d\r\n\r\n"
    held = []
    with closing(connect(strict, receive_buffer=4096)) as raw:
        raw.sendall(request % len(picture) + picture)
        wait_until(lambda: held.append(strict.metric("freqfusion_held_bytes")) or held[-1] >= 12_000_000)
        wait_until(lambda: strict.metric("freqfusion_held_bytes") == 0)  # after 1 s, though nothing was read


def test_more_connections_than_the_limit_are_told_so(strict):
    crowd = [connect(strict) for _ in range(20)]
    try:
        with closing(connect(strict)) as raw:
            assert raw.recv(65536).startswith(b"HTTP/1.1 503 ")
    finally:
        for raw in crowd:
            raw.close()
    wait_until(lambda: strict.ask("GET", "/v2/health/ready")[0] == 200)


def test_health_is_answered_while_slow_headers_hold_every_place(strict):
    crowd = [connect(strict) for _ in range(20)]
    try:
        for raw in crowd:
            raw.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\n")
        assert strict.ask("GET", "/v2/health/live")[0] == 200
        assert strict.ask("GET", "/v2/health/ready")[0] == 200
        status, reason = strict.error("GET", "/v1/models")
        assert status == 503
        assert reason == "20 connections are open, which is the limit. Try again."
    finally:
        for raw in crowd:
            raw.close()
    wait_until(lambda: strict.ask("GET", "/v1/models")[0] == 200)


def test_declared_lengths_hold_nothing(strict):
    crowd = [connect(strict) for _ in range(15)]  # 600 MB in words, of 256
    try:
        for raw in crowd:
            raw.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000000\r\n\r\n" + bytes(1000)
            )
        wait_until(lambda: strict.metric("freqfusion_requests_in_flight") >= 15)
        assert strict.metric("freqfusion_held_bytes") <= 15 * 1000
        assert strict.ask("POST", "/v1/segment", png(photo()))[0] == 200
    finally:
        for raw in crowd:
            raw.close()


def test_a_picture_that_memory_can_never_hold_is_refused_before_it_is_decoded(strict):
    status, reason = strict.error("POST", "/v1/segment", png(photo(5000, 5000)))
    assert status == 413
    assert "needs 382 MiB" in reason
    assert reason.endswith("start the server with a larger --max-memory-mb.")


def test_requests_that_do_not_fit_in_memory_together_are_told_to_come_back():
    budget = MemoryBudget(100)
    with budget.hold(60), pytest.raises(OverloadedError, match="Try again when some are done"):
        budget.hold(60)
    with budget.hold(60) as holding:
        holding.add(40)
        assert budget.held == 100
    assert budget.held == 0


def test_a_client_that_leaves_frees_its_place(strict):
    picture = png(photo(1500, 2000))
    request = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture
    for _ in range(10):
        with closing(connect(strict)) as raw:
            raw.sendall(request)
    wait_until(lambda: strict.metric("freqfusion_requests_in_flight") <= 1)
    wait_until(lambda: strict.metric("freqfusion_held_bytes") == 0)


def test_requests_sent_before_their_answers_are_all_answered(strict):
    with closing(connect(strict)) as raw:
        raw.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
        answer = b""
        while answer.count(b'{"live":true}') < 5:
            part = raw.recv(65536)
            assert part
            answer += part
