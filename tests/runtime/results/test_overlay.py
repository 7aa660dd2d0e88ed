# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from freqfusion_runtime.model_files.classes import ade20k
from freqfusion_runtime.results.overlay import _percent
from freqfusion_runtime.results.segmentation import Segmentation


def halves(height, width):
    """Sky above, road below, on a grey photo."""
    labels = np.full((height, width), ade20k.CLASSES.index("sky"), np.uint8)
    labels[height // 2 :] = ade20k.CLASSES.index("road")
    return Segmentation(labels, ade20k.CLASSES, ade20k.PALETTE, np.full((height, width, 3), 100, np.uint8), {})


def test_colours_are_mixed_by_the_opacity():
    picture = np.asarray(halves(600, 800).overlay(opacity=0.25, legend=False))
    assert picture.shape == (600, 800, 3)
    sky, road = (np.array(ade20k.PALETTE[ade20k.CLASSES.index(name)]) for name in ("sky", "road"))
    np.testing.assert_array_equal(picture[0, 0], np.rint(75 + 0.25 * sky))
    np.testing.assert_array_equal(picture[-1, -1], np.rint(75 + 0.25 * road))


def test_classes_are_outlined_where_they_meet_and_nowhere_else():
    picture = np.asarray(halves(600, 800).overlay(legend=False)).astype(int).sum(axis=2)
    assert (picture[299] > picture[290]).all()
    assert len(np.unique(picture[:299])) == len(np.unique(picture[300:])) == 1


@pytest.mark.parametrize("size", [(1, 1), (12, 30), (400, 600), (900, 200), (1500, 2500)])
def test_the_legend_stands_beside_the_photo_at_every_size(size):
    segmentation = halves(*size)
    plain, full = segmentation.overlay(legend=False), segmentation.overlay()
    assert max(plain.size) >= 480 or max(size) * 32 == max(plain.size)
    assert full.width > plain.width
    assert full.height >= plain.height
    panel = np.asarray(full)[:, plain.width :].reshape(-1, 3)
    for share in segmentation.shares():
        assert (panel == share.color).all(axis=1).any(), f"no swatch of {share.name}"


def test_classes_without_room_are_summed_up():
    labels = np.arange(150, dtype=np.uint8)[None].repeat(300, axis=0).repeat(4, axis=1)
    photo = np.zeros((*labels.shape, 3), np.uint8)
    segmentation = Segmentation(labels, ade20k.CLASSES, ade20k.PALETTE, photo, {})
    assert segmentation.overlay().height == 300


@pytest.mark.parametrize(("share", "text"), [(1.0, "100.0 %"), (0.1234, "12.3 %"), (0.0004, "< 0.1 %")])
def test_shares_are_worded_as_percent(share, text):
    assert _percent(share) == text
