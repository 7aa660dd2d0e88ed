# SPDX-License-Identifier: Apache-2.0
"""Run-length codes against the COCO API's own."""

import numpy as np
import pytest
from freqfusion_runtime.results.region_mask import RegionMask
from freqfusion_runtime.results.run_lengths import Runs, decompress, read_code
from pycocotools import mask as coco_api


def rectangles():
    random = np.random.default_rng(0)
    for top, left, height, width in [(0, 0, 13, 17), (2, 3, 5, 6), (0, 4, 13, 5), (9, 16, 4, 1), (0, 0, 1, 1)]:
        for share in (0.0, 0.3, 0.9, 1.0):
            yield RegionMask(top, left, random.random((height, width)) < share, (13, 17))
    yield RegionMask(300, 200, random.random((400, 700)) < 0.5, (800, 1344))
    yield RegionMask(0, 0, np.ones((800, 1344), bool), (800, 1344))


@pytest.mark.parametrize("mask", list(rectangles()))
def test_a_region_s_code_is_the_one_the_coco_api_writes(mask):
    expected = coco_api.encode(np.asfortranarray(mask.dense().astype(np.uint8)))["counts"].decode()
    assert mask.code() == {"size": list(mask.size), "counts": expected}
    np.testing.assert_array_equal(read_code(mask.code()), mask.dense())
    if mask.area:
        assert Runs(mask.dense()).code(True) == mask.code()


def test_plain_counts_are_read_too():
    np.testing.assert_array_equal(read_code({"size": [2, 2], "counts": [1, 2, 1]}), [[False, True], [True, False]])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"size": [2, 2], "counts": "~"}, "holds the character '~'"),
        ({"size": [2, 2], "counts": "1P"}, "ends inside a number"),
        ({"size": [2, 2], "counts": "P" * 12 + "1"}, "more than 60 bits"),
        ({"size": [2, 2], "counts": [1, -1, 4]}, "a run has the length -1"),
        ({"size": [2, 3], "counts": [1, 2, 1]}, "its runs cover 4 pixels of 2 x 3 = 6"),
        ({"size": [2, 3], "counts": "0"}, "its runs cover 0 pixels"),
        ({"size": [2], "counts": [2]}, r"its size must be two positive whole numbers, got \[2\]"),
        ({"size": [4, 5], "counts": [1 << 62] * 4 + [20]}, "a run has a length beyond the 20 pixels there are"),
        ({"size": [4, 5], "counts": [10**60]}, "a run has a length beyond the 20 pixels there are"),
        ({"size": [1 << 16, 1 << 15], "counts": [1 << 31]}, "at most 2147483647 pixels, got 65536 x 32768"),
        ({"size": [10**60, 1], "counts": [1]}, "its size must have at most 2147483647 pixels"),
        ({"counts": [2]}, "its size must be two positive whole numbers, got None"),
        ({"size": [1, 2], "counts": None}, "its counts must be a text or a list of whole numbers, got None"),
        ({"size": [1, 2], "counts": [2.0]}, r"its counts must be a text or a list of whole numbers, got \[2.0\]"),
    ],
)
def test_a_broken_code_is_named(code, message):
    with pytest.raises(ValueError, match=message):
        read_code(code)


def test_an_empty_text_has_no_runs():
    assert decompress("").size == 0
