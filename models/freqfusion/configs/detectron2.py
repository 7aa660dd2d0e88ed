# SPDX-License-Identifier: Apache-2.0
"""Reads a detectron2 config (.yaml): what it says about testing, with detectron2's own defaults for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freqfusion.configs.findings import Findings
from freqfusion.configs.network import MASK2FORMER, Section
from freqfusion.configs.reader import MAX_CHARACTERS, Unread, merge
from freqfusion.errors import CheckpointError

SUFFIXES = (".yaml", ".yml")
# detectron2's defaults of what is taken from a config; a file holds only what differs from them.
_PIXEL_MEAN, _PIXEL_STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
# What is built, by the place in the config; detectron2's defaults are the same.
_BUILT: Mapping[str, Any] = {
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.AUG.ENABLED": False,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
}
# Argument of the model, place in the config, detectron2's default.
_SHARES = (
    ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05),
    ("iou_threshold", "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
    ("rpn_iou_threshold", "MODEL.RPN.NMS_THRESH", 0.7),
)
# The same of Mask2Former, in whose configs the rest of MODEL shows in the weights. With panoptic or instance results
# asked for, the official code makes semantic ones otherwise.
_MASK2FORMER_BUILT: Mapping[str, Any] = {
    "TEST.AUG.ENABLED": False,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
}
_TAKEN = frozenset({
    "INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    *(place for _, place, _ in _SHARES),
})  # fmt: skip
# Training, places of files, and what the weights show.
_FREE = (
    "SOLVER.", "DATASETS.", "DATALOADER.", "OUTPUT_DIR", "SEED", "VERSION", "CUDNN_BENCHMARK", "VIS_PERIOD", "GLOBAL.",
    "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.KEYPOINT_OKS_SIGMAS", "TEST.PRECISE_BN.", "TEST.AUG.",
    "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.CROP.", "INPUT.RANDOM_FLIP", "INPUT.MASK_FORMAT",
    "INPUT.COLOR_AUG", "INPUT.DATASET_MAPPER_NAME", "INPUT.IMAGE_SIZE", "INPUT.MIN_SCALE", "INPUT.MAX_SCALE",
    "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS",
    "MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.", "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.OUT_FEATURES",
    "MODEL.FPN.IN_FEATURES", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
)  # fmt: skip


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a file and those it is based on, as data.

    Raises:
        CheckpointError: If PyYAML is missing, or it is no detectron2 config.
        OSError: If it cannot be read.
    """
    try:
        import yaml
    except ImportError as e:
        raise CheckpointError(f"{path}: reading a .yaml config needs `pip install pyyaml`") from e
    values: dict[str, Any] = {}
    seen: list[Path] = []
    place: Path | None = path
    while place is not None and place not in seen and len(seen) < 20:
        seen.append(place)
        text = place.read_text(encoding="utf-8", errors="replace")
        try:
            found = yaml.load(text, _loader(yaml)) if len(text) <= MAX_CHARACTERS else None
        except (yaml.YAMLError, RecursionError, ValueError) as e:
            raise CheckpointError(f"{place} is no YAML: {' '.join(str(e).split())[:100]}") from e
        if isinstance(found, Unread):
            raise CheckpointError(f"{place} is no YAML: it is {found}")
        if not isinstance(found, dict):
            raise CheckpointError(f"{place} is no detectron2 config: expected names with values under them")
        base = found.pop("_BASE_", None)
        values = merge(found, values)
        place = (place.parent / base).resolve() if isinstance(base, str) else None
    return values


def _loader(yaml: Any) -> Any:
    """A safe loader that keeps what asks for Python, as official Mask2Former configs do for training sizes, unread."""

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _, suffix, __: Unread(f"!!python/{suffix}"))
    return loader


class Detectron2Reader:
    """Reads what becomes of a picture before the network, and the options of a detector's tests.

    Args:
        values: Of the file and its bases.
        findings: Where to note what is found.
        official: The official test pipeline.
        section: Of the kind of network.
    """

    def __init__(
        self, values: Mapping[str, Any], findings: Findings, official: Mapping[str, Any], section: Section
    ) -> None:
        self.given = dict(_flattened(values))
        self.findings = findings
        self.official = official
        self.is_mask2former = section is MASK2FORMER
        self.plan: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns what differs from the official test pipeline, and arguments for ``create_model``."""
        self._pictures()
        built = _MASK2FORMER_BUILT if self.is_mask2former else _BUILT
        free: tuple[str, ...] = (*_FREE, "MODEL.") if self.is_mask2former else _FREE
        if self.is_mask2former:
            self._divisor()
        elif self.official["size_fit"] == "pad":
            self._detector()
        for place, value in self.given.items():
            if place in built:
                if value != built[place]:
                    self.findings.refuse(place, value, built[place])
            elif place not in _TAKEN and not place.startswith(free):
                self.findings.wonder(place, value, "it changes nothing")
        return self.plan, self.arguments

    def _pictures(self) -> None:
        for key, place, default in (("mean", "MODEL.PIXEL_MEAN", _PIXEL_MEAN), ("std", "MODEL.PIXEL_STD", _PIXEL_STD)):
            value = self.given.get(place, default)
            if not (_are_numbers if key == "mean" else _are_positive)(value, 3):
                self.findings.refuse(place, value, self.official[key], "three numbers, one a channel")
            else:
                self._plan(key, key, tuple(float(number) for number in value), place)
        order = self.given.get("INPUT.FORMAT", "BGR")
        if order in ("RGB", "BGR"):
            self._plan("color_order", "channel_order", order, "INPUT.FORMAT")
        else:
            self.findings.refuse("INPUT.FORMAT", order, self.official["color_order"])
        limits = self.given.get("INPUT.MAX_SIZE_TEST", 1333), self.given.get("INPUT.MIN_SIZE_TEST", 800)
        if _are_positive(limits, 2) and all(isinstance(limit, int) for limit in limits):
            self.plan |= {"long_side": max(limits), "short_side": min(limits)}
            self.findings.take("image_size", limits, "ratio kept")
        else:
            official = self.official["long_side"], self.official["short_side"]
            self.findings.refuse("INPUT.MIN_SIZE_TEST", limits, official)
        if self.official["size_fit"] == "pad":
            self.plan["resizer"] = "pillow"
            self.findings.take("resizer", "pillow", "detectron2 has no other")
        else:
            self.findings.refuse("INPUT.resize", "Pillow's bilinear", "OpenCV's bilinear", "detectron2 has no other")
        if not self.is_mask2former:
            self.findings.default("size_divisor", self.official["size_divisor"])

    def _plan(self, key: str, name: str, value: Any, place: str) -> None:
        self.plan[key] = value
        self.findings.take(name, value, place if place in self.given else f"detectron2's default of {place}")

    def _divisor(self) -> None:
        place = "MODEL.MASK_FORMER.SIZE_DIVISIBILITY"
        value, official = self.given.get(place, self.official["size_divisor"]), self.official["size_divisor"]
        if not isinstance(value, int) or value < 1 or value % official:
            self.findings.refuse(place, value, official, f"multiples of {official}")
        elif value != official:
            self._plan("size_divisor", "size_divisor", value, place)
        else:
            self.findings.default("size_divisor", official)

    def _detector(self) -> None:
        for name, place, default in _SHARES:
            value = self.given.get(place, default)
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
                self._argument(name, value, place)
            else:
                self.findings.refuse(place, value, default, "a share from 0 to 1")
        is_caffe = self.given.get("MODEL.RESNETS.STRIDE_IN_1X1", True)
        self._argument("style", "caffe" if is_caffe else "pytorch", "MODEL.RESNETS.STRIDE_IN_1X1")
        place = "MODEL.ANCHOR_GENERATOR.SIZES"
        sizes = self.given.get(place, [[32], [64], [128], [256], [512]])
        built = [[32], [64], [128], [256], [512]]
        scale = sizes[0][0] / 4 if sizes and isinstance(sizes[0], list) and _are_positive(sizes[0], 1) else 8
        if sizes == [[scale * stride] for stride in (4, 8, 16, 32, 64)]:
            self._argument("anchor_scales", [scale], place)
        else:
            self.findings.refuse(place, sizes, built, "one scale of the strides 4 to 64")
        place = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
        ratios = self.given.get(place, [[0.5, 1.0, 2.0]])
        if isinstance(ratios, list) and len(ratios) == 1 and _are_positive(ratios[0], 3):
            self._argument("anchor_ratios", list(ratios[0]), place)
        else:
            self.findings.refuse(place, ratios, [[0.5, 1.0, 2.0]], "three ratios for all levels")

    def _argument(self, name: str, value: Any, place: str) -> None:
        self.arguments[name] = value
        self.findings.take(name, value, place if place in self.given else f"detectron2's default of {place}")


def _flattened(values: Mapping[str, Any], place: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{place}{key}"
        found += _flattened(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return found


def _are_numbers(values: Any, count: int) -> bool:
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e6 for n in values)


def _are_positive(values: Any, count: int) -> bool:
    return _are_numbers(values, count) and min(values) > 0
