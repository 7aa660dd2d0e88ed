# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection: uvicorn's, with the limits on time and size that it leaves to a proxy.

Beyond the limit on connections a few more are taken, to see whether they ask for the health of the server: those are
answered whatever holds the others.

A client may be slow to send its headers, may never read its answer, may send headers without end, or may still be
sending a body that was refused. Each of these ends here, and costs a timer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from freqfusion_runtime.serving.operation.metrics import Metrics
from freqfusion_runtime.serving.operation.settings import Settings

# After an answer to a request that is still being sent, what arrives is read and dropped for so long: closing at once
# would reset the connection, and the client might never see the answer.
_LINGER_S = 2.0
_LINGER_BODIES = 8  # and up to so many times the longest body; a client that sends more does not look for an answer
# A stopping server leaves idle connections so long, for requests that are on their way.
_LAST_REQUEST_S = 0.2
RESERVED = 16  # connections beyond the limit
_RESERVED_S = 0.5  # for their headers
_HEALTH = b"/v2/health/"
_HEADER_OVERHEAD = 32  # bytes a header costs beside its text, so that many empty ones count


class _Transport:
    """A transport whose ``close`` asks the connection first."""

    def __init__(self, transport: Any, on_close: Callable[[], None]) -> None:
        self._transport, self._on_close = transport, on_close
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._on_close()

    def is_closing(self) -> bool:
        return self.is_lingering or bool(self._transport.is_closing())

    def really_close(self) -> None:
        self._transport.close()


def connection_class(settings: Settings, metrics: Metrics) -> type[Connection]:
    """Makes the protocol class for a server with these limits."""

    class LimitedConnection(Connection):
        limits = settings
        numbers = metrics

    return LimitedConnection


class Connection(HttpToolsProtocol):
    """See the module."""

    limits: Settings
    numbers: Metrics

    def connection_made(self, transport: Any) -> None:
        """Starts the clock for the first request."""
        self._transport = _Transport(transport, self._close)
        # Received bytes count while a head is incomplete, parsed ones when several come in one piece.
        self._is_in_head, self._head_bytes, self._parsed_bytes, self._fault = False, 0, 0, 400
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_last, self._is_idle = False, True
        self._messages_begun = self._dropped_bytes = 0
        super().connection_made(self._transport)  # type: ignore[arg-type]
        self.numbers.connections.set(len(self.connections))
        beyond = len(self.connections) - self.limits.max_connections
        self._is_reserved = self._is_last = beyond > 0
        if beyond > RESERVED:
            self._refuse_one_too_many()
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all clocks."""
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self.numbers.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Parses, unless the connection is only being emptied."""
        if self._transport.is_lingering:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _LINGER_BODIES * self.limits.max_body_bytes:
                self._transport.really_close()
            return
        was_idle = self._is_idle
        self._messages_begun = 0
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if was_idle and self._messages_begun == 1:
            self._head_bytes = len(data)
        if self._is_in_head and self._head_bytes > self.limits.max_header_kb * 1024:
            self._refuse_long_head()

    def on_message_begin(self) -> None:
        """Starts the clock and the account for a request's head."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes, self._parsed_bytes = True, 0, 0
        self._is_idle = False
        self._messages_begun += 1
        self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        """Counts the URL."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + _HEADER_OVERHEAD)

    def on_headers_complete(self) -> None:
        """Stops the clock and hands the request on."""
        self._is_in_head = False
        self._stop_timer()
        if self._is_reserved and not self.url.startswith(_HEALTH):
            self._fault = 503
            raise httptools.HttpParserError("one connection too many")
        super().on_headers_complete()
        if self._is_last and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Notes that the next byte begins another request."""
        self._is_idle = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Starts the clock for a client that does not read."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Stops that clock."""
        if self._write_timer is not None and not self._transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or too much of it."""
        if self._fault == 431:
            self._refuse_long_head()
        elif self._fault == 503:
            self._refuse_one_too_many()
        else:
            self._refuse(400, "the request is not valid HTTP/1.1. Check its request line, headers and lengths.")

    def on_response_complete(self) -> None:
        """Gives a refused request's body its time to end, since the connection is to be used again."""
        super().on_response_complete()
        cycle = self.cycle
        if cycle.response_complete and cycle.more_body and not self._transport.is_closing():
            self.loop.call_later(self.limits.body_timeout_s, self._close_if_unfinished, cycle)

    def _close_if_unfinished(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and not self._is_idle:
            self._transport.close()

    def shutdown(self) -> None:
        """Lets a request that has begun, or is on its way, be answered, and closes."""
        self._is_last = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif not self._is_in_head:
            self.loop.call_later(_LAST_REQUEST_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._is_in_head and (self.cycle is None or self.cycle.response_complete):
            self._transport.close()

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > self.limits.max_header_kb * 1024:
            self._fault = 431
            raise httptools.HttpParserError("head too long")

    def _refuse_long_head(self) -> None:
        self._refuse(431, f"the request line and headers are longer than {self.limits.max_header_kb:g} KiB. Send less.")

    def _refuse_one_too_many(self) -> None:
        self._refuse(503, f"{self.limits.max_connections} connections are open, which is the limit. Try again.")

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        lines = [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close"]
        if status == 503:
            lines.append(b"retry-after: 1")
        self.numbers.errors.labels(f"connection_{status}").inc()
        self._stop_timer()
        self._transport.write(STATUS_LINE[status] + b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self._linger()

    def _close(self) -> None:
        """Closes after what was written has left; reads on for a while where the client is still sending."""
        if self._transport.is_lingering or self._transport._transport.is_closing():
            return
        if self.cycle is not None and self.cycle.more_body and not self.cycle.disconnected:
            self._linger()
            return
        self._start_write_timer()
        self._transport.really_close()

    def _linger(self) -> None:
        self._transport.is_lingering = True
        self._start_write_timer()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self.loop.call_later(_LINGER_S, self._transport.really_close)

    def _start_head_timer(self) -> None:
        self._stop_timer()
        within_s = self.limits.header_timeout_s
        self._timer = self.loop.call_later(
            min(within_s, _RESERVED_S) if self._is_reserved else within_s, self._head_is_late
        )

    def _head_is_late(self) -> None:
        if self._is_reserved:
            self._refuse_one_too_many()
        elif self._is_in_head:
            self._refuse(408, f"the headers did not arrive in {self.limits.header_timeout_s:g} s. Send them faster.")
        else:
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_write_timer(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._transport.abort)
