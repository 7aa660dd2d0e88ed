# SPDX-License-Identifier: Apache-2.0
"""The one reader of JSON that somebody else wrote: requests, manifests, metadata, annotations, facts.

What a text will cost is known before it is read: it is first looked over as bytes, which takes time and memory in
proportion to its length, and counted. Only then are objects made of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from freqfusion_runtime.errors import FreqFusionError
from freqfusion_runtime.files import open_regular

_CHUNK = 1 << 16
_CHUNK_BYTES = 16  # that looking at one byte of a chunk takes
_LONGEST_NUMBER = 64  # characters; the shortest text that tells any two float64 apart has 24
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LARGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
# Half a character of UTF-16 without its other half; doubled backslashes are out of the way by then.
_HALF_CHARACTER = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
# Most bytes that CPython needs for one of each, its place in what holds it and the parser's own notes included;
# tests/runtime/model_files/test_hostile_json.py holds them to what is measured.
_LIST_BYTES, _OBJECT_BYTES, _FIELD_BYTES, _VALUE_BYTES, _TEXT_BYTES = 96, 192, 128, 48, 80


class JsonError(FreqFusionError, ValueError):
    """A text is no JSON, or more of it than is taken.

    Args:
        fact: What was found, as a clause.
        remedy: What to do, as a sentence; a caller that knows better can word its own.
    """

    def __init__(self, fact: str, remedy: str) -> None:
        super().__init__(f"{fact}. {remedy}")
        self.fact = fact


@dataclass(frozen=True, kw_only=True)
class JsonLimits:
    """How much JSON is taken.

    Args:
        length: In bytes of UTF-8.
        depth: Of lists and objects inside each other.
        fields: Of all objects together.
        values: All of them, the lists and objects included.
        has_constants: Whether ``NaN`` and ``Infinity`` are taken, which are no JSON and yet in many files.
    """

    length: int
    depth: int = 32
    fields: int = 100_000
    values: int = 5_000_000
    has_constants: bool = False


@dataclass(frozen=True)
class _Size:
    """What a text holds; where it is no valid JSON, at least what comes before its first fault."""

    depth: int
    lists: int
    objects: int
    fields: int
    values: int
    texts: int
    has_large_exponents: bool

    def memory(self, length: int, is_ascii: bool) -> int:
        """Most bytes that reading takes beside the text itself, its copy as characters included."""
        width = 1 if is_ascii else 4
        return (
            _CHUNK_BYTES * min(length, _CHUNK)
            + 2 * width * length
            + _LIST_BYTES * self.lists
            + _OBJECT_BYTES * self.objects
            + _FIELD_BYTES * self.fields
            + _VALUE_BYTES * self.values
            + _TEXT_BYTES * self.texts
        )


def read_json(
    text: bytes | str,
    name: str,
    limits: JsonLimits,
    before_reading: Callable[[int], None] = lambda _: None,
) -> Any:
    """Reads JSON within limits, in time and memory that grow with its length and no faster.

    Args:
        text: UTF-8.
        name: What messages call it.
        limits: What is refused before anything is made of it.
        before_reading: Called with the most bytes of memory that reading will take; what it raises passes as it is.

    Returns:
        Objects, lists, texts, finite numbers, booleans and None.

    Raises:
        JsonError: If it is malformed or beyond a limit, has a field twice in one object, a number that is none or
            infinite, or half a character.
    """
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as e:
            raise JsonError(f"{name} holds half a character at {e.start}", "Write it again as UTF-8.") from e
    if len(text) > limits.length:
        raise JsonError(f"{name} has {len(text)} bytes, the limit is {limits.length}", "Make it shorter.")
    try:
        is_ascii = text.isascii()
        if not is_ascii:
            text.decode()
    except UnicodeDecodeError as e:
        raise JsonError(f"{name} is not UTF-8: {e.reason} at byte {e.start}", "Encode it so.") from e
    plain = text.replace(b"\\\\", b"__")
    if b"\\u" in plain and (half := _HALF_CHARACTER.search(plain)):
        raise JsonError(f"{name} holds half a character, an escape at byte {half.start()}", "Write both halves.")
    size = _measure(plain.replace(b'\\"', b"__"), name)
    for what, count, limit in (
        ("fields", size.fields, limits.fields),
        ("values", size.values, limits.values),
    ):
        if count > limit:
            raise JsonError(f"{name} has {count} {what}, the limit is {limit}", "Make it smaller.")
    if size.depth > limits.depth:
        raise JsonError(
            f"{name} is nested too deeply: {size.depth} lists and objects in each other, the limit is {limits.depth}",
            "Make it flatter.",
        )
    before_reading(size.memory(len(text), is_ascii))
    del plain
    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=_once_each(name),
            parse_constant=None if limits.has_constants else _no_constant,
            parse_float=_finite if size.has_large_exponents else None,
        )
    except JsonError:
        raise
    except ValueError as e:
        raise JsonError(f"{name} cannot be read: {e}", "Correct it.") from e


def read_json_file(path: str | os.PathLike[str], limits: JsonLimits) -> Any:
    """Reads a file of JSON as :func:`read_json` does, no more of it than the limit, and no pipe or device.

    Raises:
        JsonError: As there; or if it is no file, or cannot be read.
    """
    name = os.fspath(path)
    try:
        with open_regular(path) as file:
            text = file.read(limits.length + 1)
    except OSError as e:
        raise JsonError(f"{name} cannot be read: {(e.strerror or str(e)).lower()}", "Check it.") from e
    return read_json(text, name, limits)


def _measure(plain: bytes, name: str) -> _Size:
    """Counts what a text without escaped quotes holds.

    Raises:
        JsonError: If it has a number of too many digits, which would take time with the square of their count.
    """
    import numpy as np  # here, since the command line reads its help without it

    depth = deepest = lists = objects = fields = commas = quotes = 0
    is_inside, has_large_exponents = False, False
    tail = b""
    for start in range(0, len(plain), _CHUNK):
        piece = np.frombuffer(plain, np.uint8, min(_CHUNK, len(plain) - start), start)
        marks = piece == ord('"')
        inside = np.logical_xor.accumulate(marks) ^ is_inside  # up to the closing quote
        is_inside = bool(inside[-1])
        outside = np.where(inside, np.uint8(ord(" ")), piece)
        list_starts, object_starts = outside == ord("["), outside == ord("{")
        steps = (list_starts | object_starts).astype(np.int8)
        steps -= (outside == ord("]")) | (outside == ord("}"))
        heights = np.cumsum(steps, dtype=np.int32)
        deepest, depth = max(deepest, depth + int(heights.max())), depth + int(heights[-1])
        lists += int(np.count_nonzero(list_starts))
        objects += int(np.count_nonzero(object_starts))
        fields += int(np.count_nonzero(outside == ord(":")))
        commas += int(np.count_nonzero(outside == ord(",")))
        quotes += int(np.count_nonzero(marks))
        tail += outside.tobytes()
        if b"0" * (_LONGEST_NUMBER + 1) in tail.translate(_DIGITS):
            raise JsonError(f"{name} has a number of more than {_LONGEST_NUMBER} digits", "Round it.")
        has_large_exponents = has_large_exponents or _LARGE_EXPONENT.search(tail) is not None
        tail = tail[-_LONGEST_NUMBER:]
    values = lists + objects + commas + 1
    return _Size(deepest, lists, objects, fields, values, (quotes + 1) // 2, has_large_exponents)


def _once_each(name: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            seen = set[str]()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise JsonError(f"{name} has the field {twice[:40]!r}, which is there twice in one object", "Keep one.")
        return fields

    return read


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is beyond the largest number there is")
    return value
