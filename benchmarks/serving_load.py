# SPDX-License-Identifier: Apache-2.0
"""A bounded load of HTTP requests on loopback, in a process of its own: reads a plan, writes results.

The plan is JSON on standard input: ``port``, ``path``, ``headers``, ``body`` (a file), and either ``clients`` (each
sends the next request when it has its answer) or ``rate`` (requests a second, sent whether or not answers come), for
``seconds`` or ``count``. The result is JSON on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

MAX_REQUESTS = 200_000
_OPEN_CONNECTIONS = 200


class Connection:
    """One kept connection that sends a fixed request."""

    def __init__(self, plan: dict[str, Any]) -> None:
        body = Path(plan["body"]).read_bytes()
        lines = [f"POST {plan['path']} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in plan["headers"].items()]
        self._port = plan["port"]
        self._request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self) -> int:
        """Sends the request; gives the status, 0 where the connection was refused, -1 where it broke afterwards."""
        if self._writer is None:
            try:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return 0
        assert self._reader is not None
        try:
            self._writer.write(self._request)
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            await self._reader.readexactly(length)
        except (OSError, EOFError):  # IncompleteReadError is an EOFError
            self.close()
            return -1
        if b"connection: close" in head:
            self.close()
        return int(head[9:12])

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


async def closed_loop(plan: dict[str, Any]) -> list[tuple[float, float, int]]:
    """Keeps ``clients`` requests in flight."""
    results: list[tuple[float, float, int]] = []
    begin = time.perf_counter()
    end = begin + plan.get("seconds", 600)
    count = min(plan.get("count", MAX_REQUESTS), MAX_REQUESTS)

    async def client() -> None:
        connection = Connection(plan)
        while time.perf_counter() < end and len(results) < count:
            start = time.perf_counter()
            status = await connection.ask()
            results.append((start - begin, time.perf_counter() - start, status))
            if status == 0:
                break
        connection.close()

    await asyncio.gather(*(client() for _ in range(plan["clients"])))
    return results


async def open_loop(plan: dict[str, Any]) -> list[tuple[float, float, int]]:
    """Sends ``rate`` requests a second at random moments, on idle connections where there are any."""
    results: list[tuple[float, float, int]] = []
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    chance = random.Random(0)
    begin = time.perf_counter()
    due = 0.0

    async def one(start: float) -> None:
        connection = idle.pop() if idle else Connection(plan)
        status = await connection.ask()
        results.append((start, time.perf_counter() - begin - start, status))
        idle.append(connection)

    while due < plan["seconds"] and len(results) < MAX_REQUESTS:
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - begin)))
        if len(tasks) < _OPEN_CONNECTIONS:
            task = asyncio.create_task(one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            results.append((due, 0.0, -2))  # the load tool itself has no connection left
        due += chance.expovariate(plan["rate"])
    await asyncio.gather(*tasks)
    return results


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not less than ``share`` of all, in ms; 0 for none."""
    ranked = sorted(values)
    return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))] * 1e3, 3) if ranked else 0.0


def summary(results: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Counts and percentiles by kind of answer."""
    answered = [ms for _, ms, status in results if status == 200]
    refused = [ms for _, ms, status in results if status == 503]
    ends = [start + ms for start, ms, status in results if status == 200]
    span = max(ends, default=0.0) - min((start for start, _, _ in results), default=0.0)
    return {
        "statuses": {str(status): n for status, n in sorted(Counter(s for _, _, s in results).items())},
        "answered_per_s": round(len(answered) / span, 2) if span else 0.0,
        "p50_ms": percentile(answered, 0.5),
        "p99_ms": percentile(answered, 0.99),
        "refusal_p50_ms": percentile(refused, 0.5),
        "refusal_p99_ms": percentile(refused, 0.99),
    }


def main() -> None:
    plan = json.load(sys.stdin)
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    found = summary(asyncio.run(open_loop(plan) if "rate" in plan else closed_loop(plan)))
    used = resource.getrusage(resource.RUSAGE_SELF)
    json.dump({**found, "client_cpu_s": round(used.ru_utime + used.ru_stime, 2)}, sys.stdout)


if __name__ == "__main__":
    main()
