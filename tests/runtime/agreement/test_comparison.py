# SPDX-License-Identifier: Apache-2.0
"""Measures between arrays: what has no elements, or is not a number, agrees with nothing."""

import numpy as np
import pytest
from freqfusion_runtime.agreement.comparison import compare, label_agreement, mean_iou, mean_iou_of_set
from freqfusion_runtime.building.ladder import PictureGate


def test_arrays_without_elements_do_not_agree():
    nothing = np.zeros((0, 4), np.float32)
    found = compare("layer", "mask_head", nothing, nothing, 1.0)
    assert np.isnan(found.max_over_std)
    assert not found.agrees


@pytest.mark.parametrize(("actual", "expected"), [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan), (np.inf, np.inf)])
def test_what_is_not_finite_agrees_with_nothing(actual, expected):
    ramp = np.arange(6.0)
    arrays = [np.where(ramp == 2, value, ramp) for value in (actual, expected)]
    with np.errstate(invalid="ignore"):
        assert not compare("network", "logits", *arrays, 9.0).agrees


@pytest.mark.parametrize("measure", [label_agreement, mean_iou, lambda a, e: mean_iou_of_set([a], [e])])
def test_label_maps_are_of_one_size_and_not_empty(measure):
    with pytest.raises(ValueError, match=r"label maps of \(0, 4\) have no pixels to compare"):
        measure(np.zeros((0, 4), int), np.zeros((0, 4), int))
    # These two would broadcast.
    with pytest.raises(ValueError, match=r"label maps differ in size, \(2, 4\) and \(1, 4\)"):
        measure(np.zeros((2, 4), int), np.zeros((1, 4), int))
    assert measure(np.array([[0, 1], [1, 1]]), np.array([[0, 1], [1, 1]])) == 1


def test_a_picture_that_nothing_was_compared_on_does_not_hold():
    assert not PictureGate("photo.png", ()).agrees
