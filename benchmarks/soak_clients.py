# SPDX-License-Identifier: Apache-2.0
"""The clients of soak.py, in processes of their own: honest ones, which check their answers, and a hostile mix.

The plan is JSON on standard input, the result JSON on standard output; ``kind`` is ``honest`` or ``hostile``.
Everything goes to loopback and is bounded in time, number and size; the hostile forms cost who sends them next to
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TIMEOUT_S = 20.0
HALF_OPEN = 40  # connections that declare a body and send none of it
MOST_RESULTS = 500_000

Result = tuple[float, float, str]  # when it began by the monotonic clock, seconds it took, how it ended


class Connection:
    """One kept connection to the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a request; gives status and body."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        body = await self._reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Ends it."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


def request(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Words a request; ``Host`` and ``Content_Length`` can be given, too."""
    fields = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def honest(plan: dict[str, Any]) -> list[Result]:
    """Asks for labels, each client again once it is answered, or all at ``rate`` a second; checks the bytes."""
    port, results = plan["port"], list[Result]()
    expected = Path(plan["expected"]).read_bytes()
    picture = Path(plan["picture"]).read_bytes()
    asked = request(
        port, "POST", "/v1/segment?model=m", picture, Accept="application/octet-stream", Content_Type="image/png"
    )
    end = time.monotonic() + plan["seconds"]

    async def one(connection: Connection, start: float) -> None:
        try:
            status, body = await asyncio.wait_for(connection.ask(asked), TIMEOUT_S)
            outcome = ("right" if body == expected else "wrong") if status == 200 else str(status)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError) as e:
            outcome = f"lost: {type(e).__name__}"
            connection.close()
        results.append((start, time.monotonic() - start, outcome))
        if outcome != "right":
            await asyncio.sleep(0.05)  # as a client that is refused does

    async def client() -> None:
        connection = Connection(port)
        while time.monotonic() < end and len(results) < MOST_RESULTS:
            await one(connection, time.monotonic())
        connection.close()

    async def at_a_rate() -> None:
        idle, running, due, chance = list[Connection](), set[asyncio.Task[None]](), time.monotonic(), random.Random(0)

        async def with_any(start: float) -> None:
            connection = idle.pop() if idle else Connection(port)
            await one(connection, start)
            idle.append(connection)

        while due < end and len(results) < MOST_RESULTS:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(running) < plan["clients"]:
                task = asyncio.create_task(with_any(time.monotonic()))
                running.add(task)
                task.add_done_callback(running.discard)
            due += chance.expovariate(plan["rate"])
        await asyncio.gather(*running)

    await (at_a_rate() if "rate" in plan else asyncio.gather(*(client() for _ in range(plan["clients"]))))
    return results


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def hostile_requests(port: int) -> dict[str, bytes]:
    """One request of each kind that is sent whole."""
    infer, segment = "/v2/models/m/infer", "/v1/segment?model=m"
    repeated = b"{" + b",".join(b'"a":%d' % n for n in range(14_000)) + b"}"
    texts = ["x"] * 50_000 + ["y" * 4_000]
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, len(texts) // 3, 3], "data": texts}
    json_type = {"Content_Type": "application/json"}
    return {
        "repeated fields": request(port, "POST", infer, repeated, **json_type),
        "texts for numbers": request(port, "POST", infer, json.dumps({"inputs": [tensor]}).encode(), **json_type),
        "deep nesting": request(port, "POST", infer, b"[" * 100_000, **json_type),
        "numbers without end": request(port, "POST", infer, b'{"a":' + b"9" * 100_000 + b"}", **json_type),
        "another host": request(port, "GET", "/v1/models", Host="attacker.example"),
        "another site": request(port, "POST", segment, b"x" * 100, Origin="http://attacker.example"),
        "many tiny pictures": request(
            port,
            "POST",
            infer,
            b"\x80" * 300,
            Content_Type="application/octet-stream",
            X_Tensor_Shape="100,1,1,3",
            Inference_Header_Content_Length="0",
        ),
        "a picture of 60 megapixels": request(
            port, "POST", segment, png_header(10_000, 6_000), Content_Type="image/png"
        ),
        "no picture": request(port, "POST", segment, b"\xff\xd8" + b"x" * 1000, Content_Type="image/jpeg"),
        "no request": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    }


async def hostile(plan: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Sends each kind again and again, one at a time, beside slow and half-open connections; counts the answers."""
    port, end = plan["port"], time.monotonic() + plan["seconds"]
    counts: dict[str, Counter[str]] = {}

    def repeated(kind: str, step: Callable[[], Awaitable[str]], pause_s: float) -> Awaitable[None]:
        async def run() -> None:
            found = counts.setdefault(kind, Counter())
            while time.monotonic() < end:
                try:
                    found[await asyncio.wait_for(step(), TIMEOUT_S)] += 1
                except (OSError, EOFError, ValueError, asyncio.TimeoutError) as e:
                    found[type(e).__name__] += 1
                await asyncio.sleep(pause_s)

        return run()

    def whole(content: bytes) -> Callable[[], Awaitable[str]]:
        async def step() -> str:
            connection = Connection(port)
            try:
                return str((await connection.ask(content))[0])
            finally:
                connection.close()

        return step

    def trickled(content: bytes, pause_s: float) -> Callable[[], Awaitable[str]]:
        async def step() -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for byte in content:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                    if reader.at_eof() or time.monotonic() > end:
                        break
                return "sent"
            finally:
                writer.close()

        return step

    async def unread() -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for _ in range(50):
                writer.write(request(port, "GET", "/openapi.json"))
            await asyncio.sleep(5)
            return "left"
        finally:
            writer.close()

    declared = request(port, "POST", "/v1/segment?model=m", Content_Type="image/png", Content_Length=str(60 << 20))

    async def half_open() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(declared)
            answer = await asyncio.wait_for(reader.read(12), 15)
            return answer[9:12].decode("ascii", "replace") or "closed"
        finally:
            writer.close()

    jobs = [repeated(kind, whole(content), 0.25) for kind, content in hostile_requests(port).items()]
    jobs += [repeated("slow headers", trickled(declared, 0.5), 0.1) for _ in range(8)]
    jobs += [repeated("answers not taken", unread, 0.1) for _ in range(4)]
    jobs += [repeated("declared and not sent", half_open, 0.1) for _ in range(HALF_OPEN)]
    await asyncio.gather(*jobs)
    return {kind: dict(found) for kind, found in counts.items()}


def main() -> None:
    plan = json.load(sys.stdin)
    json.dump(asyncio.run(honest(plan) if plan["kind"] == "honest" else hostile(plan)), sys.stdout)


if __name__ == "__main__":
    main()
