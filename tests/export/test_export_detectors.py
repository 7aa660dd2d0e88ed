# SPDX-License-Identifier: Apache-2.0
"""Exported detectors: the official detections, equal to PyTorch at every size, standard operators alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from freqfusion import native
from freqfusion_export import export
from freqfusion_export.errors import ExportError, VerificationError
from freqfusion_export.precision.fp32 import Fp32
from freqfusion_export.verification import detector_file
from freqfusion_export.verification.detector_file import DetectorFile, agreement, by_pytorch
from freqfusion_runtime.errors import InputError
from freqfusion_runtime.model_files.classes import coco
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions.kernel_library import library_path
from mmdet_reference import CASES, Golden, assert_detections_match, weights_spec

pytestmark = pytest.mark.numerics

SMALL_CASES = [file for file, name in CASES.items() if "r50" in name and "512x640" not in file]
# One of the deeper networks, the one whose resampler has other groups: each takes a minute to trace and check.
SMALL_CASES.append("extra/faster_r101_seed0_128x192")
# Two runs of the same arithmetic in another order: nothing may be lost but what ties decide.
MIN_AGREEMENT = 0.99


@pytest.fixture(scope="module")
def run(detector_files):
    """Runs a file on function bodies or kernels; outputs by name. Sessions of the last network are kept."""
    sessions: dict[Any, Any] = {}

    def call(name: str, kernels: bool = False, interface: str = "tensor", **feed: np.ndarray) -> dict[str, Any]:
        key = name, kernels, interface
        if key not in sessions:
            for other in [other for other in sessions if other[0] != name]:
                del sessions[other]
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            if kernels:
                options.register_custom_ops_library(str(library_path()))
            path = detector_files.path(name, interface)
            sessions[key] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in sessions[key].get_outputs()]
        return dict(zip(names, sessions[key].run(None, feed), strict=True))

    return call


@pytest.mark.parametrize("kernels", [False, True], ids=["bodies", "kernels"])
@pytest.mark.parametrize("file", sorted(SMALL_CASES, key=CASES.__getitem__))
def test_finds_the_official_detections(run, file, kernels):
    if kernels and not library_path().is_file():
        pytest.skip("libfreqfusion_onnxruntime.so is not built; `make plugins` builds it")
    g = Golden(file)
    images, sizes = g.network_input()
    outputs = run(CASES[file], kernels, images=images, image_sizes=sizes)
    assert_detections_match(outputs, g)
    if "semantic" in outputs:
        means = outputs["semantic"].mean(axis=(0, 2, 3), dtype=np.float64)
        expected = g["sem_logits_stride4_stats"]
        np.testing.assert_allclose(means, expected[:, 0], rtol=0, atol=1e-5 * expected[:, 2].max())


@pytest.mark.long
@pytest.mark.parametrize("size", [(1, 64, 64), (2, 128, 64), (1, 64, 192)])
def test_equals_pytorch_at_sizes_it_was_not_traced_at(detector_files, run, size):
    n, h, w = size
    images, sizes = weights_spec.image(h, w, 5, n), np.array([[h, w - 9]] * n)
    with native.disabled():
        expected = by_pytorch(detector_files.network("mask_rcnn_r50"), images, sizes)
    del expected["proposals"]
    actual = run("mask_rcnn_r50", images=images, image_sizes=sizes)
    assert agreement(actual, expected)["matched"] >= MIN_AGREEMENT
    assert np.abs(actual["num"] - expected["num"]).max() <= 1  # rounding may put one across the threshold of scores


@pytest.mark.long
def test_a_file_for_tensorrt_rtx_finds_the_same(detector_files):
    path = detector_files.path("mask_rcnn_r50", suppression="unrolled", roi_align="products")
    model = onnx.load(path)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert not {"NonMaxSuppression", "RoiAlign"} & {node.op_type for node in nodes}
    g = Golden("extra/mask_r50_seed0_128x192_padded_rescale")
    images, sizes = g.network_input()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    results = session.run(None, {"images": images, "image_sizes": sizes})
    actual = dict(zip([output.name for output in session.get_outputs()], results, strict=True))
    assert_detections_match(actual, g)  # neighbours whose scores fp32 cannot tell apart may change places


@pytest.mark.long
def test_more_candidates_than_places_leave_the_best(run):
    images, sizes = Golden("goldens/mask_r50_seed0_128x192").network_input()
    outputs = run("mask_rcnn_r50", images=images, image_sizes=sizes)
    assert outputs["num"].tolist() == [100]
    assert outputs["scores"][0, 99] > 0.05 + 1e-3  # the hundredth is not the last above the threshold


@pytest.mark.long
def test_boxes_end_at_the_border_of_the_unpadded_image(run):
    images, sizes = Golden("extra/mask_r50_seed0_128x192_padded_rescale").network_input()
    height, width = sizes[0]
    boxes = run("mask_rcnn_r50", images=images, image_sizes=sizes)["boxes"][0]
    assert boxes.min() == 0
    assert boxes[:, 2].max() == width
    assert boxes[:, 3].max() == height


@pytest.mark.long
def test_an_image_without_objects(detector_files):
    model = ir.load(detector_files.path("mask_rcnn_r50"))
    bias = model.graph.initializers["roi_head.bbox_head.fc_cls.bias"]
    values = bias.const_value.numpy().copy()
    values[80] += 1000
    bias.const_value = ir.Tensor(values, name=bias.name)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feed = {"images": np.zeros((2, 3, 64, 64), np.float32), "image_sizes": np.array([[64, 64]] * 2)}
    num, boxes, scores, labels, masks = session.run(None, feed)
    assert num.tolist() == [0, 0]
    assert not boxes.any()
    assert not scores.any()
    assert (labels == -1).all()
    assert np.isfinite(masks).all()


@pytest.mark.parametrize("name", ["faster_rcnn_r50", "mask_rcnn_r50", "panoptic_fpn_r50"])
def test_pictures_are_prepared_and_boxes_are_in_their_pixels(detector_files, run, name):
    pictures = np.stack([weights_spec.uint8_image(60, 90, seed)[:, :, ::-1] for seed in (1, 2)])
    manifest = read_manifest(detector_files.path(name, "image"))
    plan = manifest.preprocessing
    images = np.concatenate([prepare(picture, plan) for picture in pictures])
    fitted = keep_ratio_size(60, 90, plan)
    assert images.shape[2:] == (128, 192)
    assert fitted == (96, 144)
    expected = run(name, images=images, image_sizes=np.array([fitted] * 2))
    expected["boxes"] = expected["boxes"] / np.array([144 / 90, 96 / 60] * 2, np.float32)
    actual = run(name, interface="image", image=pictures)
    assert list(actual) == list(expected)
    assert agreement(actual, expected)["matched"] >= MIN_AGREEMENT
    assert expected["num"].min() > 0
    assert actual["boxes"][..., 2].max() <= 90
    assert actual["boxes"][..., 3].max() <= 60


def read_manifest(path: Any) -> Manifest:
    return Manifest.from_json({p.key: p.value for p in onnx.load(path).metadata_props}[METADATA_KEY])


@pytest.mark.parametrize(
    ("name", "task", "num_classes", "num_things", "more"),
    [
        ("faster_rcnn_r50", "detection", 80, None, []),
        ("mask_rcnn_r50", "instance_segmentation", 80, None, ["masks"]),
        ("panoptic_fpn_r50", "panoptic_segmentation", 133, 80, ["masks", "semantic"]),
    ],
)
def test_manifest_and_graph_say_what_goes_in_and_comes_out(detector_files, name, task, num_classes, num_things, more):
    path = detector_files.path(name)
    manifest = read_manifest(path)
    assert (manifest.task, manifest.num_classes, manifest.num_things) == (task, num_classes, num_things)
    assert manifest.classes == coco.CLASSES[:num_classes]
    assert manifest.palette == coco.PALETTE[:num_classes]
    assert (manifest.preprocessing.size_divisor, manifest.preprocessing.size_fit) == (64, "pad")
    assert [spec.name for spec in manifest.inputs] == ["images", "image_sizes"]
    assert [spec.name for spec in manifest.outputs] == ["num", "boxes", "scores", "labels", *more]
    shapes = {spec.name: (spec.dtype, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)}
    assert shapes["images"] == ("float32", ("batch", 3, "height", "width"))
    assert shapes["image_sizes"] == ("int64", ("batch", 2))
    assert shapes["num"] == ("int64", ("batch",))
    assert shapes["boxes"] == ("float32", ("batch", 100, 4))
    assert shapes["labels"] == ("int64", ("batch", 100))
    if "masks" in more:
        assert shapes["masks"] == ("float32", ("batch", 100, 28, 28))
    if "semantic" in more:
        assert shapes["semantic"] == ("float32", ("batch", 54, "height/4", "width/4"))
    graph = onnx.load(path)
    operators = [node.op_type for node in graph.graph.node if node.domain == ""]
    assert not {"Loop", "If", "Scan", "NonZero", "GridSample"} & set(operators)
    assert operators.count("NonMaxSuppression") == 2
    extractors = 2 if "masks" in more else 1
    counts = {"AdaptiveFilter": 20, "LocalSimilarity": 8, "OffsetResample": 4, "PyramidRoiAlign": extractors}
    assert manifest.operators == counts
    body = next(function for function in graph.functions if function.name == "PyramidRoiAlign")
    assert [node.op_type for node in body.node].count("RoiAlign") == 4
    assert {node.domain for node in body.node} == {""}
    assert {f.name for f in graph.functions} == set(manifest.operators)


def test_a_size_that_is_no_multiple_of_64_is_refused(detector_files):
    session = open_session(detector_files.path("faster_rcnn_r50"))
    feed = {"images": np.zeros((1, 3, 128, 160), np.float32), "image_sizes": np.array([[128, 160]])}
    with pytest.raises(InputError, match=r"multiples of 64, got 128 x 160.* or resize to 128 x 192"):
        session.run(feed)


def test_a_file_that_finds_something_else_is_refused(detector_files):
    path, plan = detector_files.path("faster_rcnn_r50"), plan_of(detector_files)  # written before the weights change
    network = detector_files.network("faster_rcnn_r50")
    weight = network.roi_head.bbox_head.fc_cls.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.05)
    try:
        with pytest.raises(VerificationError, match=r"agree on .*% of the (detections|proposals) at 1 x 3 x 64 x 128"):
            Fp32().verify(DetectorFile(path, network, "tensor", plan))
    finally:
        weight.data.copy_(before)


def test_detections_whose_scores_are_no_numbers_agree_with_nothing():
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (1, 3, 1))
    right = {"num": np.array([2]), "scores": np.array([[0.9, 0.8, 0]]), "labels": np.zeros((1, 3), int), "boxes": boxes}
    assert agreement(right, right)["matched"] == 1
    broken = {**right, "scores": np.array([[0.9, np.nan, 0]])}
    for actual, expected in ((broken, broken), (right, broken)):
        assert agreement(actual, expected)["matched"] <= 0.5


def test_proposals_count_in_any_order_but_in_their_own_image():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((20, 81)).astype(np.float32)  # of two images
    nothing = {"num": np.zeros(2, np.int64), "scores": np.zeros((2, 100), np.float32)}
    order = np.concatenate((generator.permutation(10), 10 + generator.permutation(10)))
    for proposals, share in (
        (logits[order], 1.0),
        (np.roll(logits, 10, axis=0), 0.0),
        (np.where(np.arange(20)[:, None] == 3, logits + 0.01, logits)[order], 0.95),
        (np.full_like(logits, np.nan), 0.0),
    ):
        found = agreement({**nothing, "proposals": proposals}, {**nothing, "proposals": logits})
        assert found["proposals"] == pytest.approx(share)


@pytest.mark.long
@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_the_largest_size_is_checked_on_demand(detector_files, interface, monkeypatch):
    network = detector_files.network("faster_rcnn_r50")
    path, plan = detector_files.path("faster_rcnn_r50", interface), plan_of(detector_files)
    checked = []

    def noted(network, images, sizes):
        checked.append(images.shape)
        return by_pytorch(network, images, sizes)

    monkeypatch.setattr(detector_file, "by_pytorch", noted)
    Fp32().verify(DetectorFile(path, network, interface, plan, full_size=True))
    assert len(checked) == 3
    assert checked[-1] == (1, 3, 128, 192)  # 96 x 160, the limits of these files, padded


def plan_of(detector_files: Any) -> Any:
    return read_manifest(detector_files.path("faster_rcnn_r50")).preprocessing


def test_an_unknown_form_is_refused(detector_files, tmp_path):
    with pytest.raises(ExportError, match="suppression must be 'standard' or 'unrolled', got 'soft'"):
        export(detector_files.network("faster_rcnn_r50"), tmp_path / "model.onnx", suppression="soft")
    with pytest.raises(ExportError, match="roi_align must be 'standard' or 'products', got 'pooled'"):
        export(detector_files.network("faster_rcnn_r50"), tmp_path / "model.onnx", roi_align="pooled")
