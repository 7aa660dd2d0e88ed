# SPDX-License-Identifier: Apache-2.0
"""What label files' values mean, worked by hand, and when a model's answers speak for another meaning."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_runtime.evaluation.counts import IGNORED
from freqfusion_runtime.evaluation.label_values import READINGS, LabelValues


def seen(values, labels, num_classes):
    found = LabelValues(num_classes)
    found.add(np.array([values], np.uint8), np.array([labels]))
    return found


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("from-1", {0: IGNORED, 1: 0, 150: 149, 254: 253, 255: IGNORED}),
        ("from-0", {0: 0, 1: 1, 150: 150, 255: IGNORED}),
        ("label-ids", {0: IGNORED, 6: IGNORED, 7: 0, 8: 1, 26: 13, 29: IGNORED, 33: 18, 255: IGNORED}),
        ("train-ids", {0: 0, 18: 18, 255: IGNORED}),
    ],
)
def test_values_become_classes(reading, expected):
    assert {value: int(READINGS[reading][value]) for value in expected} == expected


def test_a_perfect_model_of_two_classes_shows_that_0_is_one_of_them():
    found = seen([0, 0, 0, 1, 1, 255], [0, 0, 0, 1, 1, 0], 2)
    # As ADE20K's, the two pixels of value 1 are class 0, and the model says 1.
    assert found.share_right("from-1") == 0
    assert found.share_right("from-0") == 1
    assert found.ignored("from-1") == {0: 3, 255: 1}
    shifted, ignored = found.warnings("from-1", ("from-0",))
    assert "right on 100.0% of the pixels if they are read with --labels from-0, and on 0.0% as they are" in shifted
    assert "66.7% of the pixels are ignored, those of value 0, 255" in ignored
    assert found.warnings("from-0", ("from-1",)) == []


def test_train_ids_under_the_name_of_label_ids_are_seen():
    values = np.repeat(np.arange(19), 2)
    found = seen(values, values, 19)
    # 0 to 18 as label ids: 7, 8, 11, 12, 13, 17 count, as classes 0 to 5, and the model says 7 to 17.
    assert sum(found.ignored("label-ids").values()) == 26
    shifted, ignored = found.warnings("label-ids", ("train-ids",))
    assert "--labels train-ids, and on 0.0% as they are" in shifted
    assert "68.4% of the pixels are ignored" in ignored


def test_a_middling_model_on_sound_labels_is_not_accused():
    values = np.array([1, 2, 3, 4, 1, 2, 3, 4, 0, 1])
    labels = np.array([0, 1, 2, 3, 0, 1, 0, 0, 3, 2])  # 6 of 9 right; read from 0 nothing of 10 but chance
    found = seen(values, labels, 5)
    assert found.share_right("from-1") == pytest.approx(6 / 9)
    assert found.warnings("from-1", ("from-0",)) == []
