# SPDX-License-Identifier: Apache-2.0
"""A detector's test-time settings reach its boxes, which are those of OpenCV's pipeline around PyTorch."""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from freqfusion import load_model, native
from freqfusion_export import export
from freqfusion_export.verification.detector_file import agreement
from kept_files import kept
from mmdet_reference import filled_detector, weights_spec

# All of it other than the official settings, as a config of mm 1.x writes it.
CONFIG = """
model = dict(type='FasterRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[50.0, 60.0, 70.0],
        bgr_to_rgb=False, pad_size_divisor=64),
    backbone=dict(type='ResNet', depth=50, style='caffe', norm_cfg=dict(type='BN', requires_grad=False)),
    neck=dict(type='FreqFusionCARAFEFPN', semi_conv=False),
    rpn_head=dict(type='RPNHead', anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.4, 1.0, 2.5],
        strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=0),
        rcnn=dict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.3), max_per_img=100)))
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(180, 100), keep_ratio=False), dict(type='PackDetInputs')]))
"""
# With deviations of 1, as caffe's, these weights turn rounding errors of 1e-6 into other detections.
MEAN, STD = (103.53, 116.28, 123.675), (50.0, 60.0, 70.0)
WIDTH, HEIGHT = 180, 100
MIN_AGREEMENT = 0.99  # two runs of the same arithmetic in another order: what ties decide may be lost


def reference(network, rgb):
    """The detections of one picture: stretched, normalised in OpenCV's order, padded, and boxes taken back."""
    levels = cv2.resize(rgb[:, :, ::-1], (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    padded = np.zeros((1, 3, 128, 192), np.float32)
    padded[0, :, :HEIGHT, :WIDTH] = ((levels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)
    with torch.inference_mode(), native.disabled():
        outputs = network(torch.from_numpy(padded), torch.tensor([[HEIGHT, WIDTH]]))
    found = {name: value.numpy() for name, value in zip(network.output_names, outputs, strict=True)}
    height, width = rgb.shape[:2]
    return {**found, "boxes": found["boxes"] * np.float32([width / WIDTH, height / HEIGHT] * 2)}


@pytest.mark.long
def test_boxes_are_those_of_the_configs_pipeline(tmp_path):
    checkpoint_path = tmp_path / "faster_rcnn.pth"
    state_dict = filled_detector("faster_rcnn_r50").state_dict()
    torch.save({"state_dict": state_dict, "meta": {"config": CONFIG}}, checkpoint_path)
    network, name, checkpoint = load_model(checkpoint_path)
    assert {setting.origin for setting in checkpoint.settings.table} == {"config"}
    assert (network.rpn_head.scale, network.rpn_head.ratios, network.rpn_head.iou_threshold) == (4, (0.4, 1, 2.5), 0.6)

    def make(folder):
        export(network, folder / "detector.onnx", name=name, checkpoint=checkpoint, checkpoint_path=checkpoint_path)

    path = kept(f"faster_rcnn_r50 with the settings of {CONFIG}", make) / "detector.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    plain = filled_detector("faster_rcnn_r50")  # with the official settings
    for height, width in ((90, 120), (75, 60)):
        picture = weights_spec.uint8_image(height, width, 3)
        expected = reference(network, picture)
        actual = dict(zip(names, session.run(None, {"image": picture[None]}), strict=True))
        assert expected["num"].min() > 0
        assert np.abs(actual["num"] - expected["num"]).max() <= 1
        assert agreement(actual, expected)["matched"] >= MIN_AGREEMENT
        assert agreement(reference(plain, picture), expected)["matched"] < 0.5  # the settings do matter
        assert actual["scores"][0, : int(actual["num"][0])].min() > 0.1
        assert actual["boxes"][..., 2].max() <= width
        assert actual["boxes"][..., 3].max() <= height
