# SPDX-License-Identifier: Apache-2.0
"""Contexts lent to threads in turn, and graphs kept as long as their shapes come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from freqfusion_runtime.engines.pool import Pool, PoolClosedError, RecentlyUsed


def test_no_thing_is_lent_twice_at_a_time_and_no_more_are_made_than_allowed():
    made, lock, lent = iter(range(100)), threading.Lock(), set()
    pool = Pool(lambda: next(made), 3, lambda _: None)

    def use(_: int) -> None:
        for _ in range(200):
            with pool.lend() as thing:
                with lock:
                    assert thing not in lent
                    lent.add(thing)
                with lock:
                    lent.remove(thing)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert 1 <= pool.made <= 3


def test_closing_waits_for_what_is_lent_then_releases_everything_and_refuses_more():
    released = []
    pool = Pool(object, 2, released.append)
    inside, leave = threading.Event(), threading.Event()

    def use() -> None:
        with pool.lend():
            inside.set()
            leave.wait(10)
            assert released == []

    with ThreadPoolExecutor(2) as threads:
        user = threads.submit(use)
        assert inside.wait(10)
        closer = threads.submit(pool.close)
        leave.set()
        user.result(10)
        closer.result(10)
    assert len(released) == 1
    with pytest.raises(PoolClosedError, match="the engine has been closed"), pool.lend():
        pass
    pool.close()
    assert len(released) == 1


def test_a_thing_that_cannot_be_made_leaves_its_place_to_the_next():
    outcomes = iter([RuntimeError("no memory"), "context"])

    def make() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, RuntimeError):
            raise outcome
        return outcome

    pool = Pool(make, 1, lambda _: None)
    with pytest.raises(RuntimeError, match="no memory"), pool.lend():
        pass
    with pool.lend() as thing:
        assert thing == "context"


def test_the_least_recently_used_falls_out():
    released = []
    kept = RecentlyUsed(2, released.append)
    for key in "ab":
        kept.keep(key, key.upper())
    assert kept.find("a") == "A"
    kept.keep("c", "C")
    assert released == ["B"]
    assert [kept.find(key) for key in "abc"] == ["A", None, "C"]
    kept.clear()
    assert sorted(released) == ["A", "B", "C"]
    assert len(kept) == 0


def test_a_key_is_worth_making_something_for_at_the_second_time():
    kept = RecentlyUsed(2, lambda _: None)
    assert [kept.is_worth_making("a") for _ in range(3)] == [False, True, False]


def test_what_came_once_long_ago_is_forgotten():
    kept = RecentlyUsed(1, lambda _: None)
    assert not kept.is_worth_making("a")
    for key in range(4):
        kept.is_worth_making(key)
    assert not kept.is_worth_making("a")


def test_a_limit_of_zero_keeps_nothing():
    kept = RecentlyUsed(0, lambda _: None)
    assert [kept.is_worth_making("a") for _ in range(3)] == [False] * 3
