# SPDX-License-Identifier: Apache-2.0
"""What every HTTP request needs: a record for log and metrics, its body within limits, an end when its client goes."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from freqfusion_runtime.serving.operation.errors import (
    BadRequestError,
    SlowClientError,
    TooLargeError,
    UnsupportedMediaError,
)
from freqfusion_runtime.serving.operation.settings import MEBIBYTE, Settings
from freqfusion_runtime.serving.operation.stages import Stages
from freqfusion_runtime.serving.scheduling.memory import Holding, MemoryBudget
from freqfusion_runtime.serving.scheduling.service import Service

T = TypeVar("T")

# Parsing shorter bodies takes less time than handing them to a thread.
INLINE_BYTES = 64 * 1024
FORM_TYPE = "application/x-www-form-urlencoded"
DEADLINE_HEADER = "X-Deadline-Ms"
_INFLATE_STEP = 1 * MEBIBYTE
_GRACE_S = 5.0  # before the least rate is demanded: a phone's connection may pause for seconds


@dataclass
class Record:
    """One request, for its log line and its numbers."""

    request_id: str
    holding: Holding
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    cause: str = ""
    error: str = ""
    received_bytes: int = 0
    stages: Stages = field(default_factory=Stages)


def record_of(request: Request) -> Record:
    """Finds the record that the guard made."""
    record: Record = request.scope["freqfusion.record"]
    return record


def new_record(request_id: str, budget: MemoryBudget) -> Record:
    """Starts the record of a request."""
    return Record(request_id, budget.hold())


def content_type(request: Request) -> str:
    """Reads the type of the body without its parameters, in lower case; empty where the client names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def deadline_of(request: Request, settings: Settings) -> float:
    """Reads when a request must be done, by ``time.monotonic()``: its own wish, or the server's limit if sooner.

    Raises:
        BadRequestError: If the header is no positive number.
    """
    asked = settings.deadline_ms
    text = request.headers.get(DEADLINE_HEADER)
    if text is not None:
        try:
            asked = float(text)
        except ValueError:
            asked = math.nan
        if not 0 < asked < math.inf:
            raise BadRequestError(
                f"header {DEADLINE_HEADER} must be a positive number of milliseconds, got {text[:40]!r}. Correct it."
            )
    return record_of(request).started + min(asked, settings.deadline_ms) / 1e3


async def read_body(request: Request, service: Service, deadline: float) -> bytes:
    """Reads a whole body, inflated where it came compressed. Bytes are held from when they arrive, not before.

    Args:
        request: The request.
        service: The server.
        deadline: By which it must be inflated, by ``time.monotonic()``.

    Raises:
        TooLargeError: If it is longer than the limit, as declared, as sent or as inflated.
        SlowClientError: If it does not arrive in time, or comes more slowly than the least rate.
        UnsupportedMediaError: If it is compressed in an unknown way.
        BadRequestError: If it ends early or cannot be inflated.
        OverloadedError: If what arrives is more than there is memory for now.
        DeadlineError: If inflating it takes too long.
    """
    record, settings = record_of(request), service.settings
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnsupportedMediaError(f"content encoding {encoding[:40]!r} is not known. Use gzip, deflate or none.")
    declared = int(request.headers.get("content-length") or 0)  # the HTTP parser has refused anything but digits
    if declared > settings.max_body_bytes:
        raise _too_long(f"{declared / MEBIBYTE:.1f} MiB", settings)
    pace = Pace(settings)
    try:
        body = await _collect(request, settings, record.holding, pace)
    except asyncio.CancelledError:
        if pace.is_late:
            raise pace.error() from None
        raise
    finally:
        pace.stop()
    record.received_bytes = len(body)
    if encoding == "identity":
        return body

    def inflate() -> bytes:
        return _inflate(body, encoding, settings, record.holding)

    return await service.in_thread(service.workers, inflate, record.holding, deadline)


async def _collect(request: Request, settings: Settings, holding: Holding, pace: Pace) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > settings.max_body_bytes:
            raise _too_long(f"more than {settings.max_body_mb:g} MiB", settings)
        holding.add(len(part))
        pace.received += len(part)
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    holding.add(length)
    body = b"".join(parts)
    del parts[:]
    holding.give_back(length)
    return body


class Pace:
    """Ends the present task if what it waits for comes too slowly; to be stopped when it has come.

    Args:
        settings: The least rate and the longest time.
    """

    def __init__(self, settings: Settings) -> None:
        self.received, self.is_late = 0, False
        self._settings, self._started = settings, time.monotonic()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def error(self) -> SlowClientError:
        """Words the answer to a client that was too slow."""
        whole, rate = self._settings.body_timeout_s, self._settings.min_body_rate_kb
        if time.monotonic() - self._started >= whole:
            return SlowClientError(f"the body did not arrive within {whole:g} s. Send it faster, or a smaller one.")
        return SlowClientError(
            f"{self.received} bytes of the body came in {time.monotonic() - self._started:.0f} s, fewer than "
            f"{rate:g} KiB/s. Send it faster, or start the server with a smaller --min-body-rate-kb."
        )

    def stop(self) -> None:
        """Stops the clock."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        settings = self._settings
        allowed_s = settings.body_timeout_s
        if settings.min_body_rate_kb > 0:
            allowed_s = min(allowed_s, _GRACE_S + self.received / (settings.min_body_rate_kb * 1024))
        left_s = self._started + allowed_s - time.monotonic()
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
        elif self._task is not None:
            self.is_late = True
            self._task.cancel()


def _too_long(length: str, settings: Settings) -> TooLargeError:
    return TooLargeError(
        f"the body has {length}, the limit is {settings.max_body_mb:g} MiB. Send less at a time, or start the server "
        "with a larger --max-body-mb."
    )


def _inflate(body: bytes, encoding: str, settings: Settings, holding: Holding) -> bytes:
    """Inflates step by step, so that a bomb costs no more than the limit."""
    stream = zlib.decompressobj(47 if encoding == "gzip" else 15)  # 47: gzip or zlib by its first bytes
    parts, length, rest = [], 0, body
    try:
        while not stream.eof:
            part = stream.decompress(rest, _INFLATE_STEP)
            if not part and not stream.unconsumed_tail:
                break
            length += len(part)
            if length > settings.max_body_bytes:
                raise _too_long(f"more than {settings.max_body_mb:g} MiB when inflated", settings)
            holding.add(2 * len(part))  # once more when they are joined
            parts.append(part)
            rest = stream.unconsumed_tail
    except zlib.error as e:
        raise BadRequestError(f"the body is not valid {encoding}: {e}. Compress it again, or send it plain.") from e
    if not stream.eof or stream.unused_data:
        reason = "it goes on after its end" if stream.eof else "it ends early"
        raise BadRequestError(f"the body is not valid {encoding}: {reason}. Compress it again, or send it plain.")
    inflated = b"".join(parts)
    holding.give_back(length)
    return inflated


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Does work on behalf of a client whose body has been read, and cancels it if the client goes away.

    Raises:
        ClientDisconnect: If it did.
    """
    working = asyncio.current_task()
    assert working is not None
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_left = True
        working.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if has_left:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()
