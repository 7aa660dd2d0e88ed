# SPDX-License-Identifier: Apache-2.0
"""RoIAlign and non-maximum suppression against the float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import references
import torch
from freqfusion import native
from freqfusion.detection.boxes import decode_boxes
from freqfusion.ops import nms, pyramid_roi_align, roi_align
from freqfusion.ops.pyramid_roi_align import pyramid_levels

pytestmark = pytest.mark.numerics

# Averages of up to 150 samples of values below 5, in fp32; then one rounding to the dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2.0**-11 * 8, torch.bfloat16: 2.0**-8 * 8}

ROIS = [
    pytest.param([[4.0, 8.0, 60.0, 52.0], [0.0, 0.0, 64.0, 80.0]], id="inside"),
    pytest.param([[-30.0, -20.0, 10.0, 9.0], [50.0, 60.0, 200.0, 150.0]], id="beyond-the-map"),
    pytest.param([[8.0, 8.0, 8.0, 40.0], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 3.0, 3.0]], id="no-area"),
    pytest.param([[10.2, 11.3, 11.1, 12.9], [1.0, 5.0, 62.0, 7.5]], id="thin"),
    pytest.param([[-400.0, -400.0, -300.0, -300.0]], id="far-away"),
    pytest.param(np.zeros((0, 4)), id="none"),
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("cells", [1, 7, 14])
@pytest.mark.parametrize("rois", ROIS)
def test_roi_align_matches_the_loops(rois, cells, dtype):
    features = torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    boxes = torch.tensor(np.asarray(rois), dtype=torch.float32)
    images = torch.arange(len(boxes)) % 2
    actual = roi_align(features, boxes, images, cells, 0.25)
    expected = references.roi_align(features.double().numpy(), boxes.numpy(), images.numpy(), cells, 0.25)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_pyramid_roi_align_matches_the_loops(dtype):
    boxes, _ = draw_boxes(2, 12)
    boxes[0, 1] = torch.tensor([-5.0, -9.0, 99.0, 90.0])
    maps = [torch.randn(2, 3, 16 >> level, 24 >> level).to(dtype) for level in range(4)]
    with native.disabled():
        actual = pyramid_roi_align(*maps, boxes, 7, 4, 8)
    assert actual.dtype == dtype
    assert len(set(pyramid_levels(boxes, 8).flatten().tolist())) > 2
    expected = references.pyramid_roi_align([x.double().numpy() for x in maps], boxes.numpy(), 7, 4, 8)
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map0": torch.rand(3, 8, 8)}, r"maps must have four dimensions \(N, C, H, W\), got 3"),
        ({"map2": torch.rand(1, 2, 2, 2)}, r"map 0 has \(1, 3\), map 2 has \(1, 2\)"),
        ({"boxes": torch.rand(2, 5, 4)}, r"boxes must have shape \(1, M, 4\) for these maps, got \(2, 5, 4\)"),
        ({"boxes": torch.rand(5, 4)}, r"boxes must have shape \(1, M, 4\) for these maps, got \(5, 4\)"),
        ({"output_size": 0}, "output_size must be at least 1, got 0"),
        ({"finest_stride": -4}, "finest_stride must be at least 1, got -4"),
    ],
)
def test_pyramid_roi_align_says_what_it_wanted(changes, message):
    maps = {f"map{level}": torch.rand(1, 3, 8 >> level, 8 >> level) for level in range(4)}
    arguments = {**maps, "boxes": torch.rand(1, 5, 4), "output_size": 7, "finest_stride": 4, "finest_scale": 56}
    with pytest.raises(ValueError, match=message):
        pyramid_roi_align(**{**arguments, **changes})


def draw_boxes(sets: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    corners = 60 * torch.rand(sets, count, 2, generator=generator)
    sides = 40 * torch.rand(sets, count, 2, generator=generator)
    sides[:, ::7] = 0
    return torch.cat((corners, corners + sides), dim=2), torch.rand(sets, count, generator=generator)


@pytest.mark.parametrize("limits", [(0.7, 0.0, 1000), (0.5, 0.3, 100), (0.2, 0.05, 5), (0.5, 0.99, 10)], ids=str)
@pytest.mark.parametrize("count", [1, 40, 150])
def test_nms_matches_the_loops(count, limits):
    boxes, scores = draw_boxes(3, count)
    actual = nms(boxes, scores, *limits).numpy()
    for i in range(3):
        expected = references.nms(boxes[i].double().numpy(), scores[i].double().numpy(), *limits)
        assert np.array_equal(actual[i], expected)


def test_nms_keeps_what_overlaps_by_the_threshold_exactly():
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    scores = torch.tensor([[0.9, 0.8]])
    assert nms(boxes, scores, 0.5, 0.0, 10).tolist() == [[True, True]]
    assert nms(boxes, scores, 0.49, 0.0, 10).tolist() == [[True, False]]
    assert nms(boxes, scores, 0.5, 0.8, 10).tolist() == [[True, False]]  # scores must be above, not at the threshold


def test_a_chain_of_overlaps_is_settled_from_the_best_down():
    left = torch.arange(200) * 0.4
    boxes = torch.stack((left, torch.zeros(200), left + 1, torch.ones(200)), dim=1)[None]
    kept = nms(boxes, torch.linspace(1, 0.1, 200)[None], 0.4, 0.0, 1000)
    assert kept[0].tolist() == [i % 2 == 0 for i in range(200)]


def test_operators_obey_the_rules_of_pytorch():
    boxes, scores = draw_boxes(2, 20)
    torch.library.opcheck(nms, (boxes, scores, 0.5, 0.1, 10))
    torch.library.opcheck(roi_align, (torch.rand(2, 3, 9, 8), boxes[0], torch.arange(20) % 2, 7, 0.25))
    maps = [torch.rand(2, 3, 16 >> level, 24 >> level) for level in range(4)]
    torch.library.opcheck(pyramid_roi_align, (*maps, boxes, 7, 4, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(3, 9, 8), torch.rand(1, 4), torch.zeros(1), 7), r"features must have four dimensions .* got 3"),
        ((torch.rand(1, 3, 9, 8), torch.rand(1, 5), torch.zeros(1), 7), r"rois must have shape \(R, 4\), got \(1, 5\)"),
        ((torch.rand(1, 3, 9, 8), torch.rand(2, 4), torch.zeros(1), 7), r"must have shape \(2,\), got \(1,\)"),
        ((torch.rand(1, 3, 9, 8), torch.rand(1, 4), torch.zeros(1), 0), "output_size must be at least 1, got 0"),
    ],
)
def test_roi_align_says_what_it_wanted(arguments, message):
    with pytest.raises(ValueError, match=message):
        roi_align(*arguments, 0.25)


def test_nms_says_what_it_wanted():
    with pytest.raises(ValueError, match=r"boxes must have shape \(B, M, 4\), got \(2, 4\)"):
        nms(torch.rand(2, 4), torch.rand(2), 0.5, 0.0, 1)
    with pytest.raises(ValueError, match=r"scores must have shape \(1, 2\), got \(1, 3\)"):
        nms(torch.rand(1, 2, 4), torch.rand(1, 3), 0.5, 0.0, 1)


def test_levels_change_at_exact_sizes():
    sides = torch.tensor([0.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 2000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    assert pyramid_levels(boxes, 56).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_decoded_boxes_are_bounded_in_growth_and_clipped_to_their_image():
    boxes = torch.tensor([[[10.0, 10.0, 20.0, 30.0]]])
    sizes = torch.tensor([[50, 70]])
    assert decode_boxes(boxes, torch.zeros(1, 1, 4), sizes).tolist() == boxes.tolist()
    assert decode_boxes(boxes, torch.tensor([[[0.0, 0.0, 99.0, 99.0]]]), sizes).tolist() == [[[0.0, 0.0, 70.0, 50.0]]]
    shrunk = decode_boxes(boxes, torch.tensor([[[0.0, 0.0, -99.0, -99.0]]]), sizes)[0, 0]
    torch.testing.assert_close(shrunk[2:] - shrunk[:2], torch.tensor([10.0, 20.0]) * 0.016)
