# SPDX-License-Identifier: Apache-2.0
"""Pasted masks against the official ones and against the definition, pixel by pixel."""

import math

import numpy as np
import pytest
from freqfusion_runtime.results.region_mask import RegionMask, paste_masks
from mmdet_reference import Golden

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize(
    "name",
    [
        "goldens/mask_r50_seed0_128x192",
        "extra/mask_r50_seed0_128x192_padded_rescale",
        "extra/mask_r50_seed0_512x640",
        "extra/mask_r101_seed0_128x192",
    ],
)
def test_every_pixel_is_that_of_the_official_code(name):
    official = Golden(name)
    height, width = official["mask_shape_0"].tolist()
    masks = paste_masks(official["mask_logits_0"], official["dets_0"][:10, :4], (height, width))
    bits = np.unpackbits(official["mask_bits_first10_0"], axis=1)[:, : height * width].reshape(-1, height, width)
    np.testing.assert_array_equal([mask.dense() for mask in masks], bits.astype(bool))
    assert [mask.area for mask in masks] == official["mask_area_0"][:10].tolist()


def by_definition(logits, box, size):
    """SPEC 5 as loops over pixels in float64: the sampled probability of every pixel of the canvas."""
    side = len(logits)
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    x1, y1, x2, y2 = map(float, box)
    values = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            u = (x + 0.5 - x1) / (x2 - x1) * side - 0.5
            v = (y + 0.5 - y1) / (y2 - y1) * side - 0.5
            for j in (math.floor(v), math.floor(v) + 1):
                for i in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < side and 0 <= j < side:
                        values[y, x] += probability[j, i] * (1 - abs(u - i)) * (1 - abs(v - j))
    return values


@pytest.mark.parametrize(
    "box",
    [
        (3.2, 4.7, 30.1, 20.9),
        (0, 0, 40, 30),  # the canvas
        (-15.5, -8.0, 22.25, 50.5),  # beyond it on three sides
        (10.4, 10.4, 10.6, 10.6),  # within one pixel
        (10.6, 10.6, 11.4, 11.4),  # between the centres of pixels
        (7.0, 3.0, 8.0, 29.0),  # one pixel wide
        (5.5, 2.5, 33.5, 30.5),  # borders on centres
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_pixels_follow_the_definition(box, seed):
    logits = np.random.default_rng(seed).normal(0, 4, (28, 28)).astype(np.float32)
    expected = by_definition(logits, box, (30, 40))
    (mask,) = paste_masks(logits[None], np.array([box], np.float32), (30, 40))
    clear = np.abs(expected - 0.5) > 1e-5  # of values around 1; the rest may fall either way in float32
    np.testing.assert_array_equal(mask.dense()[clear], (expected >= 0.5)[clear])
    assert clear.mean() > 0.99


def test_a_certain_mask_fills_its_box_up_to_centres_on_the_border():
    logits = np.full((1, 28, 28), 200.0, np.float32)
    (mask,) = paste_masks(logits, np.array([[2.5, 1.0, 6.5, 3.0]], np.float32), (5, 9))
    expected = np.zeros((5, 9), bool)
    expected[1:3, 2:7] = True
    np.testing.assert_array_equal(mask.dense(), expected)


@pytest.mark.parametrize("box", [(3, 3, 3, 9), (5, 5, 4, 9), (50, 3, 60, 9), (-9, -9, 0, 0)])
def test_a_box_without_area_on_the_canvas_gives_an_empty_mask(box):
    (mask,) = paste_masks(np.full((1, 28, 28), 9.0, np.float32), np.array([box], np.float32), (20, 30))
    assert mask.area == 0
    assert mask.dense().shape == (20, 30)
    assert mask.code() == {
        "size": [20, 30],
        "counts": RegionMask(0, 0, np.zeros((20, 30), bool), (20, 30)).code()["counts"],
    }


def test_no_objects_no_masks():
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (20, 30)) == ()


def test_iou_counts_common_pixels_wherever_the_rectangles_lie():
    random = np.random.default_rng(0)
    masks = [
        RegionMask(top, left, random.random((height, width)) < 0.6, (20, 30))
        for top, left, height, width in [(0, 0, 20, 30), (3, 4, 5, 6), (6, 8, 10, 9), (18, 28, 2, 2), (0, 0, 0, 0)]
    ]
    for a in masks:
        for b in masks:
            x, y = a.dense(), b.dense()
            assert a.iou(b) == ((x & y).sum() / (x | y).sum() if (x | y).any() else 1.0)
