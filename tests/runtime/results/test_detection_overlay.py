# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from freqfusion_runtime.model_files.classes import coco
from freqfusion_runtime.results.detection_overlay import _places, instance_colors
from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation
from freqfusion_runtime.results.panoptic_fusion import Segment
from freqfusion_runtime.results.region_mask import RegionMask

CLASSES, PALETTE = coco.CLASSES[:80], coco.PALETTE[:80]


def detections(height, width, boxes, labels):
    photo = np.full((height, width, 3), 100, np.uint8)
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(labels), CLASSES, PALETTE, photo, {})


@pytest.mark.parametrize("size", [(600, 800), (30, 40), (1, 1), (2000, 300)])
def test_a_box_is_outlined_and_the_photo_inside_it_kept(size):
    height, width = size
    picture = np.asarray(detections(height, width, [[0, 0, width, height]], [0]).overlay())
    factor = len(picture) / height
    assert picture.shape[:2] == (height * factor, width * factor)
    (color,) = instance_colors([0], PALETTE)
    assert (picture[-1, picture.shape[1] // 2] == color).all()
    if min(size) > 100:
        assert (picture[len(picture) // 2, picture.shape[1] // 2] == 100).all()


def test_masks_are_mixed_into_the_photo_and_the_better_score_is_on_top():
    base = detections(600, 800, [[100, 100, 300, 300], [200, 200, 400, 400]], [0, 2])
    full = np.ones((200, 200), bool)
    masks = (RegionMask(100, 100, full, (600, 800)), RegionMask(200, 200, full, (600, 800)))
    picture = np.asarray(InstanceSegmentation(**vars(base), masks=masks).overlay()).astype(int)
    person, car = (np.array(color) for color in instance_colors([0, 2], PALETTE))
    np.testing.assert_allclose(picture[150, 150], (100 + person) / 2, atol=1)
    np.testing.assert_allclose(picture[350, 350], (100 + car) / 2, atol=1)
    np.testing.assert_allclose(picture[250, 250], ((100 + car) / 2 + person) / 2, atol=1)
    assert (picture[500, 700] == 100).all()


def test_objects_of_one_class_are_told_apart():
    colors = instance_colors([0] * 12 + [5], PALETTE)
    assert len(set(colors)) == 13
    apart = [sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a in colors[:4] for b in colors[:4] if a != b]
    assert min(apart) > 60


def test_names_stay_on_the_picture_and_do_not_cover_each_other():
    boxes = [(5, 5, 90, 60), (6, 6, 80, 50), (7, 40, 99, 99), (90, 90, 99, 99), (0, 0, 99, 99)]
    places = _places(boxes, [(40, 12)] * len(boxes), (100, 100))
    for index, (left, top, right, bottom) in enumerate(places):
        assert left >= 0
        assert top >= 0
        assert right <= 100
        assert bottom <= 100
        for other in places[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_panoptic_picture_shows_segments_void_and_a_legend():
    ids = np.full((400, 600), 133, np.int32)
    ids[:200], ids[200:300] = 119, 1000
    segments = (Segment(1000, 0, True, 60000, 0.9, 0), Segment(119, 119, False, 120000))
    photo = np.full((400, 600, 3), 100, np.uint8)
    none = InstanceSegmentation(**vars(detections(400, 600, [], [])))
    found = PanopticSegmentation(ids, segments, none, coco.CLASSES, coco.PALETTE, photo, {})
    picture = np.asarray(found.overlay()).astype(int)
    assert picture.shape[1] > 600
    np.testing.assert_allclose(picture[20, 20], (100 + np.array(coco.PALETTE[119])) / 2, atol=1)
    assert (picture[390, 20] == 50).all()  # void is darker
    assert [share.name for share in found.shares()] == [coco.CLASSES[119], "person"]
    assert found.only([119]).summary() == coco.CLASSES[119]
