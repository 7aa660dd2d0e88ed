# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality against cases worked out by hand and against a slow reading of the definition."""

import numpy as np
import pytest
from freqfusion_runtime.evaluation.panoptic_quality import PanopticScore, SegmentOf


def strip(*runs):
    """A map of one row: (id, pixels), ..."""
    return np.repeat([identity for identity, _ in runs], [pixels for _, pixels in runs])[None]


def score_of(truth, true_segments, found, found_segments):
    score = PanopticScore()
    score.add(truth, true_segments, found, found_segments)
    return score


def test_by_hand_one_match_one_miss_one_mistake():
    truth, found = strip((1, 10), (2, 10), (3, 10)), strip((7, 12), (8, 8), (9, 10))
    segments = {1: SegmentOf(1), 2: SegmentOf(1), 3: SegmentOf(2)}
    guesses = {7: SegmentOf(1), 8: SegmentOf(1), 9: SegmentOf(3)}
    score = score_of(truth, segments, found, guesses)
    # Category 1: IoU 10 / 12 and 8 / 10. Category 2 is missed, category 3 wrong.
    assert score.quality([1]).pq == pytest.approx((10 / 12 + 8 / 10) / 2)
    assert score.quality([2]).pq == score.quality([3]).pq == 0
    overall = score.quality()
    assert overall.categories == 3
    assert (overall.pq, overall.sq, overall.rq) == pytest.approx(((10 / 12 + 0.8) / 6, (10 / 12 + 0.8) / 6, 1 / 3))


def test_an_iou_of_exactly_one_half_is_no_match():
    score = score_of(strip((1, 10)), {1: SegmentOf(1)}, strip((5, 5), (0, 5)), {5: SegmentOf(1)})
    assert score.quality().pq == 0
    assert vars(score.tallies[1]) == {
        "true_positives": 0, "false_positives": 1, "false_negatives": 1, "iou_sum": 0.0
    }  # fmt: skip


def test_void_pixels_of_the_truth_do_not_count():
    # 10 of the guess's 16 pixels are void: IoU 6 / (10 + 16 - 6 - 10).
    score = score_of(strip((1, 10), (0, 10)), {1: SegmentOf(1)}, strip((0, 4), (5, 16)), {5: SegmentOf(1)})
    assert score.quality().pq == pytest.approx(0.6)


@pytest.mark.parametrize(("void", "wrong"), [(10, 1), (11, 0)])
def test_a_guess_mostly_in_void_is_not_wrong(void, wrong):
    truth = strip((0, void), (1, 20 - void))
    score = score_of(truth, {1: SegmentOf(2)}, strip((5, 20)), {5: SegmentOf(1)})
    assert (score.tallies[1].false_positives if 1 in score.tallies else 0) == wrong


def test_crowds_are_neither_missed_nor_matched_and_excuse_guesses_of_their_category():
    truth, crowd = strip((1, 20)), {1: SegmentOf(1, is_crowd=True)}
    assert score_of(truth, crowd, strip((5, 20)), {5: SegmentOf(1)}).quality().pq is None
    other = score_of(truth, crowd, strip((5, 20)), {5: SegmentOf(2)})
    assert other.tallies[2].false_positives == 1
    assert score_of(truth, crowd, strip((0, 20)), {}).quality().categories == 0


def by_definition(pictures):
    """PQ of each category: for every pair of segments, sets of pixels, one at a time."""
    stats = {}
    for truth, true_segments, found, found_segments in pictures:
        pixels = list(np.ndindex(truth.shape))
        void = {p for p in pixels if truth[p] == 0}
        areas = {t: {p for p in pixels if truth[p] == t} for t in true_segments}
        guesses = {f: {p for p in pixels if found[p] == f} for f in found_segments}
        matched = set()
        for t, segment in true_segments.items():
            entry = stats.setdefault(segment.category, [0.0, 0, 0, 0])
            if segment.is_crowd:
                continue
            partners = []
            for f, guess in found_segments.items():
                visible = guesses[f] - void
                iou = len(areas[t] & visible) / len(areas[t] | visible)
                if guess.category == segment.category and iou > 0.5:
                    partners.append((f, iou))
            assert len(partners) <= 1
            if partners:
                entry[0] += partners[0][1]
                entry[1] += 1
                matched.add(partners[0][0])
            else:
                entry[3] += 1
        for f, guess in found_segments.items():
            crowds = [areas[t] for t, s in true_segments.items() if s.is_crowd and s.category == guess.category]
            excused = guesses[f] & void.union(*crowds)
            if f not in matched and len(excused) <= 0.5 * len(guesses[f]):
                stats.setdefault(guess.category, [0.0, 0, 0, 0])[2] += 1
    return {category: iou / (tp + fp / 2 + fn / 2) for category, (iou, tp, fp, fn) in stats.items() if tp + fp + fn}


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_definition_on_random_maps(seed):
    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(3):
        blocks = random.integers(0, 5, (4, 5))
        truth = blocks.repeat(4, axis=0).repeat(3, axis=1)
        found = np.where(random.random(truth.shape) < 0.2, random.integers(0, 5, truth.shape), truth)
        found = np.where(found == 4, 2**24 - 1, found)  # ids are as large as three bytes hold
        crowd = int(random.integers(1, 5))
        true_segments = {int(t): SegmentOf(int(t) % 3, t == crowd) for t in np.unique(truth) if t}
        found_segments = {
            int(f): SegmentOf(int(random.integers(0, 3)) if random.random() < 0.3 else int(f) % 3)
            for f in np.unique(found)
            if f
        }
        pictures.append((truth, true_segments, found, found_segments))
    score = PanopticScore()
    for picture in pictures:
        score.add(*picture)
    expected = by_definition(pictures)
    assert {c: score.quality([c]).pq for c in score.tallies if score.tallies[c].total} == pytest.approx(expected)
    assert score.quality().pq == pytest.approx(sum(expected.values()) / len(expected))
