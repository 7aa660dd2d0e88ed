# SPDX-License-Identifier: Apache-2.0
"""From a test pipeline and a data preprocessor to the sizes and numbers that a network is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from freqfusion.configs.findings import Findings
from freqfusion.configs.reader import Config, Unread
from freqfusion.configs.test_pipeline import find_test_pipeline, type_name

# Transforms that hand the picture on as it is, or only wrap it up.
_NEUTRAL = frozenset({
    "LoadImageFromNDArray", "LoadImageFromWebcam", "InferencerLoader", "LoadAnnotations", "LoadPanopticAnnotations",
    "FilterAnnotations", "SegRescale", "ImageToTensor", "ToTensor", "Transpose", "ToDataContainer", "Collect",
    "DefaultFormatBundle", "FormatBundle", "WrapFieldsToLists", "PackSegInputs", "PackDetInputs", "GetEdgeMap",
})  # fmt: skip
# The last ones of a pipeline: where one of them is, nothing is left out.
_ENDS_0X = frozenset({"ImageToTensor", "Collect", "DefaultFormatBundle"})
_ENDS_1X = frozenset({"PackSegInputs", "PackDetInputs"})
# Known to change pictures in a way that is not built.
_REFUSED = frozenset({
    "TestTimeAug", "LoadProposals", "LoadMultiChannelImageFromFiles", "LoadSingleRSImageFromFile",
    "LoadMultipleRSImageFromFile",
    "LoadBiomedicalImage", "PhotoMetricDistortion", "RandomCrop", "CenterCrop", "RandomRotate", "RandomGrayscale",
    "RandomCutOut", "RandomMosaic",
    "RandomResize", "RandomChoiceResize", "RandomErasing", "CLAHE", "Rerange", "RGB2Gray", "AdjustGamma", "AlignResize",
    "AlignedResize", "ResizeShortestEdge", "FixScaleResize", "FixShapeResize", "SETR_Resize", "BioMedical3DPad",
    "CutOut", "Albu", "Albumentations", "Expand", "MinIoURandomCrop", "Corrupt", "InstaBoost", "Mosaic", "MixUp",
    "RandomShift", "RandomAffine", "YOLOXHSVRandomAug", "CopyPaste", "RandomCenterCropPad", "Rotate", "Shear",
    "Translate", "ColorTransform", "EqualizeTransform", "BrightnessTransform", "ContrastTransform", "Sharpness",
    "Posterize", "Solarize", "Invert", "AutoAugment", "RandAugment", "ConcatCDInput",
})  # fmt: skip
_PREPROCESSORS = ("SegDataPreProcessor", "DetDataPreprocessor")
_MAX_TRANSFORMS = 500  # lists that hold each other twice over would go on for ever


class PictureReader:
    """Reads what becomes of a picture before the network.

    Args:
        config: The whole config.
        findings: Where to note what is found.
        official: The official test pipeline.
        image_size: A scale of more authority than the config's; taken if it is one.
    """

    def __init__(self, config: Config, findings: Findings, official: Mapping[str, Any], image_size: Any = None) -> None:
        self.config = config
        self.findings = findings
        self.official = official
        self.image_size = image_size
        self.plan: dict[str, Any] = {}
        self.steps: list[tuple[str, str, int]] = []  # place, fit and divisor of what brings sides to multiples
        self.noted: set[str] = set()
        self.kinds: list[str] = []
        self.pads_first = False
        self.averages = False  # within MultiScaleFlipAug, which sets scale and flip itself

    def read(self) -> dict[str, Any]:
        """Returns what differs from the official test pipeline."""
        if _is_pair(self.image_size):
            self._keep_ratio(self.image_size[0], self.image_size[1], "of the checkpoint, ratio kept")
        pipeline = find_test_pipeline(self.config)
        for place, source in pipeline.unread:
            self.findings.wonder(place, source, "not there")
        self.place = pipeline.place or "test_pipeline"
        self._walk(pipeline.transforms)
        has_preprocessor = self._preprocessor()
        if "mean" not in self.noted and not has_preprocessor:
            self._numbers_without_normalize()
        if self.pads_first and (has_preprocessor or "Normalize" in self.kinds):
            self.findings.refuse(f"{self.place}.Pad", "before normalisation", "zeros after it")
        self._sides(has_preprocessor)
        for name in ("image_size", "mean", "std", "channel_order"):
            if name not in self.noted:
                self.findings.default(name, self._official(name))
        return self.plan

    def _official(self, name: str) -> Any:
        if name == "image_size":
            return self.official["long_side"], self.official["short_side"]
        return self.official[{"channel_order": "color_order"}.get(name, name)]

    def _walk(self, transforms: Sequence[Any]) -> None:
        for transform in transforms:
            if len(self.kinds) >= _MAX_TRANSFORMS:
                return self.findings.wonder(self.place, f"more than {_MAX_TRANSFORMS} transforms", "the first of them")
            if not isinstance(transform, Mapping):
                self.kinds.append("")
                self.findings.wonder(self.place, transform, "it changes nothing")
                continue
            kind = type_name(transform) or self._kind_by_keys(transform)
            self.kinds.append(kind)
            by_kind: dict[str, Callable[[Mapping[str, Any]], None]] = {
                "LoadImageFromFile": self._load,
                "MultiScaleFlipAug": self._averaged,
                "Resize": self._resize,
                "ResizeToMultiple": self._stretch,
                "RandomFlip": self._flip,
                "Normalize": self._normalize,
                "Pad": self._pad,
            }
            if kind in by_kind:
                by_kind[kind]({key: value for key, value in transform.items() if key != "type"})
            elif kind in _REFUSED:
                self.findings.refuse(f"{self.place}.{kind}", transform, "none")
            elif kind not in _NEUTRAL:
                self.findings.wonder(f"{self.place}.{kind or 'a transform'}", transform, "it changes nothing")

    @staticmethod
    def _kind_by_keys(transform: Mapping[str, Any]) -> str:
        if "transforms" in transform:
            return "MultiScaleFlipAug"
        return "Resize" if {"img_scale", "scale", "keep_ratio"} & set(transform) else ""

    def _fixed(self, kind: str, options: Mapping[str, Any], built: Mapping[str, Any], free: set[str]) -> None:
        """Refuses options with values other than those built, and notes unknown ones."""
        for key, value in options.items():
            if key in free:
                continue
            if key not in built:
                self.findings.wonder(f"{self.place}.{kind}.{key}", value, "it changes nothing")
            elif isinstance(value, Unread):
                self.findings.wonder(f"{self.place}.{kind}.{key}", value, built[key])
            elif value != built[key]:
                self.findings.refuse(f"{self.place}.{kind}.{key}", value, built[key])

    def _load(self, options: Mapping[str, Any]) -> None:
        built = {"to_float32": False, "color_type": "color", "channel_order": "bgr", "imdecode_backend": "cv2"}
        self._fixed("LoadImageFromFile", options, built, {"file_client_args", "backend_args", "ignore_empty"})

    def _averaged(self, options: Mapping[str, Any]) -> None:
        kind = "MultiScaleFlipAug"
        self._fixed(kind, options, {"flip": False, "scale_factor": None},
                    {"img_scale", "img_ratios", "flip_direction", "transforms"})  # fmt: skip
        ratios = options.get("img_ratios")
        ratios = [1.0] if ratios is None else _items(ratios)
        inside = options.get("transforms", ())
        inside = inside if isinstance(inside, list | tuple) else [inside]
        keeps = next((part.get("keep_ratio", True) for part in inside
                      if isinstance(part, Mapping) and type_name(part) == "Resize"), True)  # fmt: skip
        if len(ratios) != 1:
            self.findings.refuse(f"{self.place}.{kind}.img_ratios", ratios, "one scale, nothing averaged")
            ratios = [1.0]
        if "img_scale" in options:
            self._scale(
                f"{self.place}.{kind}.img_scale", options["img_scale"], keeps, 1.0 if ratios[0] is None else ratios[0]
            )
        elif ratios[0] is not None:
            self.findings.refuse(f"{self.place}.{kind}.img_ratios", ratios, "a scale")
        self.averages = True
        self._walk(inside)
        self.averages = False

    def _resize(self, options: Mapping[str, Any]) -> None:
        built = {
            "ratio_range": None, "backend": "cv2", "interpolation": "bilinear", "min_size": None, "scale_factor": None,
        }  # fmt: skip
        free = {
            "img_scale",
            "scale",
            "keep_ratio",
            "multiscale_mode",
            "override",
            "bbox_clip_border",
            "clip_object_border",
        }
        self._fixed("Resize", options, built, free)
        if self.averages:  # which has set the scale, whatever is given here
            return
        is_old = "img_scale" in options
        key = "img_scale" if is_old else "scale"
        if key in options:
            self._scale(f"{self.place}.Resize.{key}", options[key], options.get("keep_ratio", is_old))
        elif "keep_ratio" in options:
            self._scale(f"{self.place}.Resize.keep_ratio", self._official("image_size"), options["keep_ratio"])

    def _scale(self, name: str, value: Any, keep_ratio: Any, ratio: Any = 1.0) -> None:
        """Takes a scale: (width, height), of which only the order by size matters where the ratio is kept."""
        if "image_size" in self.noted:
            if _is_pair(self.image_size):
                return
            return self.findings.refuse(name, value, "one resize", "the pipeline resizes twice")
        self.noted.add("image_size")
        official = self._official("image_size")
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | tuple):
            value = value[0]
        if _is_whole(value) and name.endswith(".scale"):
            value = (value, value)
        if isinstance(value, Unread) or not isinstance(keep_ratio, bool) or not isinstance(ratio, int | float):
            return self.findings.wonder(name, [value, keep_ratio, ratio], official)
        if isinstance(value, list | tuple) and value and all(isinstance(part, list | tuple) for part in value):
            return self.findings.refuse(name, value, "one scale, nothing averaged")
        if not _is_pair(value):
            return self.findings.refuse(name, value, official, "a scale is two positive whole numbers")
        width, height = (int(side * ratio) for side in value)
        if min(width, height) < 1:
            return self.findings.refuse(name, [value, ratio], official, "nothing would be left")
        if keep_ratio:
            return self._keep_ratio(width, height, "ratio kept")
        self.plan["exact_size"] = (height, width)
        self.findings.take("image_size", (width, height), "stretched to exactly this width and height")

    def _keep_ratio(self, width: int, height: int, remark: str) -> None:
        self.noted.add("image_size")
        limits = max(width, height), min(width, height)
        self.plan |= {"long_side": limits[0], "short_side": limits[1]}
        self.findings.take("image_size", limits, remark)

    def _stretch(self, options: Mapping[str, Any]) -> None:
        self._fixed("ResizeToMultiple", options, {"interpolation": None}, {"size_divisor"})
        self._step("ResizeToMultiple.size_divisor", "stretch", options.get("size_divisor", 32))

    def _pad(self, options: Mapping[str, Any]) -> None:
        built = {"size": None, "pad_to_square": False, "padding_mode": "constant"}
        self._fixed("Pad", options, built, {"size_divisor", "pad_val", "seg_pad_val"})
        self._pad_value(f"{self.place}.Pad.pad_val", options.get("pad_val", 0))
        self.pads_first = "Normalize" not in self.kinds
        if options.get("size_divisor") is not None:
            self._step("Pad.size_divisor", "pad", options["size_divisor"])

    def _pad_value(self, name: str, value: Any) -> None:
        level = value.get("img", 0) if isinstance(value, Mapping) else value
        levels = level if isinstance(level, list | tuple) else [level]
        if any(isinstance(part, Unread) for part in levels):
            self.findings.wonder(name, value, 0)
        elif any(levels):
            self.findings.refuse(name, value, 0)

    def _step(self, name: str, size_fit: str, divisor: Any) -> None:
        if _is_whole(divisor):
            self.steps.append((f"{self.place}.{name}" if name[0].isupper() else name, size_fit, divisor))
        else:
            self.findings.wonder(f"{self.place}.{name}", divisor, self.official["size_divisor"])

    def _flip(self, options: Mapping[str, Any]) -> None:
        for key in ("prob", "flip_ratio"):
            if not self.averages and options.get(key):
                self.findings.refuse(f"{self.place}.RandomFlip.{key}", options[key], "never flipped")

    def _normalize(self, options: Mapping[str, Any]) -> None:
        self._fixed("Normalize", options, {}, {"mean", "std", "to_rgb"})
        self._numbers(f"{self.place}.Normalize", options.get("mean"), options.get("std"), options.get("to_rgb", True))

    def _numbers(self, name: str, mean: Any, std: Any, is_rgb: Any) -> None:
        """Takes mean and deviation, in the network's order of channels, and that order."""
        self.noted |= {"mean", "std", "channel_order"}
        for key, value, is_good in (("mean", mean, lambda n: True), ("std", std, lambda n: n > 0)):
            official = self.official[key]
            if isinstance(value, Unread) or value is None or any(isinstance(n, Unread) for n in _items(value)):
                self.findings.wonder(f"{name}.{key}", value, official)
            elif len(_items(value)) != 3 or not all(_is_number(n) and is_good(n) for n in value):
                positive = " positive" if key == "std" else ""
                self.findings.refuse(f"{name}.{key}", value, official, f"three{positive} numbers, one a channel")
            else:
                self.plan[key] = tuple(float(n) for n in value)
                self.findings.take(key, self.plan[key])
        if not isinstance(is_rgb, bool):
            return self.findings.wonder(f"{name}.to_rgb", is_rgb, self.official["color_order"])
        self.plan["color_order"] = "RGB" if is_rgb else "BGR"
        self.findings.take("channel_order", self.plan["color_order"])

    def _numbers_without_normalize(self) -> None:
        """Takes what a short config calls ``img_norm_cfg``; a whole pipeline without normalisation has none."""
        named = self.config.values.get("img_norm_cfg")
        if _ENDS_0X & set(self.kinds):
            self._numbers("without Normalize", (0, 0, 0), (1, 1, 1), False)
        elif isinstance(named, Mapping):
            self._numbers("img_norm_cfg", named.get("mean"), named.get("std"), named.get("to_rgb", True))

    def _preprocessor(self) -> bool:
        """Reads mm 1.x's ``data_preprocessor``, which normalises and pads behind the pipeline."""
        model = self.config.values.get("model")
        name, options = "data_preprocessor", self.config.values.get("data_preprocessor")
        if isinstance(model, Mapping) and model.get("data_preprocessor") is not None:
            name, options = "model.data_preprocessor", model["data_preprocessor"]
        if isinstance(options, Unread):
            self.findings.wonder(name, options, "the official numbers")
        if not isinstance(options, Mapping):
            return False
        if (kind := type_name(options)) and kind not in _PREPROCESSORS:
            self.findings.refuse(f"{name}.type", kind, _PREPROCESSORS[self.official["size_fit"] == "pad"])
        if "mean" in self.noted:
            self.findings.refuse(name, "mean and std", "one normalisation", "the pipeline normalises already")
        else:
            swaps = options.get("bgr_to_rgb", False) or options.get("rgb_to_bgr", False)
            self._numbers(name, options.get("mean") or (0, 0, 0), options.get("std") or (1, 1, 1), swaps)
        testing = options.get("test_cfg")
        testing = testing if isinstance(testing, Mapping) else {}
        # For detectors always, and for segmenters, whose `size` and `size_divisor` are for training, in testing.
        for key, divisor in (
            ("pad_size_divisor", options.get("pad_size_divisor")),
            ("test_cfg.size_divisor", testing.get("size_divisor")),
        ):
            if divisor is not None and divisor != 1:
                self._pad_value(f"{name}.pad_val", options.get("pad_val", options.get("pad_value", 0)))
                self._step(f"{name}.{key}", "pad", divisor)
        if testing.get("size") is not None:
            self.findings.refuse(f"{name}.test_cfg.size", testing["size"], "padding to multiples")
        known = {
            "type", "mean", "std", "bgr_to_rgb", "rgb_to_bgr", "pad_size_divisor", "pad_val", "pad_value", "size",
            "size_divisor", "seg_pad_val", "seg_pad_value", "pad_mask", "mask_pad_value", "pad_seg", "boxtype2tensor",
            "non_blocking",
            "batch_augments", "test_cfg", "_scope_",
        }  # fmt: skip
        for key in sorted(set(options) - known):
            self.findings.wonder(f"{name}.{key}", options[key], "it changes nothing")
        return True

    def _sides(self, has_preprocessor: bool) -> None:
        """Takes how sides are brought to the multiples that the network needs."""
        needed, fit = self.official["size_divisor"], self.official["size_fit"]
        exact = self.plan.get("exact_size")
        fits = exact is not None and all(side % needed == 0 for side in exact)
        first = self.steps[0][2] if self.steps else needed
        if any(first % divisor for _, _, divisor in self.steps) and not fits:
            found = ", ".join(f"{name} {divisor}" for name, _, divisor in self.steps)
            return self.findings.refuse("size_divisor", found, "one step to multiples")
        if self.steps and not fits:
            name, found, divisor = self.steps[0]
            if divisor % needed:
                self.findings.refuse(name, divisor, needed, f"the network's sides are multiples of {needed}")
            elif found == "stretch" and fit == "pad":
                self.findings.refuse(name, "stretched", "padded")
            else:
                self.plan |= {"size_divisor": divisor, "size_fit": found}
                self.findings.take("size_divisor", f"{divisor}, {_FITS[found]}")
            return
        seen = set(self.kinds)
        is_whole = bool(_ENDS_0X & seen) or (bool(_ENDS_1X & seen) and (has_preprocessor or self.config.is_whole))
        if fits and self.steps:
            self.findings.take("size_divisor", self.steps[0][2], "nothing to do at this size")
        elif fits:
            self.findings.default("size_divisor", needed, "nothing to do at this size")
        elif is_whole or exact is not None:
            self.findings.refuse(
                "size_divisor", "none", f"{needed}, {_FITS[fit]}", f"the network's sides are multiples of {needed}"
            )
        else:
            self.findings.default("size_divisor", f"{needed}, {_FITS[fit]}")


_FITS = {"stretch": "stretched up to", "pad": "padded with zeros up to"}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
