# SPDX-License-Identifier: Apache-2.0
"""Every setting of a whole config, if changed, changes what is built, refused or told, or has a reason not to."""

from __future__ import annotations

import pytest
import torch
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_of
from places import ROOT

SEGMENTER = {"decode_head.conv_seg.weight": torch.empty(150, 256, 1, 1)}
DETECTOR = {
    "roi_head.bbox_head.fc_cls.weight": torch.empty(81, 1024),
    "backbone.layer3.5.conv1.weight": torch.empty(1),
}
# SegNeXt in mm 0.x.
OLD = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(type='EncoderDecoder', pretrained=None,
    backbone=dict(type='MSCAN', embed_dims=[32, 64, 160, 256], mlp_ratios=[8, 8, 4, 4], depths=[3, 3, 5, 2],
        drop_rate=0.0, drop_path_rate=0.1, norm_cfg=norm_cfg, init_cfg=dict(type='Pretrained', checkpoint='mscan.pth')),
    decode_head=dict(type='LightHamHeadFreqAware', in_channels=[64, 160, 256], in_index=[1, 2, 3], channels=256,
        ham_channels=256, ham_kwargs=dict(MD_R=16), dropout_ratio=0.1, num_classes=150, align_corners=False,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True), comp_feat_upsample=True, semi_conv=True,
        compress_ratio=4, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=(512, 512))]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', img_scale=(2048, 512), flip=False,
    transforms=[dict(type='Resize', keep_ratio=True), dict(type='ResizeToMultiple', size_divisor=32),
        dict(type='RandomFlip'), dict(type='Normalize', **img_norm_cfg), dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])])]
data = dict(samples_per_gpu=4, train=dict(type='ADE20KDataset', pipeline=train_pipeline),
    test=dict(type='ADE20KDataset', img_dir='images/validation', pipeline=test_pipeline))
optimizer = dict(type='AdamW', lr=6e-05)
"""
# Faster R-CNN in mm 1.x.
NEW = """
model = dict(type='FasterRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False, pad_size_divisor=64),
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1, style='caffe',
        norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True),
    neck=dict(type='FreqFusionCARAFEFPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5,
        semi_conv=True),
    rpn_head=dict(type='RPNHead', in_channels=256, feat_channels=256,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)),
    roi_head=dict(type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=256, featmap_strides=[4, 8, 16, 32],
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(type='Shared2FCBBoxHead', in_channels=256, num_classes=80, reg_class_agnostic=False,
            cls_predictor_cfg=dict(type='Linear'),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0))),
    train_cfg=dict(rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5, offset=0), max_per_img=100)))
test_dataloader = dict(batch_size=1, dataset=dict(type='CocoDataset', ann_file='val.json', pipeline=[
    dict(type='LoadImageFromFile', backend_args=None), dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs', meta_keys=('img_id', 'scale_factor'))]))
"""


@pytest.fixture
def judge(monkeypatch):
    """The programs behind the figures, which judge public configs in the same way."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import changed_settings
    import settings_without_effect

    return lambda config, weights, settings: {
        leaf.place: changed_settings.fate_of(config, leaf, weights, settings)
        for leaf in changed_settings.leaves(config)
        if not settings_without_effect.reason_of(leaf.place, config)
    }


@pytest.mark.parametrize(("text", "weights"), [(OLD, SEGMENTER), (NEW, DETECTOR)], ids=["0.x", "1.x"])
def test_no_setting_is_lost(text, weights, judge):
    config = read_config(text)
    settings = settings_of(config, weights)
    assert {setting.origin for setting in settings.table} == {"config"}
    fates = judge(config.values, weights, settings)
    assert len(fates) > 15
    assert {place: fate for place, fate in fates.items() if fate != "honoured"} == {}


def test_a_reader_that_looks_at_nothing_is_found_out(judge, monkeypatch):
    import changed_settings

    config = read_config(NEW)
    settings = settings_of(config, DETECTOR)
    monkeypatch.setattr(changed_settings, "settings_of", lambda *_: settings)
    assert set(judge(config.values, DETECTOR, settings).values()) == {"without a trace"}
