# SPDX-License-Identifier: Apache-2.0
"""The runtime around a detector's outputs gives the official masks and panoptic maps: goldens end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import freqfusion
import numpy as np
import pytest
from freqfusion_export.networks.forms import form_of
from freqfusion_export.networks.manifests import Origin, network_manifest
from freqfusion_export.parity.pytorch_session import PytorchSession
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.predictors.detector import InstanceSegmenter, PanopticSegmenter
from mmdet_reference import Golden, weights_spec


class GoldenSession(PytorchSession):
    """Feeds the network with the golden's image, whatever the picture: the goldens store no pictures."""

    image: np.ndarray

    def run(self, inputs):
        assert inputs["images"].shape == self.image.shape
        return super().run({**inputs, "images": self.image})


@pytest.fixture(scope="module")
def sessions():
    """By the model's name."""
    made = {}
    for name in ("mask_rcnn_r50", "panoptic_fpn_r50"):
        network = weights_spec.load_into(freqfusion.create_model(name), 0).eval()
        made[name] = GoldenSession(network, Path(name), network_manifest(form_of(network), Origin(name)))
    return made


def prepared(session, official):
    """Sets the session up for a golden and gives a picture of the original size."""
    meta = official.meta.get("img_metas", [{}])[0]
    (height, width), seed = (official.meta["image"][side] for side in "hw"), official.meta["image"]["seed"]
    picture = tuple(meta["ori_shape"][:2])
    kept = tuple(meta["img_shape"][:2])
    session.image = weights_spec.image(height, width, seed)
    session.image[:, :, kept[0] :], session.image[:, :, :, kept[1] :] = 0, 0
    # Limits that give the golden's size: long and short side of the resized picture.
    plan = Preprocessing(long_side=max(kept), short_side=min(kept), size_divisor=64, size_fit="pad")
    session.manifest = replace(session.manifest, preprocessing=plan)
    return np.zeros((*picture, 3), np.uint8)


@pytest.mark.parametrize("name", ["goldens/mask_r50_seed0_128x192", "extra/mask_r50_seed0_128x192_padded_rescale"])
def test_boxes_and_masks_are_the_official_ones(sessions, name):
    official = Golden(name)
    session = sessions["mask_rcnn_r50"]
    found = InstanceSegmenter(session).predict(prepared(session, official))
    # SPEC 8: 3e-3 pixels, 5e-4 of score, 2 pixels of a mask's area.
    order = places_in(official, found)
    np.testing.assert_array_equal(found.labels[order], official["labels_0"])
    np.testing.assert_allclose(found.scores[order], official["dets_0"][:, 4], rtol=0, atol=5e-4)
    areas = np.array([mask.area for mask in found.masks])
    np.testing.assert_allclose(areas[order], official["mask_area_0"], rtol=0, atol=2)


def places_in(official, found):
    """Place of each official object among ours, by its box.

    Two neighbours may change places only where fp32 cannot tell: it is off by up to 6.3e-5 of a score (SPEC 8), and two
    pairs of the golden with padding are 1.3e-5 and 5.8e-5 apart.
    """
    scores = official["dets_0"][:, 4]
    assert len(found) == len(scores)
    distances = np.abs(found.boxes[None] - official["dets_0"][:, None, :4]).max(axis=2)
    distances[official["labels_0"][:, None] != found.labels[None]] = np.inf
    order = distances.argmin(axis=1)
    assert sorted(order) == list(range(len(scores)))
    assert distances.min(axis=1).max() <= 3e-3
    np.testing.assert_allclose(scores[order], scores, rtol=0, atol=2 * 6.3e-5)
    return order


@pytest.mark.parametrize(
    "name", ["goldens/panoptic_r50_seed0_128x192", "extra/panoptic_r50_seed0_128x192_padded_rescale"]
)
def test_panoptic_maps_are_the_official_ones(sessions, name):
    official = Golden(name)
    session = sessions["panoptic_fpn_r50"]
    found = PanopticSegmenter(session).predict(prepared(session, official))
    np.testing.assert_array_equal(found.instances.labels, official["labels_0"])
    np.testing.assert_allclose(found.instances.boxes, official["dets_0"][:, :4], rtol=0, atol=3e-3)
    assert np.count_nonzero(found.ids != official["pan_0"]) <= 5  # SPEC 8
