# SPDX-License-Identifier: Apache-2.0
"""Scores of label maps: against cases worked by hand, and against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_runtime.evaluation.counts import IGNORED, boundary_counts, confusion_matrix
from freqfusion_runtime.evaluation.errors import DatasetError, EvaluationError
from freqfusion_runtime.evaluation.scores import Tally, miou_difference

TRUTH = np.array([[0, 0, 1], [0, 2, IGNORED]], np.uint8)
FOUND = np.array([[0, 1, 1], [0, 0, 2]], np.uint8)


def test_confusion_by_hand():
    # One 0 is taken for 1, the 2 for 0; the last pixel does not count.
    expected = [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(confusion_matrix(FOUND, TRUTH, 3, "case"), expected)


def test_scores_by_hand():
    tally = Tally(4)
    tally.add(FOUND, TRUTH, "case")
    scores = tally.scores()
    # 0: 2 of 3 true and 3 found; 1: 1 of 1 true and 2 found; 2: nothing right; 3 is nowhere.
    np.testing.assert_allclose(scores.class_iou, [2 / 4, 1 / 2, 0, np.nan])
    assert scores.miou.value == pytest.approx(1 / 3)
    assert scores.pixel_accuracy.value == pytest.approx(3 / 5)
    # One picture can only be resampled as itself.
    assert (scores.miou.low, scores.miou.high) == (scores.miou.value, scores.miou.value)


def test_boundary_by_hand():
    # A vertical edge, found two columns to the right: with a tolerance of one pixel nothing of class 0's inner edge
    # (column 3, found in 5) has a partner, nor has class 1's.
    truth = np.repeat((np.arange(10) >= 4).astype(int)[None], 8, axis=0)
    right = boundary_counts(truth, truth, 2)
    np.testing.assert_array_equal(right, [[8, 8], [8, 8], [8, 8], [8, 8]])
    found = np.repeat((np.arange(10) >= 6).astype(int)[None], 8, axis=0)
    np.testing.assert_array_equal(boundary_counts(found, truth, 2), [[0, 0], [8, 8], [0, 0], [8, 8]])
    near = np.repeat((np.arange(10) >= 5).astype(int)[None], 8, axis=0)
    np.testing.assert_array_equal(boundary_counts(near, truth, 2), right)


def test_boundary_tolerance_grows_with_the_picture():
    # 256 x 256: 0.75 % of the diagonal is 2.7, so three pixels.
    truth = np.repeat((np.arange(256) >= 100).astype(int)[None], 256, axis=0)
    for shift, matched in ((3, 256), (4, 0)):
        found = np.repeat((np.arange(256) >= 100 + shift).astype(int)[None], 256, axis=0)
        np.testing.assert_array_equal(boundary_counts(found, truth, 2)[0], [matched, matched])


def test_ignored_pixels_make_no_boundary():
    truth = np.zeros((6, 6), np.uint8)
    truth[:, 3:] = IGNORED
    found = np.zeros((6, 6), int)
    found[:, 3:] = 1
    assert boundary_counts(found, truth, 2).sum() == 0


def test_boundary_f_by_hand():
    tally = Tally(3)
    truth = np.zeros((8, 10), int)
    truth[:, 4:] = 1
    found = truth.copy()
    found[:, 8:] = 2  # a class that is not there: F = 0, and class 1 has a second, unmatched edge in column 7
    tally.add(found, truth, "case")
    np.testing.assert_allclose(tally.scores().class_boundary_f, [1, 2 * 0.5 / 1.5, 0])


@pytest.mark.parametrize("ignored", [False, True])
def test_agrees_with_torchmetrics(ignored):
    torch = pytest.importorskip("torch")
    from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

    rng = np.random.default_rng(5)
    classes, tally = 6, Tally(6)
    index = IGNORED if ignored else None
    peers = {
        "miou": MulticlassJaccardIndex(classes, average="macro", ignore_index=index),
        "class_iou": MulticlassJaccardIndex(classes, average="none", ignore_index=index),
        "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=index),
        "confusion": MulticlassConfusionMatrix(classes, ignore_index=index),
    }
    for number in range(5):
        truth = rng.integers(0, classes, (13, 17))
        found = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes, truth.shape))
        if ignored:
            truth[rng.random(truth.shape) < 0.2] = IGNORED
        tally.add(found, truth, f"picture {number}")
        for peer in peers.values():
            peer.update(torch.from_numpy(found), torch.from_numpy(truth))
    scores = tally.scores()
    assert scores.miou.value == pytest.approx(peers["miou"].compute().item(), abs=1e-6)
    assert scores.pixel_accuracy.value == pytest.approx(peers["accuracy"].compute().item(), abs=1e-6)
    np.testing.assert_allclose(scores.class_iou, peers["class_iou"].compute().numpy(), atol=1e-6)
    np.testing.assert_array_equal(scores.confusion, peers["confusion"].compute().numpy())


def noisy_tally(share: float, seed: int) -> Tally:
    """Scores on 200 pictures of two classes whose labels are wrong with probability ``share``."""
    truths, noise = np.random.default_rng(1), np.random.default_rng(seed)
    tally = Tally(2)
    for number in range(200):
        truth = truths.integers(0, 2, (8, 8))
        tally.add(np.where(noise.random(truth.shape) < share, 1 - truth, truth), truth, f"picture {number}")
    return tally


def test_interval_has_the_width_that_theory_gives():
    # Pixels are independent, so the accuracy's standard deviation is that of a mean over 200 * 64 of them.
    accuracy = noisy_tally(0.2, seed=2).scores().pixel_accuracy
    sigma = np.sqrt(0.2 * 0.8 / (200 * 64))
    assert accuracy.low < accuracy.value < accuracy.high
    assert (accuracy.high - accuracy.low) / (2 * 1.96 * sigma) == pytest.approx(1, abs=0.15)
    assert abs(accuracy.value - 0.8) < 4 * sigma


def test_equal_models_differ_by_nothing_and_unequal_ones_by_more_than_the_interval():
    good, same, bad = noisy_tally(0.1, seed=2), noisy_tally(0.1, seed=2), noisy_tally(0.15, seed=3)
    nothing = miou_difference(good, same)
    assert (nothing.low, nothing.value, nothing.high) == (0, 0, 0)
    difference = miou_difference(bad, good)
    assert difference.value < 0
    assert difference.high < 0


def test_labels_outside_the_classes_are_named():
    with pytest.raises(DatasetError, match=r"photo: the truth holds labels \[7\], outside the 3 classes 0 to 2"):
        confusion_matrix(FOUND, np.where(TRUTH == 2, 7, TRUTH), 3, "photo")
    with pytest.raises(EvaluationError, match="photo: the model found label 9, outside the 3 classes"):
        confusion_matrix(np.where(FOUND == 1, 9, FOUND), TRUTH, 3, "photo")


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(EvaluationError, match="photo: the label map is 3 x 2, the truth 2 x 3"):
        confusion_matrix(FOUND, TRUTH.T, 3, "photo")
