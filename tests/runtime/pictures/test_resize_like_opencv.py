# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from freqfusion_runtime.pictures.resize import resize_like_opencv

cv2 = pytest.importorskip("cv2", reason="OpenCV is what the resize is compared with")

SIZES = [  # H, W -> height, width
    pytest.param((375, 500), (512, 683), id="keep-ratio"),
    pytest.param((512, 683), (512, 704), id="stretch-width"),
    pytest.param((759, 512), (768, 512), id="stretch-height"),
    pytest.param((1200, 1600), (512, 683), id="shrink"),
    pytest.param((64, 90), (32, 45), id="halve-is-area"),
    pytest.param((64, 90), (32, 46), id="halve-one-axis"),
    pytest.param((33, 47), (66, 94), id="double"),
    pytest.param((1, 1), (5, 7), id="one-pixel"),
    pytest.param((1, 40), (9, 3), id="one-row"),
    pytest.param((40, 1), (3, 9), id="one-column"),
    pytest.param((2, 2), (1, 1), id="to-one-pixel"),
    pytest.param((300, 2), (1, 512), id="thin"),
]


def check(picture, height, width):
    expected = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize_like_opencv(picture, height, width), expected.reshape(height, width, -1))


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_equals_opencv_bit_for_bit(source, target):
    rng = np.random.default_rng(0)
    check(rng.integers(0, 256, (*source, 3), np.uint8), *target)
    check(rng.choice(np.array([0, 255], np.uint8), (*source, 3)), *target)


def test_equals_opencv_at_random_sizes():
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width, *target = (int(side) for side in rng.integers(1, 160, 4))
        check(rng.integers(0, 256, (height, width, 3), np.uint8), *target)


def test_same_size_is_the_picture_itself():
    picture = np.zeros((4, 5, 3), np.uint8)
    assert resize_like_opencv(picture, 4, 5) is picture
