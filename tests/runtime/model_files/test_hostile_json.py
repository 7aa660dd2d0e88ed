# SPDX-License-Identifier: Apache-2.0
"""What a stranger's JSON costs is known before it is spent, and grows with its length and no faster."""

from __future__ import annotations

import contextlib
import gc
import json
import time
import tracemalloc

import pytest
from freqfusion_runtime.model_files import hostile_json
from freqfusion_runtime.model_files.hostile_json import JsonError, JsonLimits, read_json

LIMITS = JsonLimits(length=10_000_000)


def listed(count: int, item) -> bytes:
    return b"[" + b",".join(item(k) for k in range(count)) + b"]"


HOSTILE = {
    "lists": lambda n: listed(n, lambda k: b"[]"),
    "lists-of-one": lambda n: listed(n, lambda k: b"[[0.5]]"),
    "objects": lambda n: listed(n, lambda k: b"{}"),
    "objects-of-one": lambda n: listed(n, lambda k: b'{"a":{"b":1.5}}'),
    "fields": lambda n: b"{" + b",".join(b'"%x":%d.5' % (k, k) for k in range(n)) + b"}",
    "zeros": lambda n: listed(n, lambda k: b"0"),
    "numbers": lambda n: listed(n, lambda k: b"%d.5" % k),
    "long-numbers": lambda n: listed(n, lambda k: b"%d" % (10**60 + k)),
    "texts": lambda n: listed(n, lambda k: b'"%x"' % (300 + k)),
    "one-wide-character": lambda n: '["\U0001f600",'.encode() + listed(n, lambda k: b'"%x"' % (300 + k))[1:],
    "one-long-text": lambda n: b'["' + b"x" * 40 * n + b'"]',
    "escapes": lambda n: b'["' + b"\\u20ac" * 8 * n + b'"]',
    "brackets": lambda n: b"[" * 10 * n,
    "one-field-again-and-again": lambda n: b"{" + b",".join(b'"%x":0' % k for k in range(n)) + b',"0":0}',
    "digits": lambda n: b"9" * 10 * n,
    "quotes": lambda n: b'"' * 10 * n,
    "backslashes": lambda n: b'"' + b"\\" * 10 * n,
}


def read_or_refuse(text: bytes) -> list[int]:
    """What it told beforehand."""
    told: list[int] = []
    with contextlib.suppress(JsonError):
        read_json(text, "it", LIMITS, told.append)
    return told


def memory(text: bytes) -> tuple[int, list[int]]:
    """Most bytes that reading has at one time, and what it told beforehand."""
    tracemalloc.start()
    try:
        told = read_or_refuse(text)
        return tracemalloc.get_traced_memory()[1], told
    finally:
        tracemalloc.stop()


def processor_time(text: bytes) -> float:
    """Of this thread alone, the least of three."""
    times = []
    gc.disable()  # it walks over what pytest holds, too
    try:
        for _ in range(3):
            start = time.thread_time()
            read_or_refuse(text)
            times.append(time.thread_time() - start)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_and_memory_grow_with_the_length_and_no_faster(kind):
    short, long = HOSTILE[kind](5_000), HOSTILE[kind](40_000)
    assert memory(long)[0] <= 10 * memory(short)[0]
    assert processor_time(long) <= 24 * processor_time(short)  # with the square of the length it would be 64


@pytest.mark.parametrize("count", [10, 43_691, 87_500])  # the last two: dictionaries and lists have just grown
@pytest.mark.parametrize("kind", HOSTILE)
def test_reading_takes_no_more_memory_than_was_told(kind, count):
    peak, told = memory(HOSTILE[kind](count))
    assert not told or peak <= told[0] + 4096  # frames and messages


def test_a_picture_of_numbers_is_not_told_to_cost_many_times_what_it_does():
    peak, told = memory(HOSTILE["numbers"](40_000))
    assert told[0] <= 4 * peak


def test_ordinary_json_is_read_as_pythons_own_reader_does():
    text = json.dumps({"a": [1, -2.5, 1e300, True, None, {"b": '\\"[{,:', "é": "\U0001f600"}], "": {}})
    assert read_json(text, "it", LIMITS) == json.loads(text)
    assert read_json(text.encode(), "it", LIMITS) == json.loads(text)


def test_brackets_and_commas_inside_texts_do_not_count():
    text = json.dumps(['[[[[{{{{,,,,::::"' * 20, "\\", '\\"', "[" * 200, "9" * 200])
    assert read_json(text, "it", JsonLimits(length=10_000, depth=1, fields=0, values=6)) == json.loads(text)


def test_texts_longer_than_what_is_looked_at_at_one_time_are_still_texts(monkeypatch):
    text = json.dumps([["[" * 100, '"', "]" * 100, 12345.5], {"a": "{" * 100}])
    for chunk in (1, 2, 7, 64):
        monkeypatch.setattr(hostile_json, "_CHUNK", chunk)
        assert read_json(text, "it", JsonLimits(length=10_000, depth=2, fields=1)) == json.loads(text)
        with pytest.raises(JsonError, match="2 lists and objects in each other, the limit is 1"):
            read_json(text, "it", JsonLimits(length=10_000, depth=1))
        with pytest.raises(JsonError, match="more than 64 digits"):
            read_json("[" + "7" * 65 + "]", "it", LIMITS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', r"it has the field 'c', which is there twice in one object\. Keep one\."),
        (b"[" * 33 + b"]" * 33, r"nested too deeply: 33 lists and objects in each other, the limit is 32\. Make it f"),
        (b"[" * 100_000, r"nested too deeply: 100000"),
        (b" " * 10_000_001, r"it has 10000001 bytes, the limit is 10000000\. Make it shorter\."),
        (b"[" + b"0," * 5_000_000 + b"0]", r"it has 10000003 bytes"),
        (b"[1, NaN]", r"it cannot be read: NaN is no JSON number\. Correct it\."),
        (b"[-Infinity]", r"it cannot be read: -Infinity is no JSON number\."),
        (b"[1e999]", r"it cannot be read: 1e999 is beyond the largest number there is\."),
        (b"[" + b"9" * 5000 + b"]", r"it has a number of more than 64 digits\. Round it\."),
        (b'["\\ud800"]', r"it holds half a character, an escape at byte 2\. Write both halves\."),
        (b'["\\udc00\\ud800"]', r"it holds half a character, an escape at byte 2"),
        ("[\ud800]", r"it holds half a character at 1\. Write it again as UTF-8\."),
        (b'["\xff"]', r"it is not UTF-8: invalid start byte at byte 2\. Encode it so\."),
        (b'["a', r"it cannot be read: Unterminated string"),
        (b"", r"it cannot be read: Expecting value"),
        (b"[1] [2]", r"it cannot be read: Extra data"),
    ],
)
def test_what_is_refused_says_why(text, reason):
    with pytest.raises(JsonError, match=reason):
        read_json(text, "it", LIMITS)


def test_fields_and_values_are_counted_before_anything_is_made_of_them():
    with pytest.raises(JsonError, match=r"it has 3 fields, the limit is 2\. Make it smaller\."):
        read_json(b'{"a": {"b": 1}, "c": 2}', "it", JsonLimits(length=100, fields=2))
    with pytest.raises(JsonError, match=r"it has 4 values, the limit is 3\. Make it smaller\."):
        read_json(b"[1, 2, 3]", "it", JsonLimits(length=100, values=3))


def test_what_the_caller_raises_when_told_the_cost_passes_as_it_is():
    def refuse(size: int) -> None:
        raise MemoryError(size)

    with pytest.raises(MemoryError):
        read_json(b"[]", "it", LIMITS, refuse)


def test_whole_pairs_of_escapes_and_escaped_backslashes_before_them_are_read():
    text = b'["\\ud83d\\ude00", "\\\\ud800", "\\u00e9"]'
    assert read_json(text, "it", LIMITS) == ["\U0001f600", "\\ud800", "é"]
