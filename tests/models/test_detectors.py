# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN, Mask R-CNN and Panoptic FPN against the official goldens."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from freqfusion import create_model, load_checkpoint, load_model, native
from freqfusion.detection.boxes import decode_boxes
from freqfusion.detection.detector import arguments_of
from freqfusion.detection.pyramid import Pyramid
from freqfusion.detection.roi_heads import FINEST_SCALE, extract
from freqfusion.errors import CheckpointError, UnknownModelError
from freqfusion.ops.pyramid_roi_align import pyramid_levels
from freqfusion.registry import recognize_model
from mmdet_reference import (
    BOX_TOLERANCE,
    CASES,
    MAP_TOLERANCE,
    MMDET,
    Golden,
    assert_detections_match,
    filled_detector,
    weights_spec,
)

pytestmark = pytest.mark.numerics

NAMES = sorted(set(CASES.values()))
SMALL_CASES = [name for name in CASES if "512x640" not in name]


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def detector():
    """Gives a filled detector by name; the last one is kept, since ten runs use six networks in turn."""
    kept: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in kept:
            kept.clear()
            kept[name] = filled_detector(name)
        return kept[name]

    return get


def key_list(name: str) -> list[Any]:
    return json.loads((MMDET / "keys" / f"{name}_fpn_1x_coco_freqfusion.json").read_text())


def shaped(name: str) -> dict[str, torch.Tensor]:
    """A state_dict without values, made from the official list."""
    return {key: torch.empty(shape, device="meta") for key, shape, _ in key_list(name)}


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_is_the_official_one_in_order(name):
    with torch.device("meta"):
        state_dict = create_model(name).state_dict()
    entries = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state_dict.items()]
    assert entries == key_list(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_official_checkpoint_is_recognised(name):
    assert recognize_model(shaped(name)) == (name, 80)


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("goldens/neck_freqfusion_carafe_fpn_seed0", {}),
        ("extra/neck_group8_seed0", {"groups": 8}),
        ("extra/neck_nonorm_seed0", {"norm": False}),
        ("extra/neck_noresample_seed0", {"feature_resample": False}),
    ],
)
def test_pyramid_golden(file, arguments):
    g = Golden(file)
    neck = weights_spec.load_into(Pyramid(**arguments).eval(), 0, prefix="neck.")
    maps = [torch.from_numpy(weights_spec.feature(f"C{i}", g[f"C{i}_shape"], g.meta["seed"])) for i in range(2, 6)]
    for i, actual in enumerate(neck(maps)):
        expected = g[f"P{i + 2}"]
        step = g.meta["P2_channel_step"] if i == 0 else 1
        np.testing.assert_allclose(
            actual[:, ::step].numpy(), expected, rtol=0, atol=MAP_TOLERANCE * abs(expected).max()
        )
        assert_stats(actual.numpy(), g[f"P{i + 2}_stats"])


def assert_stats(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compares mean, deviation and largest absolute value."""
    stats = [actual.mean(dtype=np.float64), actual.std(dtype=np.float64), np.abs(actual).max()]
    np.testing.assert_allclose(stats, expected, rtol=0, atol=MAP_TOLERANCE * expected[2])


def run(network: Any, g: Golden) -> dict[str, np.ndarray]:
    images, sizes = g.network_input()
    outputs = network(torch.from_numpy(images), torch.from_numpy(sizes))
    return dict(zip(network.output_names, (output.numpy() for output in outputs), strict=True))


@pytest.mark.parametrize("file", sorted(SMALL_CASES, key=CASES.__getitem__))
def test_detector_golden(detector, file):
    g = Golden(file)
    network = detector(CASES[file])
    outputs = run(network, g)
    assert_detections_match(outputs, g)
    if "semantic" in outputs:
        for actual, expected in zip(outputs["semantic"][0], g["sem_logits_stride4_stats"], strict=True):
            assert_stats(actual, expected)


@pytest.mark.parametrize("file", [name for name in SMALL_CASES if "mask_r50" in name])
def test_order_of_detections_is_exact_in_double_precision(file):
    """Scores of the goldens are as near as 1.3e-5, and in fp32 no processor knows them better than 6e-5 (SPEC 8)."""
    g = Golden(file)
    images, sizes = g.network_input()
    network = filled_detector(CASES[file]).double()
    outputs = network(torch.from_numpy(images).double(), torch.from_numpy(sizes))
    _, boxes, _, labels, *_ = (output.numpy() for output in outputs)
    assert np.array_equal(labels[0], g["labels_0"])
    np.testing.assert_allclose(boxes[0] / g.scale, g["dets_0"][:, :4], rtol=0, atol=BOX_TOLERANCE)


def test_double_precision_reproduces_the_references_double_run():
    g = Golden("goldens/faster_r50_seed0_128x192")
    images, sizes = g.network_input()
    outputs = filled_detector("faster_rcnn_r50").double()(torch.from_numpy(images).double(), torch.from_numpy(sizes))
    _, boxes, scores, labels = (output[0].numpy() for output in outputs[:4])
    assert np.array_equal(labels, g["f64_labels_0"])
    # What is left: the reference's anchors and limits are float32.
    np.testing.assert_allclose(boxes, g["f64_dets_0"][:, :4], rtol=0, atol=5e-5)
    np.testing.assert_allclose(scores, g["f64_dets_0"][:, 4], rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def large(detector):
    """Mask R-CNN and its pyramid for the 512 x 640 image, where all four levels are read."""
    network = detector("mask_rcnn_r50")
    with torch.inference_mode():
        images = torch.from_numpy(weights_spec.image(512, 640, 0))
        return network, network.neck(network.backbone(images))


def test_heads_on_fixed_boxes(large):
    network, maps = large
    g = Golden("extra/roi_heads_fixed_rois_seed0_512x640")
    boxes = torch.from_numpy(g["rois"][None, :, 1:])
    assert pyramid_levels(boxes, FINEST_SCALE)[0].tolist() == g["levels"].tolist()
    features = extract(maps, boxes, 7)
    assert_close(features[:, ::32], g["bbox_feats_ch32"])
    logits, deltas = network.roi_head.bbox_head(maps, boxes)
    assert_close(logits[0], g["cls_logits"])
    stds = torch.tensor([0.1, 0.1, 0.2, 0.2])
    assert_close((deltas[0] / stds).flatten(1), g["bbox_deltas"])
    decoded = decode_boxes(boxes[:, :, None], deltas, torch.tensor([[512, 640]]))[0, :, :4].flatten(1)
    np.testing.assert_allclose(decoded.numpy(), g["decoded_boxes_cls0_3"], rtol=0, atol=3e-3)
    chosen = boxes[:, :: int(g["mask_rois_step"])]
    masks = network.roi_head.mask_head.logits(extract(maps, chosen, 14))
    assert_close(masks[:, [0, 57]], g["mask_logits_cls0_57"])


def assert_close(actual: torch.Tensor, expected: np.ndarray) -> None:
    """Within twice the maps' tolerance: one more layer or two."""
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=2 * MAP_TOLERANCE * np.abs(expected).max())


def test_large_image_golden(large):
    network, _ = large
    g = Golden("extra/mask_r50_seed0_512x640")
    assert_detections_match(run(network, g), g)


def test_a_batch_is_its_images_one_by_one(detector):
    network = detector("faster_rcnn_r50")
    images = torch.from_numpy(weights_spec.image(64, 128, 3, n=2))
    sizes = torch.tensor([[64, 128], [50, 100]])
    both = network(images, sizes)
    for i in range(2):
        for whole, single in zip(both, network(images[i : i + 1], sizes[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i], single[0], rtol=0, atol=1e-3)
    assert both[1][1, :, 2].max() <= 100
    assert both[1][1, :, 3].max() <= 50


def test_an_image_without_objects_gives_fillers_only(detector):
    network = detector("mask_rcnn_r50")
    bias = network.roi_head.bbox_head.fc_cls.bias
    before = bias.clone()
    bias[80] += 1000
    try:
        num, boxes, scores, labels, masks = network(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))
    finally:
        bias.copy_(before)
    assert num.tolist() == [0]
    assert not boxes.any()
    assert not scores.any()
    assert (labels == -1).all()
    assert masks.isfinite().all()


@pytest.mark.parametrize("size", [(128, 160), (96, 128), (64, 65)])
def test_sides_must_be_multiples_of_64(size):
    with torch.device("meta"):
        network = create_model("faster_rcnn_r50")
        with pytest.raises(
            ValueError, match=rf"sides must be multiples of 64, got {size[0]} x {size[1]}; append zeros"
        ):
            network(torch.zeros(1, 3, *size), torch.tensor([[1, 1]]))


def test_group_count_and_norm_come_from_the_checkpoint(tmp_path):
    network = create_model("faster_rcnn_r50", num_classes=3, groups=8, norm=False)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pth")
    loaded, name, _ = load_model(tmp_path / "model.pth")
    assert name == "faster_rcnn_r50"
    sampler = loaded.neck.alignment[0].dysampler
    assert (sampler.groups, hasattr(sampler.norm_hr, "weight"), loaded.num_classes) == (8, False, 3)


def test_resamplers_of_no_configuration_are_refused():
    found = shaped("mask_rcnn_r50")
    key = "neck.alignment.2.dysampler.offset.weight"
    for channels, message in (
        (30, "2.dysampler.offset.weight must have 8 channels for each of G groups, .* got 30 channels; the official"),
        (64, r"four resamplers .* must have equal groups and norm, got .*\(4, True\).*\(8, True\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            arguments_of({**found, key: torch.empty(channels, 72, 3, 3, device="meta")})
    without_norm = {k: v for k, v in found.items() if ".alignment.1.dysampler.norm" not in k}
    with pytest.raises(CheckpointError, match="must have equal groups and norm"):
        recognize_model(without_norm)


@pytest.fixture(scope="module")
def mask_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mask.pth"
    torch.save({"state_dict": create_model("mask_rcnn_r50", num_classes=5).state_dict()}, path)
    return path


@pytest.mark.parametrize("wrong", ["mask_rcnn_r101", "faster_rcnn_r50", "panoptic_fpn_r50", "segnext_t"])
def test_a_checkpoint_of_another_depth_or_head_names_the_model_it_fits(mask_checkpoint, wrong):
    message = (
        r"mask.pth does not fit the model: \d+ of \d+ entries differ. Its entries are those of 'mask_rcnn_r50' with 5"
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(mask_checkpoint, wrong)


def test_a_checkpoint_of_another_class_count_names_its_own(mask_checkpoint):
    with pytest.raises(
        CheckpointError, match=r"'mask_rcnn_r50' with 5 classes[\s\S]*fc_cls.weight is \(6, 1024\), expected \(81,"
    ):
        load_checkpoint(create_model("mask_rcnn_r50"), mask_checkpoint)


def test_keys_of_no_model_name_the_nearest():
    found = shaped("panoptic_fpn_r101")
    found.pop("semantic_head.conv_logits.bias")
    with pytest.raises(UnknownModelError, match=re.escape("the nearest is 'panoptic_fpn_r101', 1 of whose entries")):
        recognize_model(found)


def test_native_kernels_and_definitions_agree(detector):
    if not native.is_available():
        pytest.skip("libfreqfusion_c.so is not built; `make plugins` builds it")
    network = detector("faster_rcnn_r50")
    maps = network.backbone(torch.from_numpy(weights_spec.image(64, 128, 1)))
    by_kernels = network.neck(maps)
    with native.disabled():
        for actual, expected in zip(by_kernels, network.neck(maps), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=float(MAP_TOLERANCE * expected.abs().max()))
