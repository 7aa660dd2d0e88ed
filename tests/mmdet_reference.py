# SPDX-License-Identifier: Apache-2.0
"""The official detectors' reference data: goldens, key lists, and models filled as the references were."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MMDET = Path(__file__).parent / "data" / "mmdet"


def _load_generator() -> Any:
    """Loads weights_spec.py under a name of its own: SegNeXt's generator, with other adaptations, has its name."""
    spec = importlib.util.spec_from_file_location("mmdet_weights_spec", MMDET / "weights_spec.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weights_spec = _load_generator()


class Golden(dict[str, NDArray[Any]]):
    """Arrays of ``tests/data/mmdet/<name>.npz``; ``meta`` is its description."""

    def __init__(self, name: str) -> None:
        with np.load(MMDET / f"{name}.npz") as arrays:
            super().__init__({key: arrays[key] for key in arrays.files if key != "meta_json"})
            self.meta: dict[str, Any] = json.loads(str(arrays["meta_json"]))

    def network_input(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The image, and its height and width without padding, as ``Detector`` takes them."""
        made = self.meta["image"]
        images = weights_spec.image(made["h"], made["w"], made["seed"], made["n"])
        height, width = self._image_meta("img_shape", [made["h"], made["w"]])[:2]
        images[:, :, height:], images[:, :, :, width:] = 0, 0
        return images, np.array([[height, width]] * made["n"])

    @property
    def scale(self) -> NDArray[np.float64]:
        """What the file's boxes are to be multiplied by to be in pixels of the network's image."""
        return np.array(self._image_meta("scale_factor", [1.0] * 4)) if self.meta.get("rescale") else np.ones(4)

    def _image_meta(self, name: str, otherwise: list[Any]) -> list[Any]:
        metas = self.meta.get("img_metas")
        found: list[Any] = metas[0][name] if metas else otherwise
        return found


# Tolerances the reference's SPEC suggests in section 8.
BOX_TOLERANCE = 3e-3
SCORE_TOLERANCE = 5e-4
MASK_TOLERANCE = 1e-3
MAP_TOLERANCE = 1e-5  # of the largest value

CASES = {  # golden -> model
    "goldens/faster_r50_seed0_128x192": "faster_rcnn_r50",
    "goldens/mask_r50_seed0_128x192": "mask_rcnn_r50",
    "goldens/panoptic_r50_seed0_128x192": "panoptic_fpn_r50",
    "extra/faster_r50_seed0_128x192_padded_rescale": "faster_rcnn_r50",
    "extra/mask_r50_seed0_128x192_padded_rescale": "mask_rcnn_r50",
    "extra/panoptic_r50_seed0_128x192_padded_rescale": "panoptic_fpn_r50",
    "extra/mask_r50_seed0_512x640": "mask_rcnn_r50",
    "extra/faster_r101_seed0_128x192": "faster_rcnn_r101",
    "extra/mask_r101_seed0_128x192": "mask_rcnn_r101",
    "extra/panoptic_r101_seed0_128x192": "panoptic_fpn_r101",
}


def filled_detector(name: str, seed: int = 0) -> Any:
    """A detector with the public generator's weights."""
    import freqfusion

    return weights_spec.load_into(freqfusion.create_model(name), seed)


def assert_detections_match(actual: dict[str, NDArray[Any]], golden: Golden) -> None:
    """Fails unless the first image's detections are the golden's, in the golden's order.

    Order is defined by the scores only; the reference's own float32 and float64 runs keep it, with scores as little as
    7e-6 apart. Other convolutions than the reference's (oneDNN on other processors) are off by 1e-4: neighbours whose
    scores are that close may change places, and are compared with each other's golden.
    """
    expected, labels = golden["dets_0"], golden["labels_0"]
    count = int(actual["num"][0])
    assert count == len(expected)
    boxes, scores = actual["boxes"][0, :count] / golden.scale, actual["scores"][0, :count]
    assert (actual["labels"][0, count:] == -1).all()
    assert not actual["scores"][0, count:].any()
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, expected[:, 4], rtol=0, atol=SCORE_TOLERANCE)
    places = []
    for i in range(count):
        near = [j for j in range(count) if abs(expected[j, 4] - expected[i, 4]) <= SCORE_TOLERANCE and j not in places]
        same = [
            j
            for j in near
            if labels[j] == actual["labels"][0, i] and np.abs(boxes[i] - expected[j, :4]).max() <= BOX_TOLERANCE
        ]
        assert same, f"detection {i}: {actual['labels'][0, i]} {boxes[i]} {scores[i]} is none of the golden's"
        places.append(same[0])
    if "masks" in actual and "mask_logits_0" in golden:
        for i, j in enumerate(places):
            if j < len(golden["mask_logits_0"]):
                np.testing.assert_allclose(
                    actual["masks"][0, i], golden["mask_logits_0"][j], rtol=0, atol=MASK_TOLERANCE
                )
