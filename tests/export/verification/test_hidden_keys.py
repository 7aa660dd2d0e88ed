# SPDX-License-Identifier: Apache-2.0
"""What parity says of keys that one computation hides and another does not."""

from __future__ import annotations

import numpy as np
import torch
from freqfusion.mask2former.predictor import HiddenKeys
from freqfusion_export.verification.hidden_keys import KeyRecorder, compare_keys
from freqfusion_runtime.agreement.tolerances import KEY_MARGINS
from mask2former_reference import SMALL, filled_mask2former, weights_spec

LOGITS = torch.tensor([[[2.0, -3.0, 1.0], [-1.0, -2.0, -4.0]], [[-0.5, 3.0, 2.0], [1.0, -2.0, 5.0]]])


def layers(*changes: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    """What a file hides in two layers, all as PyTorch but for the key of each (layer, image, query, key)."""
    found = {name: HiddenKeys()(LOGITS).numpy() for name in ("first", "second")}
    for layer, *place in changes:
        found[("first", "second")[layer]][tuple(place)] ^= True
    return found


def test_equal_keys_hold_everything_to_its_tolerance():
    comparisons, holds = compare_keys(["first", "second"], layers(), [LOGITS, LOGITS])
    assert holds
    assert [c.agrees for c in comparisons] == [True, True]


def test_a_key_that_rounding_cannot_decide_otherwise_is_a_mismatch():
    comparisons, holds = compare_keys(["first", "second"], layers((0, 0, 0, 1)), [LOGITS, LOGITS])
    assert not holds
    assert [c.agrees for c in comparisons] == [False]  # behind it nothing can be compared


def test_a_key_within_rounding_of_zero_explains_its_row_and_ends_the_comparison():
    near = LOGITS.clone()
    near[0, 0, 1] = -0.5 * KEY_MARGINS["fp32"] * LOGITS.std()
    comparisons, holds = compare_keys(["first", "second"], layers((1, 0, 0, 1)), [LOGITS, near])
    assert not holds
    assert [c.agrees for c in comparisons] == [True, True]
    assert comparisons[1].max_abs == 1


def test_a_rows_reset_is_explained_by_its_one_visible_key():
    near = LOGITS.clone()
    near[0, 1, 0] = (
        0.5 * KEY_MARGINS["fp32"] * LOGITS.std()
    )  # visible, so the others are hidden; were it not, none would be
    comparisons, _ = compare_keys(["first"], layers(), [near])
    assert [c.agrees for c in comparisons] == [True]
    assert comparisons[0].max_abs == 1


def test_a_network_tells_the_logits_of_every_layer():
    network = filled_mask2former("mask2former", **SMALL)
    with torch.inference_mode(), KeyRecorder(network) as keys:
        network(torch.zeros(1, 3, 32, 64))
    sides = [tuple(logits.shape[1:]) for logits in keys.logits]
    assert sides == [(12, 2), (12, 8), (12, 32), (12, 2)]
    with torch.inference_mode():
        network(torch.zeros(1, 3, 32, 64))
    assert len(keys.logits) == 4


def test_keys_of_a_half_type_are_compared_in_every_layer_and_only_undecided_ones_may_differ():
    near = LOGITS.clone()
    near[0, 0, 1] = -0.5 * KEY_MARGINS["fp16"] * LOGITS.std()
    comparisons, holds = compare_keys(["first", "second"], layers((0, 0, 0, 1)), [near, LOGITS], "fp16")
    assert holds
    assert [c.agrees for c in comparisons] == [True, True]
    # The row has an undecided key, but it is another one that differs.
    comparisons, _ = compare_keys(["first", "second"], layers((0, 0, 0, 0)), [near, LOGITS], "fp16")
    assert [c.agrees for c in comparisons] == [False, True]


def test_a_network_goes_on_from_the_keys_it_is_given():
    network = filled_mask2former("mask2former", **SMALL)
    images = torch.from_numpy(weights_spec.image(32, 64, 0))
    with torch.inference_mode(), KeyRecorder(network) as free:
        expected = network(images)[1]
    same = [HiddenKeys()(logits).numpy() for logits in free.logits]
    with torch.inference_mode(), KeyRecorder(network, same):
        assert torch.equal(network(images)[1], expected)
    with torch.inference_mode(), KeyRecorder(network, [np.zeros_like(keys) for keys in same]) as given:
        assert not torch.equal(network(images)[1], expected)
    assert torch.equal(given.logits[0], free.logits[0])
