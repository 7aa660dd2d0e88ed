# SPDX-License-Identifier: Apache-2.0
"""A fixed number of things that threads take in turn, and a bounded store of things that are dear to make."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from freqfusion_runtime.engines.errors import EngineError

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class PoolClosedError(EngineError):
    """An engine was asked to run after it was closed."""


class Pool(Generic[T]):
    """Lends each of up to ``limit`` things to one thread at a time; a thing is made when none is free.

    The one returned last is lent first, since its memory and graphs are warm.

    Args:
        make: Makes a thing.
        limit: How many there may be.
        release: Called on each when the pool is closed.
    """

    def __init__(self, make: Callable[[], T], limit: int, release: Callable[[T], None]) -> None:
        self._make, self._limit, self._release = make, limit, release
        self._free: list[T] = []
        self._made = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def made(self) -> int:
        """How many things there are."""
        return self._made

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Waits for a thing and takes it back at the end of the block.

        Raises:
            PoolClosedError: If the pool is closed.
        """
        thing = self._take()
        try:
            yield thing
        finally:
            with self._changed:
                self._free.append(thing)
                self._changed.notify_all()

    def close(self) -> None:
        """Waits until nothing is lent, then releases everything. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._made)
            things, self._free, self._made = self._free, [], 0
        for thing in things:
            self._release(thing)

    def _take(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free or self._made < self._limit)
            if self._closed:
                raise PoolClosedError("the engine has been closed. Open it again with freqfusion_runtime.load.")
            if self._free:
                return self._free.pop()
            self._made += 1
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify_all()
            raise


class RecentlyUsed(Generic[K, T]):
    """Keeps the ``limit`` most recently used things and releases what falls out. For one thread at a time.

    A key has to be asked for twice before something is made for it: what is used once is not worth the making.
    """

    def __init__(self, limit: int, release: Callable[[T], None]) -> None:
        self._limit, self._release = limit, release
        self._things: OrderedDict[K, T] = OrderedDict()
        self._seen_once: OrderedDict[K, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._things)

    def find(self, key: K) -> T | None:
        """The thing of this key, which is now the most recently used; None if there is none."""
        if key not in self._things:
            return None
        self._things.move_to_end(key)
        return self._things[key]

    def is_worth_making(self, key: K) -> bool:
        """Whether the key was asked for before; notes that it was now."""
        if self._limit == 0:
            return False
        if key in self._seen_once:
            del self._seen_once[key]
            return True
        self._seen_once[key] = None
        while len(self._seen_once) > 4 * self._limit:
            self._seen_once.popitem(last=False)
        return False

    def keep(self, key: K, thing: T) -> None:
        """Keeps a thing, and releases the least recently used ones beyond the limit."""
        self._things[key] = thing
        self._things.move_to_end(key)
        while len(self._things) > self._limit:
            self._release(self._things.popitem(last=False)[1])

    def clear(self) -> None:
        """Releases everything."""
        while self._things:
            self._release(self._things.popitem()[1])
        self._seen_once.clear()
