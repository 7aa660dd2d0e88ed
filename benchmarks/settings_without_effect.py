# SPDX-License-Identifier: Apache-2.0
"""Which settings of mm configs change no answer of a trained network, and why: the judge of ``public_configs.py``.

Written from mm's programs and classes, not from our reader. A place is as ``changed_settings`` writes it: names with
dots between them, elements of lists by their type; ``*`` is any part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Rule:
    """Settings without effect.

    Attributes:
        reason: Why.
        places: Which, with a space between them.
        needs: Places of the config one of which must be there for the rule to hold, with a space between them.
        but: Parts of places for which it does not hold, with a space between them.
    """

    reason: str
    places: str
    needs: str = ""
    but: str = ""


_TESTED = "data.test*.pipeline test_dataloader.dataset*.pipeline"
READ_IN_TESTS = ("model", "data", "test_dataloader", "test_cfg", "data_preprocessor", "test_pipeline", "fp16")
"""Names at the top that mm's test programs read, or that stand for what they read where it is left out."""

PROGRAMS = (
    Rule("training: its data", "data.train*"),
    Rule("validation: its data", "data.val*", f"{_TESTED} test_pipeline"),
    Rule("training: assigners, samplers, proposals", "model.train_cfg* model.*.train_cfg*"),
    Rule(
        "how many pictures at a time, by how many processes",
        "data.*_per_gpu data.*_dataloader* data.persistent_workers test_dataloader.*_workers "
        "test_dataloader.batch_size test_dataloader.drop_last test_dataloader.sampler* test_dataloader.batch_sampler* "
        "test_dataloader.pin_memory test_dataloader.collate_fn*",
    ),
    Rule("which loop runs the test", "test_cfg.type"),
    Rule("mm's mixed precision: rounding; the file's is chosen by --precision", "fp16*"),
)
_OF_DATA = (
    "type ann_file* img_prefix* seg_prefix* proposal_file data_root img_dir* ann_dir* split* classes test_mode "
    "data_prefix* filter_cfg* metainfo* label_file hierarchy_file meta_file* times image_level_ann_file* indices "
    "filter_empty_gt img_suffix seg_map_suffix reduce_zero_label ignore_index gt_seg_map_loader_cfg* palette "
    "load_as_video ref_img_sampler* key_img_sampler* return_classes need_text visibility_thr separate_eval "
    "custom_classes use_label_map specific_key_path* with_polygon with_imagelevel_label "
    "with_hierarchy used_labels"
)
DATA = tuple(
    Rule(
        "where pictures and annotations lie, and which are taken",
        " ".join(f"{test}.{name}" for name in _OF_DATA.split()),
        but=".pipeline.",
    )
    for test in ("data.test*", "test_dataloader.dataset*")
)
PICTURES = (
    Rule("a variable of the text; the data set has a pipeline of its own", "test_pipeline*", _TESTED),
    Rule("a variable of the text; the model has one of its own", "data_preprocessor*", "model.data_preprocessor"),
    Rule("how files are fetched", "*.file_client_args* *.backend_args*"),
    Rule("annotations", "*.LoadAnnotations* *.LoadPanopticAnnotations* *.SegRescale* *.FilterAnnotations*"),
    Rule("what is handed on to the network beside the picture", "*.Collect.* *.ImageToTensor.keys *.PackDetInputs.* "
         "*.PackSegInputs.* *.DefaultFormatBundle.* *.ToTensor.*"),
    Rule("how boxes of annotations are clipped", "*.Resize.bbox_clip_border *.Resize.clip_object_border"),
    Rule("`LoadImageFromFile` reads the same picture", "*.LoadImageFromFile.ignore_empty"),
    Rule("the scale is set by the transform around it", "*.MultiScaleFlipAug.transforms.Resize.multiscale_mode "
         "*.MultiScaleFlipAug.transforms.Resize.img_scale"),
    Rule("flips only where MultiScaleFlipAug says so", "*.MultiScaleFlipAug.transforms.RandomFlip.*"),
    Rule("of flips that are not made", "*.RandomFlip.direction *.MultiScaleFlipAug.flip_direction"),
    Rule("of label maps", "*seg_pad_val *seg_pad_value *.mask_pad_value *.pad_mask *.pad_seg"),
    Rule("training pads to it", "model.data_preprocessor.size model.data_preprocessor.size_divisor "
         "model.data_preprocessor.batch_augments*"),
    Rule("boxes are handed on as tensors", "model.data_preprocessor.boxtype2tensor"),
    Rule("how a picture is copied to a device", "model.data_preprocessor.non_blocking"),
    Rule("only the training pads", "model.data_preprocessor.pad_val"),
)  # fmt: skip
NETWORK = (
    Rule("initial weights", "model.pretrained model.*.pretrained *.init_cfg* model.init_cfg* *.zero_init_residual"),
    Rule("memory in training", "*.with_cp *.use_checkpoint"),
    Rule(
        "training: losses, what is drawn, what learns",
        "model.*loss_* *.dropout_ratio *.drop_rate *.drop_path_rate *.norm_eval *.frozen_stages *.requires_grad "
        "*.momentum *.sampler* *.ignore_index *.reg_decoded_bbox *.seg_rescale_factor model.auxiliary_head* "
        "model.use_awl *.train_steps *.TRAIN_STEPS",
        but="bbox_head.loss_cls.type bbox_head.loss_cls.use_sigmoid",
    ),
    Rule(
        "names and shapes of the weights show it",
        "*.in_channels *.out_channels *.feat_channels *.fc_out_channels *.channels *.ham_channels *.inner_channels "
        "*.conv_out_channels *.num_stages *.depth *.depths *.embed_dims *.mlp_ratios *.in_chans *.base_channels "
        "*.stem_channels *.deep_stem *.avg_down *.plugins* *.dcn.* *.dcn *.stage_with_dcn *.num_convs *.roi_feat_size "
        "*.reg_class_agnostic *.mask_head.class_agnostic *.num_shared_convs *.num_shared_fcs *.num_cls_convs "
        "*.num_cls_fcs *.num_reg_convs *.num_reg_fcs *.with_avg_pool *.num_things_classes *.num_stuff_classes "
        "*.num_classes *.attention_kernel_sizes *.attention_kernel_paddings *.conv_kernel_size *.upsample_cfg* "
        "*.compress_ratio *.feature_resample *.feature_resample_group *.feature_resample_norm *.hamming_window "
        "*.use_high_pass *.use_low_pass *.lowpass_kernel *.highpass_kernel "
        "model.neck.norm_cfg* model.roi_head.bbox_head.norm_cfg* "
        "model.roi_head.mask_head.norm_cfg*",
    ),
    Rule("one norm in tests, on one machine or several", "*.norm_cfg.type"),
    Rule("the official NMF2D sets it to 1, whatever is given", "*.ham_kwargs.inv_t *.ham_kwargs.INV_T"),
    Rule("of the sliding windows", "model.test_cfg.crop_size model.test_cfg.stride"),
    Rule("the part of the panoptic test that the version in hand does not ask", "model.test_cfg.rcnn.* "
         "model.test_cfg.panoptic.*", "model.test_cfg.panoptic"),
    Rule("how many boxes are suppressed at once", "*.nms.split_thr"),
    Rule("given by mm itself, from `model.test_cfg`", "model.roi_head.test_cfg* model.panoptic_fusion_head.test_cfg*"),
)  # fmt: skip
RULES = (*PROGRAMS, *DATA, *PICTURES, *NETWORK)


def reason_of(place: str, config: Mapping[str, Any]) -> str:
    """Says why a setting has no effect on answers; empty if nothing is known to that end."""
    if place.partition(".")[0] not in READ_IN_TESTS:
        return "training, or a variable of the text: no program that tests reads it"
    for rule in RULES:
        is_meant = any(fnmatchcase(place, pattern) for pattern in rule.places.split())
        if not is_meant or any(part in place for part in rule.but.split()):
            continue
        if not rule.needs or any(_holds(config, needed.split(".")) for needed in rule.needs.split()):
            return rule.reason
    return ""


def _holds(values: Any, keys: list[str]) -> bool:
    """Whether a config has a place; a name that ends with ``*`` stands for it and any wrappers inside it."""
    if not keys:
        return True
    if isinstance(values, list | tuple):
        return any(_holds(item, keys) for item in values)
    if not isinstance(values, Mapping):
        return False
    name = keys[0].removesuffix("*")
    inside = values.get(name)
    if inside is None:
        return False
    if keys[0].endswith("*"):
        return _holds(inside, keys[1:]) or any(
            _holds({name: inside[wrapper]}, keys)
            for wrapper in ("dataset", "datasets")
            if isinstance(inside, Mapping) and wrapper in inside
        )
    return _holds(inside, keys[1:])
