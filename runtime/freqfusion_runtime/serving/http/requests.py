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

T = TypeVar("T")

DEADLINE_HEADER = "X-Deadline-Ms"
_INFLATE_STEP = 1 * MEBIBYTE


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


async def read_body(request: Request, settings: Settings) -> bytes:
    """Reads a whole body, inflated where it came compressed.

    Raises:
        TooLargeError: If it is longer than the limit, as declared, as sent or as inflated.
        SlowClientError: If it does not arrive in time.
        UnsupportedMediaError: If it is compressed in an unknown way.
        BadRequestError: If it ends early or cannot be inflated.
    """
    record = record_of(request)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnsupportedMediaError(f"content encoding {encoding[:40]!r} is not known. Use gzip, deflate or none.")
    declared = int(request.headers.get("content-length") or 0)  # the HTTP parser has refused anything but digits
    if declared > settings.max_body_bytes:
        raise _too_long(f"{declared / MEBIBYTE:.1f} MiB", settings)
    record.holding.add(declared)
    try:
        body = await asyncio.wait_for(_collect(request, declared, settings, record.holding), settings.body_timeout_s)
    except asyncio.TimeoutError as e:
        raise SlowClientError(
            f"the body did not arrive within {settings.body_timeout_s:g} s. Send it faster, or a smaller one."
        ) from e
    record.received_bytes = len(body)
    if encoding == "identity":
        return body
    return _inflate(body, encoding, settings, record.holding)


async def _collect(request: Request, declared: int, settings: Settings, holding: Holding) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > settings.max_body_bytes:
            raise _too_long(f"more than {settings.max_body_mb:g} MiB", settings)
        if length > declared:
            holding.add(len(part))
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
            holding.add(len(part))
            parts.append(part)
            rest = stream.unconsumed_tail
    except zlib.error as e:
        raise BadRequestError(f"the body is not valid {encoding}: {e}. Compress it again, or send it plain.") from e
    if not stream.eof or stream.unused_data:
        reason = "it goes on after its end" if stream.eof else "it ends early"
        raise BadRequestError(f"the body is not valid {encoding}: {reason}. Compress it again, or send it plain.")
    return b"".join(parts)


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
