# SPDX-License-Identifier: Apache-2.0
"""Run-length codes and polygons against slow readers that follow their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_runtime.results.run_lengths import Runs, compress
from freqfusion_runtime.serving.http.regions import corner_count, polygons


def read_code(code: dict) -> np.ndarray:
    """COCO's compressed code as a mask, character by character."""
    counts: list[int] = []
    text, at = code["counts"], 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            character = ord(text[at]) - 48
            value |= (character & 0x1F) << shift
            more = bool(character & 0x20)
            shift += 5
            at += 1
            if not more and character & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    height, width = code["size"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def fill_even_odd(rings: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    """Fills rings of pixel corners: a pixel is inside if an odd number of upright sides is to its left."""
    crossings = np.zeros(size, int)
    for ring in rings:
        points = np.array(ring).reshape(-1, 2)
        for (x, y), (next_x, next_y) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if x == next_x:
                crossings[min(y, next_y) : max(y, next_y), x:] += 1
    return crossings % 2 == 1


def masks():
    random = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 9), (7, 1), (5, 8), (12, 11)]:
        yield np.ones((height, width), bool)
        for share in (0.2, 0.5, 0.9):
            yield random.random((height, width)) < share
    ring = np.ones((7, 9), bool)
    ring[2:5, 3:6] = False
    ring[3, 4] = True  # an island in the hole
    yield ring
    yield np.eye(4, dtype=bool)  # touching by corners only


@pytest.mark.parametrize("mask", [pytest.param(m, id=f"{m.shape}-{m.sum()}") for m in masks() if m.any()])
def test_both_forms_give_the_mask_again(mask):
    np.testing.assert_array_equal(read_code(Runs(mask.astype(np.uint8)).code(1)), mask)
    rings = polygons(mask)
    np.testing.assert_array_equal(fill_even_odd(rings, mask.shape), mask)
    assert sum(len(ring) // 2 for ring in rings) == corner_count(mask)


def test_long_runs_take_several_characters_as_in_coco():
    # By hand: 1000 = 0b11111_01000: low bits 01000 with "more", then 11111, whose sign bit needs a further 00000.
    assert compress(np.array([1000])) == chr(48 + 8 + 32) + chr(48 + 31 + 32) + chr(48)


def test_outer_rings_run_clockwise_and_holes_the_other_way():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False

    def area(ring):  # positive for clockwise on a screen, where y grows downwards
        x, y = np.array(ring).reshape(-1, 2).T
        return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2

    assert sorted(area(ring) for ring in polygons(mask)) == [-1, 25]


def test_pixels_that_touch_by_a_corner_are_apart():
    assert len(polygons(np.eye(3, dtype=bool))) == 3
