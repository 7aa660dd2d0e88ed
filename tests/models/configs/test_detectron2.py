# SPDX-License-Identifier: Apache-2.0
"""A detectron2 config is read with detectron2's own defaults, which are not the official ones."""

from __future__ import annotations

import pytest
import torch
from freqfusion import create_model
from freqfusion.configs.settings import settings_from_file
from freqfusion.errors import CheckpointError

DETECTOR = {"roi_head.bbox_head.fc_cls.weight": torch.empty(81, 1024)}


def read(folder, text, base=None):
    path = folder / "config.yaml"
    path.write_text(text)
    if base is not None:
        (folder / "base.yaml").write_text(base)
    return settings_from_file(path, DETECTOR)


def test_a_short_config_has_detectron2s_defaults(tmp_path):
    found = read(tmp_path, "MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n")
    assert found.preprocessing == {
        "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0), "color_order": "BGR",
        "long_side": 1333, "short_side": 800, "resizer": "pillow",
    }  # fmt: skip
    assert found.network["style"] == "caffe"
    assert not found.refused


def test_what_a_config_and_its_base_say_is_taken(tmp_path):
    base = "INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 600}\n"
    base += "MODEL: {PIXEL_MEAN: [0, 1, 2], PIXEL_STD: [2, 3, 4], RPN: {NMS_THRESH: 0.6}}\n"
    text = """
_BASE_: base.yaml
INPUT: {MIN_SIZE_TEST: 500}
MODEL:
  RESNETS: {STRIDE_IN_1X1: false}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.3, NMS_THRESH_TEST: 0.4}
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]], ASPECT_RATIOS: [[0.4, 1.0, 2.5]]}
SOLVER: {BASE_LR: 0.1}
"""
    found = read(tmp_path, text, base)
    assert (found.preprocessing["color_order"], found.preprocessing["std"]) == ("RGB", (2.0, 3.0, 4.0))
    assert (found.preprocessing["short_side"], found.preprocessing["mean"]) == (500, (0.0, 1.0, 2.0))
    with torch.device("meta"):
        network = create_model("faster_rcnn_r50", **found.network)
    head = network.rpn_head
    assert (head.scale, head.ratios, head.iou_threshold) == (4, (0.4, 1.0, 2.5), 0.6)
    assert (network.score_threshold, network.iou_threshold) == (0.3, 0.4)
    assert network.backbone.layer2[0].conv1.stride == (1, 1)


@pytest.mark.parametrize(
    ("text", "name", "found", "built"),
    [
        ("TEST: {DETECTIONS_PER_IMAGE: 50}", "TEST.DETECTIONS_PER_IMAGE", "50", "100"),
        ("TEST: {AUG: {ENABLED: true}}", "TEST.AUG.ENABLED", "True", "False"),
        ("INPUT: {FORMAT: YUV}", "INPUT.FORMAT", "YUV", "RGB"),
        ("INPUT: {MIN_SIZE_TEST: many}", "INPUT.MIN_SIZE_TEST", "(1333, many)", "(1333, 800)"),
        ("MODEL: {PIXEL_STD: [1]}", "MODEL.PIXEL_STD", "[1]", "(58.395, 57.12, 57.375)"),
        ("MODEL: {ROI_HEADS: {SCORE_THRESH_TEST: 2}}", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "2", "0.05"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[32, 64]]}}", "MODEL.ANCHOR_GENERATOR.SIZES", "[[32, 64]]",
         "[[32], [64], [128], [256], [512]]"),
        ("MODEL: {ANCHOR_GENERATOR: {ASPECT_RATIOS: [[1.0]]}}", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1]]",
         "[[0.5, 1, 2]]"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_name(text, name, found, built, tmp_path):
    refused = {setting.name: (setting.found, setting.built) for setting in read(tmp_path, text).refused}
    assert refused == {name: (found, built)}


def test_what_nobody_knows_is_said(tmp_path):
    found = read(tmp_path, "MODEL: {WONDERS: 3}")
    assert [(s.name, s.found) for s in found.table if s.origin == "not understood"] == [("MODEL.WONDERS", "3")]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is no YAML"), ("- 1", "is no detectron2 config"), ("!!python/object/apply:os.getcwd []", "is no YAML")],
)
def test_files_that_are_no_configs_are_named(text, message, tmp_path):
    with pytest.raises(CheckpointError, match=rf"config\.yaml {message}"):
        read(tmp_path, text)
