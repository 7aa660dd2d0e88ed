# SPDX-License-Identifier: Apache-2.0
"""One account of the bytes that requests hold, so that many large requests cannot fill the machine together."""

from __future__ import annotations

import threading
from types import TracebackType

from freqfusion_runtime.serving.operation.errors import OverloadedError, TooLargeError
from freqfusion_runtime.serving.operation.settings import MEBIBYTE


class MemoryBudget:
    """Hands out bytes up to a limit. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes handed out now."""
        return self._held

    def hold(self, size: int = 0) -> Holding:
        """Takes ``size`` bytes; more can be added later.

        Raises:
            OverloadedError: If they are not free.
            TooLargeError: If they never can be.
        """
        holding = Holding(self)
        holding.add(size)
        return holding

    def check(self, size: int) -> None:
        """Refuses what one request could never have.

        Raises:
            TooLargeError: If ``size`` is more than all there is.
        """
        if size > self._limit:
            raise TooLargeError(
                f"the request needs {size / MEBIBYTE:.0f} MiB to be worked on, all requests together may have "
                f"{self._limit / MEBIBYTE:.0f} MiB. Send less at a time, or start the server with a larger "
                "--max-memory-mb."
            )

    def _change(self, size: int, held_by_it: int) -> None:
        with self._lock:
            if size > 0:
                self.check(held_by_it + size)
                if self._held + size > self._limit:
                    raise OverloadedError(
                        f"requests in work hold {self._held / MEBIBYTE:.0f} MiB of the {self._limit / MEBIBYTE:.0f} "
                        f"MiB there are for them, and this one needs {size / MEBIBYTE:.1f} MiB more. "
                        "Try again when some are done."
                    )
            self._held += size


class Holding:
    """What one request has taken; a context manager that gives it back.

    A thread may still work for a request that nobody waits for any more. It takes part in the holding with
    :meth:`shared`, and what was taken is given back when the last part ends.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._size, self._users = budget, 0, 1
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes taken now."""
        return self._size

    def add(self, size: int) -> None:
        """Takes ``size`` more.

        Raises:
            OverloadedError: If they are not free.
            TooLargeError: If they never can be.
        """
        with self._lock:
            self._budget._change(size, self._size)
            self._size += size

    def give_back(self, size: int) -> None:
        """Gives back ``size`` of what was taken."""
        with self._lock:
            size = min(size, self._size)
            self._size -= size
            self._budget._change(-size, 0)

    def shared(self) -> Holding:
        """Takes part in it, to be ended by :meth:`release` or as a context manager."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Ends one part; the last one gives everything back."""
        with self._lock:
            self._users -= 1
            if self._users <= 0:
                size, self._size = self._size, 0
                self._budget._change(-size, 0)

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
