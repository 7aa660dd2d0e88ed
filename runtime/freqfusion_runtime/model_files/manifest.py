# SPDX-License-Identifier: Apache-2.0
"""What a model file says about itself: interface, classes, preprocessing, origin."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from freqfusion_runtime.errors import ManifestError
from freqfusion_runtime.files import atomic_path
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.model_files.hostile_json import JsonError, JsonLimits, read_json, read_json_file
from freqfusion_runtime.model_files.typed_records import RecordError, read_record

FORMAT_VERSION = 2
METADATA_KEY = "freqfusion_manifest"  # in the ONNX model's metadata_props
LIMITS = JsonLimits(length=64 << 20)
"""Of its JSON; 65,536 names of classes with 200 characters each take 13 MB, or 52 in characters of four bytes."""
MOST_CLASSES = 1 << 16
"""Label files have two bytes a pixel; the largest data sets with masks have some thousand classes."""
LONGEST_NAME = 200
"""Characters of a class's name."""

Task = Literal["semantic_segmentation", "detection", "instance_segmentation", "panoptic_segmentation", "network"]
Interface = Literal["tensor", "image"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Weights = Literal["random", "checkpoint"]
WeightsTaken = Literal["model", "ema", "unknown"]
ColorOrder = Literal["RGB", "BGR"]
SizeFit = Literal["stretch", "pad"]
Resizer = Literal["opencv", "pillow"]
SettingOrigin = Literal["config", "default", "override", "refused", "not understood"]
_ADDED = {"added": True}  # to format 2: a record written before has the default


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Args:
        name: Its name in the graph.
        dtype: numpy's name of the dtype, such as ``float32`` or ``uint8``.
        shape: A number for a fixed size, a name for a free one, such as ``("batch", 3, "height", "width")``.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded picture to a network's input; the defaults are those of the official SegNeXt test pipeline.

    Args:
        long_side: The picture is scaled, ratio kept, until its long side or its short side meets the limit first.
        short_side: See ``long_side``.
        exact_size: ``(height, width)`` that every picture is stretched to in place of that; None to keep the ratio.
        size_divisor: Both sides are then brought up to multiples of this.
        size_fit: How: ``stretch`` resizes once more, as SegNeXt's pipeline does; ``pad`` appends zeros below and at the
            right after normalisation, as the detectors' does.
        mean: Per channel in the order of ``color_order``, on the scale 0 to 255.
        std: As ``mean``.
        color_order: Order of the network's three input channels.
        resizer: Whose bilinear resize of 8-bit pictures it is, and with it whose rounding of a kept ratio's sizes:
            OpenCV's and mmcv's, or Pillow's and detectron2's; the latter with ``size_fit`` ``pad`` alone.
    """

    long_side: int = 2048
    short_side: int = 512
    size_divisor: int = 32
    size_fit: SizeFit = "stretch"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    color_order: ColorOrder = "RGB"
    exact_size: tuple[int, int] | None = field(default=None, metadata=_ADDED)
    resizer: Resizer = field(default="opencv", metadata=_ADDED)


@dataclass(frozen=True)
class FreeSize:
    """A size that a network leaves free.

    Args:
        multiple: What it must be a multiple of.
        usual: What it was in the inputs that the network was exported with.
    """

    multiple: int
    usual: int


@dataclass(frozen=True)
class SettingRecord:
    """What became of one setting of the config that the network was trained with.

    Args:
        name: The setting's.
        origin: ``config``: built as the config says; ``default``: the config does not say, built as the official one;
            ``override``: built as the user said; ``not understood``: nobody knows what the config says.
        found: What the config says, as text; empty if nothing.
        built: What was built.
        remark: Why, where it needs saying.
    """

    name: str
    origin: SettingOrigin
    found: str
    built: str
    remark: str


@dataclass(frozen=True)
class KeptInFp32:
    """A part of a half-typed network that stays in fp32.

    Args:
        name: Of the rule.
        reason: What is lost without it.
        nodes: How many there are; each carries the name under ``freqfusion.island`` in its metadata.
        found: What was seen that led to it, such as the values that left the type's range in calibration.
    """

    name: str
    reason: str
    nodes: int
    found: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything the runtime must know about a model file and cannot read from its graph.

    Args:
        model: Name under which ``freqfusion.create_model`` knows it.
        task: What the model does; of a ``network`` nobody says what its tensors mean, such as of operators that are
            compared alone.
        interface: ``tensor``: normalised NCHW float in, logits out; ``image``: uint8 NHWC RGB in, label map out.
            docs/detection.md says what the three tasks with boxes put out.
        precision: Of the weights and activations.
        islands: What stays in fp32 in a file of another precision.
        calibration_method: How ranges were taken from pictures; None without any.
        calibration_pictures: How many there were.
        calibration_sha256: Hash over the hashes of their files, in order of name.
        opset: ONNX opset of the standard domain.
        num_classes: Number of classes; for panoptic segmentation things and stuff together.
        num_things: How many of them, the first, are things; None but for panoptic segmentation.
        classes: Their names in the order of the logits, or empty where the checkpoint names none.
        palette: Their colours as RGB in 0 to 255, or empty.
        preprocessing: Which pictures the network was trained on.
        sizes: Of a ``network``: the free sizes of its inputs by the names that they share.
        inputs, outputs: In the graph's order.
        settings: What was taken from the config, defaulted, overridden by the user, or not understood.
        network: Arguments that the network was built with beside those that its weights show.
        nmf_bases_seed: Seed of the frozen NMF bases, None for a model without them.
        weights: ``random`` for generated weights, which show the plumbing only.
        weights_file: File name of the checkpoint, without folders.
        weights_sha256: Hash of that file.
        weights_taken: Of what it holds the weights as trained, or running averages of them.
        config_file: File name of the config that was given in place of the checkpoint's, without folders.
        config_sha256: Hash of that file.
        operators: How many nodes of each FreqFusion operator the graph has.
        plugin_namespace, plugin_version: What these nodes carry for TensorRT's registry.
        versions: Of the packages that wrote the file.
        format_version: Of this record.

    Raises:
        ManifestError: If the parts contradict each other.
    """

    model: str
    task: Task
    interface: Interface
    precision: Precision
    opset: int
    num_classes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Weights
    num_things: int | None = None
    islands: tuple[KeptInFp32, ...] = ()
    calibration_method: str | None = None
    calibration_pictures: int = 0
    calibration_sha256: str | None = None
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    sizes: dict[str, FreeSize] = field(default_factory=dict, metadata=_ADDED)
    settings: tuple[SettingRecord, ...] = field(default=(), metadata=_ADDED)
    network: dict[str, Any] = field(default_factory=dict, metadata=_ADDED)
    nmf_bases_seed: int | None = None
    weights_file: str | None = None
    weights_sha256: str | None = None
    weights_taken: WeightsTaken = field(default="unknown", metadata=_ADDED)
    config_file: str | None = field(default=None, metadata=_ADDED)
    config_sha256: str | None = field(default=None, metadata=_ADDED)
    operators: dict[str, int] = field(default_factory=dict)
    plugin_namespace: str = "freqfusion"
    plugin_version: str = "1"
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise ManifestError(
                f"manifest: num_classes must be from 1 to {MOST_CLASSES}, got {self.num_classes}. {_REEXPORT}"
            )
        if (self.num_things is not None) != (self.task == "panoptic_segmentation"):
            raise ManifestError(
                f"manifest: num_things must be given for panoptic_segmentation and for nothing else, "
                f"got {self.num_things} for {self.task}. {_REEXPORT}"
            )
        if self.num_things is not None and not 1 <= self.num_things <= self.num_classes:
            raise ManifestError(
                f"manifest: num_things must be from 1 to {self.num_classes} (num_classes), got {self.num_things}. "
                f"{_REEXPORT}"
            )
        for name, values in (("classes", self.classes), ("palette", self.palette)):
            if values and len(values) != self.num_classes:
                raise ManifestError(
                    f"manifest: {name} must have {self.num_classes} entries (num_classes) or none, "
                    f"got {len(values)}. {_REEXPORT}"
                )
        if any(len(name) > LONGEST_NAME for name in self.classes):
            place = next(i for i, name in enumerate(self.classes) if len(name) > LONGEST_NAME)
            raise ManifestError(
                f"manifest: the name of a class has at most {LONGEST_NAME} characters, that of class {place} has "
                f"{len(self.classes[place])}: {self.classes[place][:40]!r}... Shorten it in the checkpoint, and export "
                "that again."
            )
        if any(not 0 <= level <= 255 for color in self.palette for level in color):
            raise ManifestError(f"manifest: palette must hold levels from 0 to 255. {_REEXPORT}")
        if not all(map(math.isfinite, self.preprocessing.mean)):
            raise ManifestError(f"manifest: mean must be finite, got {self.preprocessing.mean}. {_REEXPORT}")
        if not all(0 < deviation < math.inf for deviation in self.preprocessing.std):
            raise ManifestError(f"manifest: std must be positive, got {self.preprocessing.std}. {_REEXPORT}")
        sizes = (self.preprocessing.long_side, self.preprocessing.short_side, self.preprocessing.size_divisor)
        if min(*sizes, *(self.preprocessing.exact_size or ())) < 1:
            raise ManifestError(
                f"manifest: long_side, short_side, size_divisor must be positive, got {sizes}, and so must exact_size, "
                f"got {self.preprocessing.exact_size}. {_REEXPORT}"
            )
        if self.preprocessing.resizer == "pillow" and self.preprocessing.size_fit != "pad":
            raise ManifestError(
                f"manifest: size_fit must be pad where resizer is pillow, got {self.preprocessing.size_fit}. "
                f"{_REEXPORT}"
            )
        wrong = [n for n, s in self.sizes.items() if s.multiple < 1 or s.usual < 1 or s.usual % s.multiple]
        if wrong:
            size = self.sizes[wrong[0]]
            raise ManifestError(
                f"manifest: the size {wrong[0][:80]!r} must be a positive multiple of a positive number, "
                f"got {size.usual} and {size.multiple}. {_REEXPORT}"
            )
        if not self.inputs or not self.outputs:
            raise ManifestError(f"manifest: inputs and outputs must name at least one tensor each. {_REEXPORT}")

    def to_json(self) -> str:
        """Writes the record as JSON with sorted keys, so that equal manifests are equal texts."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        # Half a character of UTF-16, which a pickle can hold and no file of text.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    @classmethod
    def from_json(cls, text: str, source: str = "manifest") -> Manifest:
        """Reads what :meth:`to_json` wrote.

        Args:
            text: The JSON text.
            source: What to call it in an error.

        Raises:
            ManifestError: If it is no JSON, of another format version, or a key is missing, unknown or of a wrong type.
        """
        try:
            values = read_json(text, f"{source}: the manifest", LIMITS)
        except JsonError as e:
            raise ManifestError(f"{e.fact}. {_REEXPORT}") from e
        return cls.from_record(values, source)

    @classmethod
    def from_record(cls, values: Any, source: str = "manifest") -> Manifest:
        """Reads what :meth:`to_json` wrote and a reader of JSON has read; see :meth:`from_json`."""
        if not isinstance(values, dict):
            raise ManifestError(f"{source}: must be a JSON object, got {type(values).__name__}. {_REEXPORT}")
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ManifestError(
                f"{source}: has manifest format {version!r:.40}, this runtime reads {FORMAT_VERSION}. "
                "Install the freqfusion-deploy version that wrote it, or export the model again with this one."
            )
        try:
            return read_record(cls, values, source)
        except RecordError as e:
            raise ManifestError(f"{e}. {_REEXPORT}") from e


def sidecar_path(model: str | os.PathLike[str]) -> Path:
    """Names the manifest file that lies beside a model: ``net.onnx`` has ``net.json``."""
    return Path(model).with_suffix(".json")


def read_sidecar(sidecar: Path, remedy: str) -> dict[str, Any]:
    """Reads the record in a manifest file, whatever its keys.

    Args:
        sidecar: The file.
        remedy: What to do where it cannot be read, as a sentence.

    Raises:
        ManifestError: If it cannot be read, or holds no JSON object.
    """
    try:
        record = read_json_file(sidecar, LIMITS)
    except JsonError as e:
        raise ManifestError(f"{e.fact}. {remedy}") from e
    if not isinstance(record, dict):
        raise ManifestError(f"{sidecar} holds no JSON object but {type(record).__name__}. {remedy}")
    return record


def write_sidecar(model: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Writes the manifest beside a finished model file, with the file's own hash under ``sha256``."""
    record = {**json.loads(manifest.to_json()), "sha256": model_sha256(model)}
    path = sidecar_path(model)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


_REEXPORT = "Write the model again with `freqfusion export`."
