# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from freqfusion_runtime.agreement.object_agreement import box_ious, compare_answers, match_objects, panoptic_agreement
from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation
from freqfusion_runtime.results.panoptic_fusion import Segment
from freqfusion_runtime.results.region_mask import RegionMask

PHOTO = np.zeros((40, 50, 3), np.uint8)
CLASSES = ("cat", "dog", "sky")


def detections(*objects):
    """Objects as (box, score, label)."""
    boxes, scores, labels = zip(*objects, strict=True) if objects else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64),
        CLASSES, ((0, 0, 0),) * 3, PHOTO, {},
    )  # fmt: skip


def test_iou_of_boxes_by_hand():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [5, 5, 5, 9], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(box_ious(a, b), [[50 / 150, 1, 0, 0], [0, 0, 1, 0]])


def test_objects_pair_by_label_and_box_whatever_their_order():
    actual = detections(([0, 0, 10, 10], 0.9, 0), ([20, 20, 40, 40], 0.8, 1), ([1, 1, 5, 5], 0.3, 0))
    expected = detections(([20, 20, 40, 40.05], 0.8001, 1), ([0, 0, 10, 10], 0.9, 0), ([1, 1, 5, 5], 0.3, 1))
    agreement = match_objects(actual, expected)
    assert agreement.pairs == ((0, 1), (1, 0))
    assert agreement.counts == (3, 3)
    assert agreement.share == pytest.approx(2 / 3)
    assert agreement.min_box_iou == pytest.approx(400 / 401, abs=1e-6)
    assert agreement.max_score_difference == pytest.approx(1e-4, rel=1e-2)
    assert agreement.mean_mask_iou is None


def test_a_box_off_by_more_than_a_hundredth_is_another_object():
    assert match_objects(detections(([0, 0, 10, 10], 0.9, 0)), detections(([0, 0, 10, 9.8], 0.9, 0))).share == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_no_number_agrees_with_nothing_wherever_it_stands(place):
    expected = detections(*[([i, 0, i + 10, 10], 0.9, 0) for i in (0, 20, 40)])
    scores = np.where(np.arange(3) == place, np.nan, expected.scores).astype(np.float32)
    found = compare_answers(replace(expected, scores=scores), expected)
    assert np.isnan(found.measures["max_score_difference"])
    assert not found.agrees


def test_two_answers_without_objects_are_known_to_have_compared_none():
    assert compare_answers(detections(), detections()).is_empty
    assert not compare_answers(detections(), detections(([0, 0, 10, 10], 0.9, 0))).is_empty


def test_half_precision_has_its_own_bounds():
    expected = detections(*[([i, 0, i + 10, 10], 0.9, 0) for i in range(0, 100, 20)])
    moved = detections(*[([i, 0, i + 10, 9.6], 0.89, 0) for i in range(0, 100, 20)])  # IoU 0.96, scores 0.01 off
    assert compare_answers(moved, expected).measures["object_agreement"] == 0
    half = compare_answers(moved, expected, "fp16")
    assert half.agrees
    assert set(half.measures) == set(half.bounds) == {"object_agreement", "mean_score_difference"}
    assert half.measures["mean_score_difference"] == pytest.approx(0.01, rel=1e-3)
    # A box that took another's place has its own score: the mean tells, not the largest.
    scores = np.array([0.89] * 4 + [0.83], np.float32)
    assert compare_answers(replace(moved, scores=scores), expected, "fp16").agrees
    assert not compare_answers(replace(moved, scores=scores - 0.02), expected, "fp16").agrees
    assert not compare_answers(moved.only(np.arange(5) > 0), expected, "fp16").agrees  # 8 of 9 have a partner
    far = detections(*[([i, 0, i + 10, 9.4], 0.9, 0) for i in range(0, 100, 20)])
    assert not compare_answers(far, expected, "fp16").agrees


def test_each_object_has_one_partner():
    twice = detections(([0, 0, 10, 10], 0.9, 0), ([0, 0, 10, 10], 0.9, 0))
    assert match_objects(twice, detections(([0, 0, 10, 10], 0.9, 0))).share == pytest.approx(2 / 3)


def test_nothing_agrees_with_nothing_and_differs_from_something():
    something = detections(([0, 0, 10, 10], 0.9, 0))
    assert match_objects(detections(), detections()).share == 1
    assert match_objects(detections(), something).share == match_objects(something, detections()).share == 0


def test_masks_of_pairs_are_compared():
    base = detections(([0, 0, 10, 10], 0.9, 0), ([20, 20, 30, 30], 0.5, 1))
    full, half = np.ones((10, 10), bool), np.ones((5, 10), bool)
    masks = [(RegionMask(0, 0, full, (40, 50)), RegionMask(20, 20, m, (40, 50))) for m in (full, half)]
    found = [InstanceSegmentation(**vars(base), masks=each) for each in masks]
    agreement = match_objects(*found)
    assert (agreement.mean_mask_iou, agreement.min_mask_iou) == (0.75, 0.5)


def panoptic(ids, *segments):
    none, palette = InstanceSegmentation(**vars(detections())), ((0, 0, 0),) * 3
    return PanopticSegmentation(np.array(ids, np.int32), segments, none, CLASSES, palette, PHOTO, {})


def test_panoptic_maps_agree_whatever_the_numbers_of_their_instances():
    sky = Segment(2, 2, False, 4)
    a = panoptic([[1000, 1000, 2001, 2001, 2, 2, 2, 2]], Segment(1000, 0, True, 2), Segment(2001, 1, True, 2), sky)
    b = panoptic([[2000, 2000, 1001, 1001, 2, 2, 2, 2]], Segment(1001, 1, True, 2), Segment(2000, 0, True, 2), sky)
    assert panoptic_agreement(a, b) == 1


def test_void_against_a_segment_is_a_difference():
    some = panoptic([[2, 2, 3, 3]], Segment(2, 2, False, 2))
    assert panoptic_agreement(some, some) == 1
    assert panoptic_agreement(panoptic([[3, 3, 3, 3]]), panoptic([[3, 3, 3, 3]])) == 1
    # Sky is missed and void has an IoU of 2 / 4, which is no match.
    assert panoptic_agreement(panoptic([[3, 3, 3, 3]]), some) == 0
    assert panoptic_agreement(some, panoptic([[3, 3, 3, 3]])) == 0
