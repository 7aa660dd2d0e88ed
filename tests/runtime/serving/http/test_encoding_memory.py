# SPDX-License-Identifier: Apache-2.0
"""What an answer takes while it is made is what is charged for it, by its kind and by what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_runtime.serving.http.encoders import ENCODERS, ENCODING_BYTES
from memory_growth import LINUX, SLACK, growth

SIDE = 600
PIXELS = SIDE * SIDE

ENCODE = """
import numpy as np
from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.serving.http.encoders import ENCODING_BYTES, Wish, encode, geometry_bytes

names = tuple(f"c{k}" for k in range(150))
palette = tuple((k, k, k) for k in range(150))
wishes = {kind: Wish(kind, None, 0.5, frozenset({"rle", "polygons"}), {}) for kind in ENCODING_BYTES}

def warm_up():
    for wish in wishes.values():
        encode(Segmentation(np.zeros((64, 64), np.uint8), names, palette, np.zeros((64, 64, 3), np.uint8), {}), wish)

def work(item):
    kind, labels, photo = item
    charged = ENCODING_BYTES[kind] * labels.size + geometry_bytes(labels, wishes[kind])
    encode(Segmentation(labels, names, palette, photo, {}), wishes[kind])
    return charged
"""


@pytest.mark.skipif(not LINUX, reason="only Linux tells a peak that is gone")
def test_encoding_takes_no_more_than_is_charged():
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    maps = {
        "flat": np.zeros((SIDE, SIDE), np.uint8),
        "blobs": np.kron(random.integers(0, 150, (SIDE // 10, SIDE // 10)), np.ones((10, 10), int)).astype(np.uint8),
        "two-classes": random.integers(0, 2, (SIDE, SIDE)).astype(np.uint8),  # as many runs as there can be of a class
        "wide": random.integers(0, 150, (SIDE, SIDE)).astype(np.int32),
    }
    items = {
        f"{kind} {name}": (kind, labels, photo)
        for kind in ENCODERS
        for name, labels in maps.items()
        if kind == "json" or name in ("blobs", "wide")
    }
    taken = growth(ENCODE, items)
    each = {name: (size / PIXELS, charged / PIXELS) for name, (size, charged) in taken.items()}
    assert {name: pair for name, pair in each.items() if pair[0] > pair[1] + SLACK / PIXELS} == {}


def test_every_kind_of_answer_has_its_price():
    assert ENCODING_BYTES.keys() == ENCODERS.keys()
