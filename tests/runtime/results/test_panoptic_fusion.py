# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from freqfusion_runtime.results.labels import labels_from_scores
from freqfusion_runtime.results.panoptic_fusion import Segment, fuse
from freqfusion_runtime.results.region_mask import RegionMask, paste_masks
from mmdet_reference import Golden
from torch.nn import functional as F

pytestmark = pytest.mark.numerics

SIZE = (80, 120)


def block(top, bottom, left=0, right=120):
    return RegionMask(top, left, np.ones((bottom - top, right - left), bool), SIZE)


def test_the_map_is_that_of_the_official_code():
    """The one golden of which all instances' mask logits are stored."""
    official = Golden("extra/panoptic_r50_seed0_128x192_padded_rescale")
    boxes, scores = official["dets_0"][:, :4], official["dets_0"][:, 4]
    masks = paste_masks(official["mask_logits_0"], boxes, official["pan_0"].shape)
    ids, segments = fuse(official["sem_argmax"][0], masks, scores, official["labels_0"], 80, 133)
    np.testing.assert_array_equal(ids, official["pan_0"])
    assert sorted(segment.id for segment in segments) == [value for value in np.unique(ids) if value != 133]
    assert all(segment.area == np.count_nonzero(ids == segment.id) for segment in segments)


@pytest.mark.parametrize("name", ["goldens/panoptic_r50_seed0_128x192", "extra/panoptic_r101_seed0_128x192"])
def test_stuff_of_the_official_maps_follows_the_area_limit(name):
    """These store some instances' logits only: given the instances' pixels, stuff and void must be the golden's."""
    official = Golden(name)
    ids = official["pan_0"]
    things = [value for value in np.unique(ids).tolist() if value >= 1000]
    masks = [RegionMask(0, 0, ids == value, ids.shape) for value in things]
    scores = np.linspace(0.9, 0.7, len(things))
    ours, _ = fuse(official["sem_argmax"][0], masks, scores, np.array(things) % 1000, 80, 133)
    np.testing.assert_array_equal(ours, ids)


def test_later_instances_get_what_is_left_or_nothing():
    stuff = np.zeros(SIZE, np.uint8)
    masks = [block(0, 40), block(0, 10), block(21, 61), block(19, 59), block(0, 0), block(70, 80)]
    scores, labels = np.array([0.9, 0.5, 0.8, 0.7, 0.99, 0.6]), np.array([2, 0, 1, 1, 0, 2])
    ids, segments = fuse(stuff, masks, scores, labels, 3, 5)
    expected = np.full(SIZE, 5)
    expected[:40] = 1002  # the empty one, though first, takes no number
    expected[40:61] = 2001  # 19 of 40 rows were covered: not more than half
    expected[70:] = 3002
    np.testing.assert_array_equal(ids, expected)
    assert segments == (
        Segment(1002, 2, True, 4800, 0.9, 0),
        Segment(2001, 1, True, 2520, 0.8, 2),
        Segment(3002, 2, True, 1200, 0.6, 5),
    )


def test_stuff_below_4096_remaining_pixels_is_void():
    stuff = np.zeros((128, 96), np.uint8)
    stuff[64:] = 1
    stuff[-1] = 2  # the channel of "some thing" is void whatever its area
    tall = RegionMask(0, 0, np.ones((22, 96), bool), (128, 96))  # leaves 42 x 96 = 4032 of channel 0
    ids, segments = fuse(stuff, [tall], np.array([0.9]), np.array([0]), 2, 4)
    assert np.unique(ids[:22]) == 1000
    assert np.unique(ids[22:64]) == 4
    assert np.unique(ids[64:-1]) == 3
    assert np.unique(ids[-1]) == 4
    assert segments[1:] == (Segment(3, 3, False, 63 * 96),)


@pytest.mark.parametrize(
    ("picture", "kept", "network"), [((87, 135), (116, 180), (128, 192)), ((200, 90), (128, 58), (128, 64))]
)
def test_semantic_logits_are_resized_cropped_and_resized_again(picture, kept, network):
    """SPEC 6 with PyTorch's resize, which the official code uses."""
    random = np.random.default_rng(0)
    scores = random.normal(size=(54, network[0] // 4, network[1] // 4)).astype(np.float32)
    padded = F.interpolate(torch.from_numpy(scores)[None], size=network, mode="bilinear", align_corners=False)
    official = F.interpolate(padded[:, :, : kept[0], : kept[1]], size=picture, mode="bilinear", align_corners=False)[0]
    ours = labels_from_scores(scores, network, picture, kept)
    best = official.topk(2, dim=0).values
    clear = (best[0] - best[1]).numpy() > 1e-5  # fp32 rounding of values around 2
    np.testing.assert_array_equal(ours[clear], official.argmax(0).numpy()[clear])
    assert clear.mean() > 0.999
    assert (ours != labels_from_scores(scores, network, picture)).mean() > 0.02  # the crop matters
