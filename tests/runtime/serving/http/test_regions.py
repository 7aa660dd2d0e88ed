# SPDX-License-Identifier: Apache-2.0
"""Run-length codes and polygons against slow readers that follow their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_runtime.results.run_lengths import Runs, compress
from freqfusion_runtime.serving.http.regions import corner_count, polygons
from region_readers import fill_even_odd, read_code


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
