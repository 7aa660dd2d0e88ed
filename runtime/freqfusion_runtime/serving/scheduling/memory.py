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

    def _change(self, size: int) -> None:
        with self._lock:
            if size > self._limit:
                raise TooLargeError(
                    f"the request needs {size / MEBIBYTE:.0f} MiB to be worked on, all requests together may have "
                    f"{self._limit / MEBIBYTE:.0f} MiB. Send a smaller picture, or start the server with a larger "
                    "--max-memory-mb."
                )
            if size > 0 and self._held + size > self._limit:
                raise OverloadedError(
                    f"requests in work hold {self._held / MEBIBYTE:.0f} MiB of the {self._limit / MEBIBYTE:.0f} MiB "
                    "there are for them. Try again when some are done."
                )
            self._held += size


class Holding:
    """What one request has taken; a context manager that gives it back."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._size = budget, 0

    def add(self, size: int) -> None:
        """Takes ``size`` more.

        Raises:
            OverloadedError: If they are not free.
            TooLargeError: If they never can be.
        """
        self._budget._change(size)
        self._size += size

    def release(self) -> None:
        """Gives all of it back; once is enough."""
        size, self._size = self._size, 0
        self._budget._change(-size)

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
