# SPDX-License-Identifier: Apache-2.0
"""Makes hostile inputs of good ones, the same for the same random numbers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
_MOST_BYTES = 1 << 16  # of one inserted or repeated piece
TEXTS = ("", "\x00", "\x1b[2J", "x" * 300, "x" * 70_000, "../../etc/passwd", "\u202e", "\ud7ff", "NaN", "a\nb", "%s{}")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1 << 31, 1 << 63, -(1 << 63), 10**60, 1e-320),
    *([], {}, [[]], [None], {"": None}, [0] * 300, *TEXTS),
)


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Changes one of the inputs in one to four places, as bytes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            return bytes(data)
        rng.choice(_BYTE_MUTATIONS)(rng, data, seeds)
    return bytes(data)


def mutated_json(rng: random.Random, seed: Any) -> bytes:
    """Changes one to three values or keys of a JSON value, and now and then its text."""
    content = json.loads(json.dumps(seed))
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = _changed(rng, content)
    text = json.dumps(content)
    kind = rng.random()
    if kind < 0.03:
        return (b"[" * rng.choice((33, 1_000, 100_000))) + text.encode()
    if kind < 0.06:
        return text.replace(":", ":" + "[" * 200, 1).encode()
    if kind < 0.10 and text.startswith("{") and isinstance(content, dict) and content:
        key = rng.choice(list(content))
        return f"{{{json.dumps(key)}: 1, {text[1:]}".encode()  # a field twice
    if kind < 0.13:
        return text.encode("utf-16")
    if kind < 0.20:
        return mutated(rng, [text.encode()])
    return text.encode()


def _changed(rng: random.Random, content: Any) -> Any:
    """Walks down to some value and puts another one in its place."""
    if isinstance(content, dict) and content and rng.random() < 0.85:
        key = rng.choice(list(content))
        kind = rng.random()
        if kind < 0.08:
            del content[key]
        elif kind < 0.14:
            content[rng.choice(TEXTS)] = content.pop(key)
        elif kind < 0.2:
            content[rng.choice(TEXTS)] = copy.deepcopy(rng.choice(VALUES))
        else:
            content[key] = _changed(rng, content[key])
        return content
    if isinstance(content, list) and content and rng.random() < 0.85:
        place = rng.randrange(len(content))
        kind = rng.random()
        if kind < 0.1:
            del content[place]
        elif kind < 0.2:
            content *= rng.choice((2, 10))
            del content[100_000:]
        else:
            content[place] = _changed(rng, content[place])
        return content
    return copy.deepcopy(rng.choice(VALUES))


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    width = rng.choice((2, 4, 8))
    number = (rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, rng.choice(("little", "big")))
    place = rng.randrange(len(data))
    data[place : place + width] = number


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 4, 100, len(data)))]


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = rng.randrange(len(data))
    piece = bytes(data[place : place + rng.choice((1, 16, 300))])
    data[place:place] = (piece * rng.choice((1, 10, 1000)))[:_MOST_BYTES]


def _insert(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.choice((rng.randbytes(8), b"\xff" * 12, b"\x00" * 40, b"\x80" * 300, b"[" * 2000, b"\x00"))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start = rng.randrange(len(other) + 1)
    data[rng.randrange(len(data)) :] = other[start:]


_BYTE_MUTATIONS = (_flip, _flip, _set, _set, _number, _number, _cut, _repeat, _insert, _splice)
