# SPDX-License-Identifier: Apache-2.0
"""Every test-time setting of a config is taken, defaulted or refused by name."""

from __future__ import annotations

import pytest
import torch
from freqfusion import create_model
from freqfusion.configs.overrides import Overrides
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_from_file, settings_of
from freqfusion.errors import CheckpointError

SEGMENTER = {"decode_head.conv_seg.weight": torch.empty(3, 256, 1, 1)}
DETECTOR = {
    "roi_head.bbox_head.fc_cls.weight": torch.empty(81, 1024),
    "backbone.layer3.5.conv1.weight": torch.empty(1),
}
OLD = """
img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb={rgb})
train_pipeline = [dict(type='Resize', img_scale=(99, 98)), dict(type='Normalize', mean=[0, 0, 0], std=[9, 9, 9])]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1024, 256), flip=False, transforms=[
        dict(type='Resize', keep_ratio={keep}), {steps}
        dict(type='RandomFlip'), dict(type='Normalize', **img_norm_cfg), {pad}
        dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])])]
data = dict(train=dict(type='Again', dataset=dict(pipeline=train_pipeline)), test=dict(pipeline=test_pipeline))
"""
NEW = """
model = dict(type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', mean=[1, 2, 3], std=[4, 5, 6],
    bgr_to_rgb={rgb}, pad_val=0, seg_pad_val=255, size=(99, 99), test_cfg=dict(size_divisor=32)))
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[dict(type='Resize', scale=(99, 98))])))
test_dataloader = dict(dataset=dict(type='Joined', datasets=[dict(pipeline=[
    dict(type='mmcv.transforms.LoadImageFromFile'), dict(type='Resize', scale={scale}, keep_ratio={keep}),
    dict(type='LoadAnnotations'), dict(type='PackSegInputs')])]))
"""

ONE_SCALE = "one scale, nothing averaged"


def read(text, weights=SEGMENTER, **options):
    return settings_of(read_config(text), weights, **options)


def refused(settings):
    return {setting.name: (setting.found, setting.built) for setting in settings.refused}


def old(rgb=True, keep=True, steps="dict(type='ResizeToMultiple', size_divisor=32),", pad=""):
    return OLD.format(rgb=rgb, keep=keep, steps=steps, pad=pad)


@pytest.mark.parametrize("rgb", [True, False])
def test_an_old_config_gives_sizes_and_numbers_of_its_test_pipeline(rgb):
    found = read(old(rgb))
    assert found.preprocessing == {
        "long_side": 1024, "short_side": 256, "size_divisor": 32, "size_fit": "stretch",
        "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "color_order": "RGB" if rgb else "BGR",
    }  # fmt: skip
    assert not found.refused
    assert {setting.origin for setting in found.table} == {"config"}


@pytest.mark.parametrize("rgb", [True, False])
def test_a_new_config_normalises_and_pads_behind_its_pipeline(rgb):
    found = read(NEW.format(rgb=rgb, scale=(2048, 512), keep=True))
    assert found.preprocessing == {
        "long_side": 2048, "short_side": 512, "size_divisor": 32, "size_fit": "pad",
        "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "color_order": "RGB" if rgb else "BGR",
    }  # fmt: skip
    assert not found.refused


def test_without_ratio_the_size_is_exact_and_its_order_counts():
    assert read(old(keep=False)).preprocessing["exact_size"] == (256, 1024)
    assert read(NEW.format(rgb=True, scale=(128, 64), keep=False)).preprocessing["exact_size"] == (64, 128)
    assert read(NEW.format(rgb=True, scale=96, keep=False)).preprocessing["exact_size"] == (96, 96)
    bare = read("test_pipeline = [dict(type='Resize', scale=(512, 256))]")  # mm 1.x stretches unless told otherwise
    assert bare.preprocessing["exact_size"] == (256, 512)
    assert bare.image_size == (512, 256)


def test_the_test_pipeline_is_found_by_name_and_not_by_position():
    text = "test_pipeline = [dict(img_scale=(1024, 256))]\ntrain_pipeline = [dict(img_scale=(2048, 512))]"
    assert read(text).image_size == (1024, 256)
    data = "data = dict(test=[dict(dataset=dict(datasets=[dict(pipeline=[dict(img_scale=(640, 320))])]))])\n"
    assert read(data + text).image_size == (640, 320)
    assert read("val_pipeline = [dict(img_scale=(640, 320))]").image_size == (640, 320)


def test_a_checkpoints_own_size_goes_before_the_configs():
    found = read(old(), image_size=[192, 256])
    assert found.image_size == (256, 192)
    assert not found.refused
    assert read("", image_size=["a", 2]).image_size is None


def test_without_a_pipeline_numbers_are_those_of_their_usual_names():
    assert read("img_norm_cfg = dict(mean=[0, 0, 0], std=[1, 1, 1], to_rgb=False)").preprocessing == {
        "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "color_order": "BGR",
    }  # fmt: skip
    assert read("data_preprocessor = dict(mean=[9, 8, 7], std=[1, 1, 1])").preprocessing["color_order"] == "BGR"


def test_a_whole_old_pipeline_without_normalisation_has_none():
    found = read("test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Collect', keys=['img'])]")
    assert found.preprocessing["mean"] == (0, 0, 0)
    assert found.preprocessing["std"] == (1, 1, 1)
    assert found.preprocessing["color_order"] == "BGR"


@pytest.mark.parametrize(
    ("text", "name", "found", "built"),
    [
        (old(steps=""), "size_divisor", "none", "32, stretched up to"),
        (old(steps="dict(type='ResizeToMultiple', size_divisor=16),"), ".ResizeToMultiple.size_divisor", "16", "32"),
        (old(pad="dict(type='Pad', size=(512, 512)),"), ".Pad.size", "(512, 512)", "None"),
        (old(pad="dict(type='Pad', size_divisor=32, pad_val=dict(img=7)),"), ".Pad.pad_val", "img 7", "0"),
        (old(steps="dict(type='Pad', size_divisor=32),"), ".Pad", "before normalisation", "zeros after it"),
        (old().replace("flip=False", "flip=True"), ".MultiScaleFlipAug.flip", "True", "False"),
        (old().replace("(1024, 256)", "[(1, 2), (3, 4)]"), ".img_scale", "[(1, 2), (3, 4)]", ONE_SCALE),
        (old().replace("(1024, 256)", "[1024]"), ".img_scale", "[1024]", "(2048, 512)"),
        (old().replace("flip=False", "img_ratios=[1.0, 2.0]"), ".img_ratios", "[1, 2]", ONE_SCALE),
        (old().replace("[4, 5, 6]", "[4, 0, 6]"), ".Normalize.std", "[4, 0, 6]", "(58.395, 57.12, 57.375)"),
        (old().replace("[1, 2, 3]", "[1]"), ".Normalize.mean", "[1]", "(123.675, 116.28, 103.53)"),
        (old(steps="dict(type='CLAHE'),"), ".CLAHE", "type CLAHE", "none"),
        (old().replace("keep_ratio=True", "interpolation='nearest'"), ".Resize.interpolation", "nearest", "bilinear"),
        (old().replace("'LoadImageFromFile'", "'LoadImageFromFile', to_float32=True"), ".to_float32", "True", "False"),
        (NEW.format(rgb=1, scale=(100, 50), keep=True).replace("size_divisor=32", "size=(512, 512)"),
         "model.data_preprocessor.test_cfg.size", "(512, 512)", "padding to multiples"),
        ("test_pipeline = [dict(type='RandomFlip', prob=0.5)]", ".RandomFlip.prob", "0.5", "never flipped"),
        ("test_pipeline = [dict(type='Resize', scale=(100, 50))]", "size_divisor", "none", "32, stretched up to"),
    ],
)  # fmt: skip
def test_what_is_not_done_to_pictures_is_refused_by_name(text, name, found, built):
    entries = refused(read(text))
    match = [key for key in entries if key.endswith(name)]
    assert match, entries
    assert entries[match[0]] == (found, built)


SLIDE = "model = dict(test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))"
SLIDE_BEFORE_0_10 = "test_cfg = dict(mode='slide', crop_size=(512, 512), stride=(341, 341))"


@pytest.mark.parametrize("text", [SLIDE, SLIDE_BEFORE_0_10])
def test_slide_mode_is_refused_with_its_tiles(text):
    wish = ("slide, crop_size (512, 512), stride (341, 341)", "whole")
    assert refused(read(text)) == {"model.test_cfg.mode": wish}
    assert not read("test_cfg = dict(type='TestLoop')").refused


def test_options_of_the_head_become_arguments_of_the_model():
    head = "comp_feat_upsample=False, semi_conv=False, hr_residual=False, ham_kwargs=dict(MD_R=8, eval_steps=3)"
    found = read(f"model = dict(decode_head=dict({head}))")
    assert found.network == {
        "comp_feat_upsample": False, "semi_conv": False, "hr_residual": False, "nmf_rank": 8, "nmf_steps": 3,
    }  # fmt: skip
    head = create_model("segnext_t", **found.network).decode_head
    assert (head.hamburger.ham.steps, tuple(head.hamburger.ham.bases.shape)) == (3, (256, 8))
    assert {(f.comp_feat_upsample, f.semi_conv, f.hr_residual) for f in head.freqfusions} == {(False, False, False)}


def test_an_option_left_out_of_a_whole_head_has_mms_default():
    head = "model = dict(decode_head=dict(type='LightHamHeadFreqAware'))"
    assert read(head).network == {"nmf_rank": 64}
    assert read("_base_ = ['model.py']\n" + head).network == {}


def test_options_of_detectors_become_arguments_of_the_model():
    text = """
model = dict(type='FasterRCNN', backbone=dict(type='ResNet', depth=50, style='caffe'),
    neck=dict(type='FreqFusionCARAFEFPN', semi_conv=False),
    rpn_head=dict(anchor_generator=dict(scales=[4], ratios=[0.4, 1.0, 2.5], strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=0),
        rcnn=dict(score_thr=0.3, nms=dict(type='nms', iou_threshold=0.4), max_per_img=100)))
"""
    found = read(text, DETECTOR)
    assert not found.refused
    with torch.device("meta"):
        network = create_model("faster_rcnn_r50", **found.network)
    assert (network.rpn_head.scale, network.rpn_head.ratios, network.rpn_head.iou_threshold) == (
        4,
        (0.4, 1.0, 2.5),
        0.6,
    )
    assert (network.score_threshold, network.iou_threshold, network.class_agnostic) == (0.3, 0.4, False)
    assert network.backbone.layer2[0].conv1.stride == (2, 2)
    assert not network.neck.alignment[0].semi_conv


def test_panoptic_tests_read_their_own_settings_before_those_of_boxes():
    rcnn = "rcnn=dict(score_thr=0.05, max_per_img=100, nms=dict(type='nms', iou_threshold=0.5))"
    panoptic = "panoptic=dict(score_thr=0.7, nms=dict(type='nms', iou_threshold=0.4, class_agnostic=True))"
    found = read(f"model = dict(test_cfg=dict({panoptic}, {rcnn}))", DETECTOR)
    assert found.network == {"score_threshold": 0.7, "iou_threshold": 0.4, "class_agnostic": True}


@pytest.mark.parametrize(
    ("text", "name", "found", "built"),
    [
        ("test_cfg=dict(rcnn=dict(max_per_img=50))", "test_cfg.rcnn.max_per_img", "50", "100"),
        ("test_cfg=dict(rcnn=dict(mask_thr_binary=0.4))", "test_cfg.rcnn.mask_thr_binary", "0.4", "0.5"),
        ("test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms')))", "test_cfg.rcnn.nms.type", "soft_nms", "nms"),
        ("test_cfg=dict(rpn=dict(nms_pre=2000))", "test_cfg.rpn.nms_pre", "2000", "1000"),
        ("test_cfg=dict(panoptic=dict(stuff_area_limit=0))", "test_cfg.panoptic.stuff_area_limit", "0", "4096"),
        ("rpn_head=dict(anchor_generator=dict(center_offset=0.5))", "rpn_head.anchor_generator.center_offset", "0.5",
         "0"),
        ("rpn_head=dict(anchor_generator=dict(scales=[4, 8]))", "rpn_head.anchor_generator.scales", "[4, 8]",
         "the official value"),
        ("backbone=dict(dilations=(1, 1, 1, 2))", "backbone.dilations", "(1, 1, 1, 2)", "[1, 1, 1, 1]"),
        ("backbone=dict(norm_cfg=dict(type='BN', eps=0.001))", "backbone.norm_cfg.eps", "0.001", "1e-05"),
        ("backbone=dict(conv_cfg=dict(type='ConvWS'))", "backbone.conv_cfg", "type ConvWS", "None"),
        ("roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2)))",
         "roi_head.bbox_roi_extractor.roi_layer.sampling_ratio", "2", "0"),
        ("roi_head=dict(bbox_head=dict(bbox_coder=dict(target_stds=[1.0, 1.0, 1.0, 1.0])))",
         "roi_head.bbox_head.bbox_coder.target_stds", "[1, 1, 1, 1]", "[0.1, 0.1, 0.2, 0.2]"),
    ],
)  # fmt: skip
def test_what_is_not_built_in_detectors_is_refused_by_name(text, name, found, built):
    assert refused(read(f"model = dict({text})", DETECTOR)) == {f"model.{name}": (found, built)}


def test_detectors_are_padded_to_multiples_of_their_own():
    text = "test_pipeline = [dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1]), dict(type='Pad', size_divisor={})]"
    assert read(text.format(128), DETECTOR).preprocessing["size_divisor"] == 128
    assert refused(read(text.format(32), DETECTOR)) == {"test_pipeline.Pad.size_divisor": ("32", "64")}
    text = "model = dict(data_preprocessor=dict(mean=[0, 0, 0], std=[1, 1, 1], pad_size_divisor=32))"
    assert refused(read(text, DETECTOR)) == {"model.data_preprocessor.pad_size_divisor": ("32", "64")}


@pytest.mark.parametrize(
    ("text", "weights", "name", "found", "built"),
    [
        ("test_pipeline = [dict(type='Wobble', a=1)]", SEGMENTER, "test_pipeline.Wobble", "type Wobble, a 1",
         "it changes nothing"),
        ("data = dict(test=make())", SEGMENTER, "data.test", "make()", "not there"),
        ("test_pipeline = [dict(type='Normalize', mean=f(), std=[1, 1, 1])]", SEGMENTER, "test_pipeline.Normalize.mean",
         "f()", "(123.675, 116.28, 103.53)"),
        ("model = dict(decode_head=dict(num_classes=150))", SEGMENTER, "model.decode_head.num_classes", "150", "3"),
        ("model = dict(backbone=dict(depth=101))", DETECTOR, "model.backbone.depth", "101", "50"),
        ("model = dict(decode_head=dict(x=3))", SEGMENTER, "model.decode_head.x", "3", "it changes nothing"),
        ("_base_ = ['hidden.py']", SEGMENTER, "_base_", "hidden.py", "the official settings"),
        ("<html>", SEGMENTER, "config", "of the checkpoint: it is not Python (line 1: invalid syntax)",
         "the official settings"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said_with_what_is_assumed(text, weights, name, found, built):
    settings = read(text, weights)
    entries = {s.name: (s.found, s.built) for s in settings.table if s.origin == "not understood"}
    assert entries == {name: (found, built)}
    assert not settings.refused


def test_where_scales_are_averaged_the_one_without_ratio_is_built_if_the_wish_is_given_up():
    found = read(old().replace("flip=False", "img_ratios=[0.5, 1.0]"))
    assert [setting.name for setting in found.refused] == ["data.test.pipeline.MultiScaleFlipAug.img_ratios"]
    assert found.image_size == (1024, 256)


@pytest.mark.parametrize(
    ("text", "weights", "name", "found", "built"),
    [
        ("type='Cascade'", SEGMENTER, "model.type", "Cascade", "EncoderDecoder"),
        ("decode_head=dict(type='FCNHead')", SEGMENTER, "model.decode_head.type", "FCNHead", "LightHamHeadFreqAware"),
        ("data_preprocessor=dict(type='Other', mean=[1, 2, 3], std=[4, 5, 6])", SEGMENTER,
         "model.data_preprocessor.type", "Other", "SegDataPreProcessor"),
        ("backbone=dict(norm_cfg=dict(type='GN'))", DETECTOR, "model.backbone.norm_cfg.type", "GN", "BN"),
        ("neck=[dict(type='FPN'), dict(type='BFP')]", DETECTOR, "model.neck", "[type FPN, type BFP]", "one part"),
        ("roi_head=dict(shared_head=dict(type='ResLayer'))", DETECTOR, "model.roi_head.shared_head", "type ResLayer",
         "None"),
        ("roi_head=dict(mask_head=dict(predictor_cfg=dict(type='NormedConv2d', tempearture=20)))", DETECTOR,
         "model.roi_head.mask_head.predictor_cfg", "type NormedConv2d, tempearture 20", "type Conv"),
        ("roi_head=dict(bbox_head=dict(cls_predictor_cfg=dict(type='NormedLinear')))", DETECTOR,
         "model.roi_head.bbox_head.cls_predictor_cfg", "type NormedLinear", "type Linear"),
        ("neck=dict(type='FreqFusionCARAFEFPN', add_extra_convs='on_input')", DETECTOR, "model.neck.add_extra_convs",
         "on_input", "False"),
        ("bbox_head=dict(num_classes=1)", DETECTOR, "model.bbox_head", "num_classes 1", "None"),
        ("test_cfg=dict(rcnn=dict(nms=dict(offset=1)))", DETECTOR, "model.test_cfg.rcnn.nms.offset", "1", "0"),
        ("test_cfg=dict(rpn=dict(nms=dict(max_num=500)))", DETECTOR, "model.test_cfg.rpn.nms.max_num", "500", "-1"),
    ],
)  # fmt: skip
def test_parts_whose_weights_would_fit_another_network_are_refused_by_name(text, weights, name, found, built):
    assert refused(read(f"model = dict({text})", weights))[name] == (found, built)


def test_a_picture_is_read_in_opencvs_order():
    text = "test_pipeline = [dict(type='LoadImageFromFile', channel_order='rgb')]"
    assert refused(read(text, DETECTOR)) == {"test_pipeline.LoadImageFromFile.channel_order": ("rgb", "bgr")}


def test_panoptic_tests_of_1x_take_boxes_by_the_settings_of_boxes():
    rcnn = "rcnn=dict(score_thr=0.6, nms=dict(type='nms', iou_threshold=0.3, class_agnostic=True))"
    panoptic = "panoptic=dict(score_thr=0.9, mask_overlap=0.5)"
    text = f"model = dict(data_preprocessor=dict(mean=[0, 0, 0], std=[1, 1, 1]), test_cfg=dict({rcnn}, {panoptic}))"
    assert read(text, DETECTOR).network == {"score_threshold": 0.6, "iou_threshold": 0.3, "class_agnostic": True}


def test_lists_that_hold_each_other_come_to_an_end():
    lines = ["a0 = dict(type='LoadAnnotations')"]
    lines += [f"a{i + 1} = dict(type='MultiScaleFlipAug', transforms=[a{i}, a{i}])" for i in range(60)]
    found = read("\n".join([*lines, "test_pipeline = [a60]"]))
    assert any("more than 500 transforms" in setting.found for setting in found.table)


def test_a_config_file_that_only_execution_could_tell_is_refused(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("_base_ = ['gone.py']\ntest_pipeline = [dict(type='Resize', scale=size(), keep_ratio=True)]")
    assert set(refused(settings_from_file(path, SEGMENTER))) == {"_base_", "test_pipeline.Resize.scale"}
    path.write_text("<html>")
    with pytest.raises(CheckpointError, match=r"config\.py is no config: it is not Python .*Name the \.py file"):
        settings_from_file(path, SEGMENTER)
    with pytest.raises(CheckpointError, match=r"gone\.py: the config cannot be read: No such file"):
        settings_from_file(tmp_path / "gone.py", SEGMENTER)


def test_the_users_word_takes_the_place_of_the_configs():
    settings = read(old(keep=False, steps=""))
    assert set(refused(settings)) == set()  # 1024 x 256 is a multiple of 32 already
    given = Overrides(preprocessing={"long_side": 512, "short_side": 128, "color_order": "BGR", "size_divisor": 64})
    found = given.applied(settings, SEGMENTER)
    assert found.preprocessing["color_order"] == "BGR"
    assert found.image_size == (512, 128)
    assert "exact_size" not in found.preprocessing
    rows = {setting.name: (setting.origin, setting.found, setting.built) for setting in found.table}
    assert rows["channel_order"] == ("override", "RGB", "BGR")
    assert rows["image_size"] == ("override", "(1024, 256)", "(512, 128)")
    assert rows["mean"][0] == "config"


def test_an_override_answers_what_was_refused_about_it():
    settings = read(old().replace("(1024, 256)", "[(1, 2), (3, 4)]"))
    assert settings.refused
    found = Overrides(preprocessing={"long_side": 512, "short_side": 128}).applied(settings, SEGMENTER)
    assert not found.refused


def test_a_refused_setting_can_be_given_up_by_name():
    found = Overrides(ignored=("model.test_cfg.mode",)).applied(read(SLIDE), SEGMENTER)
    assert not found.refused
    assert any(s.name == "model.test_cfg.mode" and s.origin == "override" for s in found.table)
    with pytest.raises(CheckpointError, match=r"no setting 'model\.x' is refused.*refused are: model\.test_cfg\.mode"):
        Overrides(ignored=("model.x",)).applied(read(SLIDE), SEGMENTER)


def test_one_class_keeps_its_threshold():
    weights = {"decode_head.conv_seg.weight": torch.empty(1, 256, 1, 1)}
    found = read("model = dict(decode_head=dict(num_classes=2, out_channels=1, threshold=0.4))", weights)
    assert found.network == {"threshold": 0.4}
    assert "not understood" not in {setting.origin for setting in found.table}


def test_options_of_the_command_line_are_those_that_networks_have():
    from freqfusion.configs.network import DETECTOR as DETECTOR_OPTIONS
    from freqfusion.configs.network import SEGMENTER as SEGMENTER_OPTIONS
    from freqfusion.configs.network import arguments_in
    from freqfusion_export.commands.settings import NETWORK_OPTIONS

    known = {*arguments_in(SEGMENTER_OPTIONS), *arguments_in(DETECTOR_OPTIONS)}
    assert known == {*NETWORK_OPTIONS, "score_threshold"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Overrides(network={"style": "caffe"}), "this network has no setting 'style'; it has threshold, comp_feat"),
        (Overrides(network={"nmf_rank": 0}), "nmf_rank cannot be 0 in this network"),
        (
            Overrides(preprocessing={"size_divisor": 48}),
            "size_divisor must be a multiple of 32 for this network, got 48",
        ),
    ],
)
def test_overrides_that_a_network_cannot_have_are_named(given, message):
    with pytest.raises(CheckpointError, match=message):
        given.applied(read(""), SEGMENTER)


def test_a_resizer_is_chosen_where_pictures_are_padded():
    own = Overrides(preprocessing={"resizer": "pillow"}).applied(read("", DETECTOR), DETECTOR)
    assert own.preprocessing["resizer"] == "pillow"
    assert [(row.name, row.origin, row.built) for row in own.table if row.name == "resizer"] == [
        ("resizer", "override", "pillow")
    ]
    with pytest.raises(CheckpointError, match=r"the resizer pillow goes with size_fit pad, .*give --size-fit pad too"):
        Overrides(preprocessing={"resizer": "pillow"}).applied(read(""), SEGMENTER)
    both = Overrides(preprocessing={"resizer": "pillow", "size_fit": "pad"}).applied(read(""), SEGMENTER)
    assert (both.preprocessing["resizer"], both.preprocessing["size_fit"]) == ("pillow", "pad")


def test_detectors_pad():
    with pytest.raises(CheckpointError, match="size_fit must be pad for this network, got stretch"):
        Overrides(preprocessing={"size_fit": "stretch"}).applied(read("", DETECTOR), DETECTOR)
