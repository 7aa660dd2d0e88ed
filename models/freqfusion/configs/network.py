# SPDX-License-Identifier: Apache-2.0
"""Options of networks and of their tests: which become arguments, which must be as built, and which change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freqfusion.configs.findings import Findings
from freqfusion.configs.reader import Config, Unread
from freqfusion.configs.test_pipeline import type_name


@dataclass(frozen=True)
class Argument:
    """An option that the model takes.

    Attributes:
        name: The argument's, for ``create_model``.
        accepts: Which values it takes.
        default: mm's own, where it is not the official config's: what a whole config without the option means.
    """

    name: str
    accepts: Callable[[Any], bool]
    default: Any = None


@dataclass(frozen=True)
class Section:
    """A dictionary of a config.

    Attributes:
        built: Options with the only values that are built.
        arguments: Options that the model takes.
        types: Classes that are built, where a name tells apart what weights may not; others are refused.
        free: Options without effect in testing, or shown by the weights' names and shapes.
        inside: Dictionaries in it.
    """

    built: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    types: tuple[str, ...] = ()
    free: frozenset[str] = frozenset()
    inside: Mapping[str, Section] = field(default_factory=dict)


def _free(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


_BUILDING = "type init_cfg pretrained _scope_ _delete_ with_cp use_checkpoint "
_EVERYWHERE = {"conv_cfg": None}  # weights that are standardised have the usual names and shapes
_BATCH_NORM = Section(
    {"eps": 1e-5},
    types=("BN", "BN2d", "SyncBN", "MMSyncBN", "NaiveSyncBN"),
    free=_free("type requires_grad momentum affine track_running_stats"),
)
_GROUP_NORM = Section({"eps": 1e-5, "num_groups": 32}, types=("GN",), free=_free("type requires_grad"))

# Of the module FreqFusion, in a head or a neck.
_FUSION = {
    "comp_feat_upsample": Argument("comp_feat_upsample", _is_flag),
    "semi_conv": Argument("semi_conv", _is_flag),
    "hr_residual": Argument("hr_residual", _is_flag),
    "encoder_dilation": Argument("encoder_dilation", _is_count),
}
_FUSION_BUILT = {"scale_factor": 1, "up_group": 1, "upsample_mode": "nearest", "padding": "zeros"}
# Kernels, groups, ratios, windows, norms and which parts there are show in names and shapes.
_FUSION_FREE = (
    "use_high_pass use_low_pass lowpass_kernel highpass_kernel compress_ratio compressed_channels feature_resample "
    "feature_resample_group feature_resample_norm hamming_window encoder_kernel low2high_residual high2low_residual "
)

_HAM = Section(
    {"MD_S": 1, "SPATIAL": True, "RAND_INIT": True, "rand_init": True, "spatial": True},
    {
        "MD_R": Argument("nmf_rank", _is_count, default=64),
        "EVAL_STEPS": Argument("nmf_steps", _is_count),
        "eval_steps": Argument("nmf_steps", _is_count),
    },
    # The official NMF2D sets the inverse temperature to 1, whatever is given.
    free=_free("MD_D TRAIN_STEPS train_steps INV_T inv_t ETA eta"),
)
_MSCAN = Section(
    {"act_cfg": {"type": "GELU"}},
    types=("MSCAN",),
    free=_free(
        _BUILDING + "in_chans in_channels embed_dims mlp_ratios depths num_stages drop_rate drop_path_rate "
        "attention_kernel_sizes attention_kernel_paddings"
    ),
    inside={"norm_cfg": _BATCH_NORM},
)
_HAM_HEAD = Section(
    {"align_corners": False, "in_index": [1, 2, 3], "act_cfg": {"type": "ReLU"}, **_FUSION_BUILT},
    {"threshold": Argument("threshold", lambda value: _is_share(value) and 0 < value < 1), **_FUSION},
    types=("LightHamHeadFreqAware", "LightHamHead"),
    free=_free(
        _BUILDING + _FUSION_FREE + "in_channels channels ham_channels num_classes out_channels dropout_ratio "
        "loss_decode sampler ignore_index input_transform"
    ),
    inside={"ham_kwargs": _HAM, "norm_cfg": _GROUP_NORM},
)
SEGMENTER = Section(
    {"neck": None},
    types=("EncoderDecoder",),
    free=_free(_BUILDING + "train_cfg auxiliary_head data_preprocessor use_awl"),
    inside={
        "test_cfg": Section({"mode": "whole"}, free=_free("crop_size stride")),
        "backbone": _MSCAN,
        "decode_head": _HAM_HEAD,
    },
)

# Its own config is detectron2's; in a config of mm's there is nothing of it to hold weights against.
MASK2FORMER = Section(types=("MaskFormer",))


def _coder(stds: list[float]) -> Section:
    built = {"target_means": [0.0] * 4, "target_stds": stds, "clip_border": True, "add_ctr_clamp": False}
    return Section(built, types=("DeltaXYWHBBoxCoder",), free=_free("type ctr_clamp use_box_type"))


def _extractor(cells: int) -> Section:
    layer = {"type": "RoIAlign", "output_size": cells, "sampling_ratio": 0, "aligned": True, "pool_mode": "avg"}
    return Section(
        {"featmap_strides": [4, 8, 16, 32], "finest_scale": 56},
        types=("SingleRoIExtractor",),
        free=_free("type out_channels"),
        inside={"roi_layer": Section(layer, free=_free("use_torchvision"))},
    )


def _nms(built: Mapping[str, Any], threshold: str, **further: Argument) -> Section:
    overlap = Argument(threshold, _is_share)
    arguments = {"iou_threshold": overlap, "iou_thr": overlap, **further}
    # `split_thr` is about memory; an offset of 1 counts a box's last pixel, and `max_num` ends the list early.
    fixed = {"type": "nms", "offset": 0, "max_num": -1, "score_threshold": 0, **built}
    return Section(fixed, arguments, free=_free("split_thr"))


_RESNET = Section(
    {"dilations": [1, 1, 1, 1], "strides": [1, 2, 2, 2], "out_indices": [0, 1, 2, 3]},
    {"style": Argument("style", lambda value: value in ("pytorch", "caffe"))},
    types=("ResNet",),
    free=_free(
        _BUILDING + "depth num_stages frozen_stages norm_eval deep_stem avg_down plugins dcn base_channels "
        "stem_channels in_channels zero_init_residual stage_with_dcn"
    ),
    inside={"norm_cfg": _BATCH_NORM},
)
_NECK = Section(
    {
        "num_outs": 5, "start_level": 0, "end_level": -1, "act_cfg": None, "order": ["conv", "norm", "act"],
        "add_extra_convs": False, "relu_before_extra_convs": False,
        **_FUSION_BUILT,
    },
    _FUSION,
    types=("FreqFusionCARAFEFPN",),
    free=_free(_BUILDING + _FUSION_FREE + "in_channels out_channels norm_cfg upsample_cfg"),
)  # fmt: skip
_ANCHORS = Section(
    {
        "strides": [4, 8, 16, 32, 64], "center_offset": 0.0, "centers": None, "base_sizes": None, "scale_major": True,
        "octave_base_scale": None, "scales_per_octave": None,
    },
    {
        "scales": Argument("anchor_scales", lambda value: _are_numbers(value, 1)),
        "ratios": Argument("anchor_ratios", lambda value: _are_numbers(value, 3)),
    },
    types=("AnchorGenerator",),
    free=_free("type use_box_type"),
)  # fmt: skip
_RPN_HEAD = Section(
    types=("RPNHead",),
    free=_free(_BUILDING + "in_channels feat_channels num_convs num_classes loss_cls loss_bbox"),
    inside={"anchor_generator": _ANCHORS, "bbox_coder": _coder([1.0] * 4)},
)
_BOX_HEAD = Section(
    {"cls_predictor_cfg": {"type": "Linear"}, "reg_predictor_cfg": {"type": "Linear"}},  # others have equal shapes
    types=("Shared2FCBBoxHead", "ConvFCBBoxHead"),
    free=_free(
        _BUILDING + "in_channels fc_out_channels roi_feat_size num_classes loss_bbox reg_class_agnostic "
        "reg_decoded_bbox num_shared_convs num_shared_fcs num_cls_convs num_cls_fcs num_reg_convs num_reg_fcs "
        "conv_out_channels with_avg_pool norm_cfg"
    ),
    inside={
        "bbox_coder": _coder([0.1, 0.1, 0.2, 0.2]),
        # SeesawLoss, for one, turns logits into scores in its own way.
        "loss_cls": Section(
            {"type": "CrossEntropyLoss", "use_sigmoid": False},
            free=_free("loss_weight class_weight reduction ignore_index avg_non_ignore use_mask"),
        ),
    },
)
_MASK_HEAD = Section(
    {"predictor_cfg": {"type": "Conv"}},
    types=("FCNMaskHead",),
    free=_free(
        _BUILDING + "num_convs in_channels conv_out_channels num_classes loss_mask norm_cfg roi_feat_size "
        "conv_kernel_size class_agnostic upsample_cfg"
    ),
)
_RESULTS = Section(
    {
        "max_per_img": 100, "mask_thr_binary": 0.5, "mask_overlap": 0.5, "stuff_area_limit": 4096,
        "filter_low_score": False,
    },
    {"score_thr": Argument("score_threshold", _is_share)},
    free=_free("instance_on panoptic_on semantic_on"),
    inside={"nms": _nms({}, "iou_threshold", class_agnostic=Argument("class_agnostic", _is_flag, default=False))},
)  # fmt: skip
_PROPOSALS = Section(
    {
        "nms_pre": 1000, "max_per_img": 1000, "max_num": 1000, "nms_post": 1000, "min_bbox_size": 0,
        "nms_across_levels": False,
    },
    {"nms_thr": Argument("rpn_iou_threshold", _is_share)},
    inside={"nms": _nms({"class_agnostic": False}, "rpn_iou_threshold")},
)  # fmt: skip
DETECTOR = Section(
    {"bbox_head": None},  # of one-stage detectors
    types=("FasterRCNN", "MaskRCNN", "PanopticFPN", "TwoStageDetector", "TwoStagePanopticSegmentor"),
    free=_free(_BUILDING + "train_cfg data_preprocessor"),
    inside={
        "backbone": _RESNET,
        "neck": _NECK,
        "rpn_head": _RPN_HEAD,
        "roi_head": Section(
            {"shared_head": None},
            types=("StandardRoIHead",),
            free=_free(_BUILDING + "train_cfg test_cfg"),
            inside={
                "bbox_roi_extractor": _extractor(7),
                "mask_roi_extractor": _extractor(14),
                "bbox_head": _BOX_HEAD,
                "mask_head": _MASK_HEAD,
            },
        ),
        "semantic_head": Section(
            {"start_level": 0, "end_level": 4},
            types=("PanopticFPNHead",),
            free=_free(
                _BUILDING + "num_things_classes num_stuff_classes num_classes in_channels inner_channels loss_seg "
                "fg_range bg_range seg_rescale_factor"
            ),
            inside={"norm_cfg": _GROUP_NORM},
        ),
        "panoptic_fusion_head": Section(
            types=("HeuristicFusionHead",),
            free=_free(_BUILDING + "num_things_classes num_stuff_classes test_cfg loss_panoptic"),
        ),
        "test_cfg": Section(inside={"rpn": _PROPOSALS, "rcnn": _RESULTS, "panoptic": _RESULTS}),
    },
)


def _are_numbers(value: Any, count: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != count:
        return False
    return all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < 1e6 for number in value
    )


def arguments_in(section: Section) -> dict[str, Argument]:
    """Every argument that options of a section, and of those inside it, become; by its name."""
    found = {argument.name: argument for argument in section.arguments.values()}
    for inner in section.inside.values():
        found |= arguments_in(inner)
    return found


class NetworkReader:
    """Holds a config's ``model`` against what is built.

    Args:
        config: The whole config.
        findings: Where to note what is found.
        section: Of the kind of network.
        weights: What the weights show, by the place in the config that says it too.
    """

    def __init__(self, config: Config, findings: Findings, section: Section, weights: Mapping[str, Any]) -> None:
        self.config = config
        self.findings = findings
        self.section = section
        self.weights = weights
        self.arguments: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Returns arguments for ``create_model``."""
        model = self.config.values.get("model")
        if isinstance(model, Unread):
            self.findings.wonder("model", model, "the official one")
        model = dict(model) if isinstance(model, Mapping) else {}
        outside = self.config.values.get("test_cfg")  # where mm kept it before 2.4 and 0.10; 1.x has a loop there
        if "test_cfg" not in model and isinstance(outside, Mapping) and "type" not in outside:
            model["test_cfg"] = outside
        test = model.get("test_cfg")
        if isinstance(test, Mapping) and all(isinstance(test.get(key), Mapping) for key in ("rcnn", "panoptic")):
            # Panoptic tests of 0.x read the one, those of 1.x take boxes and masks by the other.
            is_new = "data_preprocessor" in model or "test_dataloader" in self.config.values
            first, second = ("rcnn", "panoptic") if is_new else ("panoptic", "rcnn")
            model["test_cfg"] = {**test, second: {k: v for k, v in test[second].items() if k not in test[first]}}
        self._section("model", model, self.section)
        for place, shown in self.weights.items():
            found: Any = self.config.values
            for key in place.split("."):
                found = found.get(key) if isinstance(found, Mapping) else None
            if found is not None and not isinstance(found, Unread) and found != shown:
                self.findings.wonder(place, found, shown, "the weights say so")
        return self.arguments

    def _section(self, place: str, options: Mapping[str, Any], section: Section) -> None:
        if section.types and type_name(options) and type_name(options) not in section.types:
            self.findings.refuse(f"{place}.type", type_name(options), section.types[0])
        for key, value in options.items():
            name = f"{place}.{key}"
            if isinstance(value, Unread) and key not in section.free:
                self.findings.wonder(name, value, "as official")
            elif key in section.inside and isinstance(value, Mapping):
                self._section(name, value, section.inside[key])
            elif key in section.arguments:
                self._argument(name, value, section.arguments[key])
            elif key in section.built or key in _EVERYWHERE:
                built = {**_EVERYWHERE, **section.built}[key]
                if not _is_same(value, built):
                    self.findings.refuse(name, _with_neighbours(key, options), built)
            elif key in section.inside:
                if value is not None:
                    self.findings.refuse(name, value, "one part")
            elif key not in section.free:
                self.findings.wonder(name, value, "it changes nothing")
        for key, inner in section.inside.items():
            self._defaults(f"{place}.{key}", options, key, inner)

    def _argument(self, name: str, value: Any, argument: Argument) -> None:
        if value is None:  # mm's default
            return
        if not argument.accepts(value):
            return self.findings.refuse(name, value, "the official value", "no value that it can have")
        self.arguments[argument.name] = list(value) if isinstance(value, tuple) else value
        self.findings.take(argument.name, value, name)

    def _defaults(self, place: str, options: Mapping[str, Any], key: str, section: Section) -> None:
        """Takes mm's own defaults where a whole config leaves an option out, and they are not the official values."""
        given = options.get(key, {} if type_name(options).startswith("LightHam") else None)
        if not self.config.is_whole or not isinstance(given, Mapping):
            return
        for option, argument in section.arguments.items():
            if argument.default is not None and option not in given:
                self.arguments[argument.name] = argument.default
                self.findings.take(argument.name, argument.default, f"mm's default of {place}.{option}")


def _is_same(value: Any, built: Any) -> bool:
    if isinstance(built, str) and isinstance(value, str):
        return value.rpartition(".")[2] == built
    if isinstance(built, list) and isinstance(value, list | tuple):
        return list(value) == built
    if isinstance(built, Mapping) and isinstance(value, Mapping):
        return all(_is_same(value.get(key), item) for key, item in built.items())
    return bool(value == built)


def _with_neighbours(key: str, options: Mapping[str, Any]) -> Any:
    """A mode with what belongs to it: the size and the step of tiles."""
    if key != "mode":
        return options[key]
    return ", ".join(
        [str(options[key]), *(f"{name} {options[name]}" for name in ("crop_size", "stride") if name in options)]
    )
