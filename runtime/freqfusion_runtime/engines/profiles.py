# SPDX-License-Identifier: Apache-2.0
"""Optimisation profiles: the ranges of shapes that an engine takes, and which of them a request falls into."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from freqfusion_runtime.engines.errors import ProfileError, ProfileOptionError
from freqfusion_runtime.model_files.free_sizes import sizes_fault, usual_shapes
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec

Shape = tuple[int, ...]

# Without --min, --opt and --max: any picture up to Cityscapes' size, fastest at the size of the goldens.
DEFAULT_MIN, DEFAULT_OPT, DEFAULT_MAX = "1x64x64", "1x512x512", "1x1024x2048"


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, usual and largest shape of one input."""

    min: Shape
    opt: Shape
    max: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether every side lies in its range."""
        return len(shape) == len(self.min) and all(
            low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class Profile:
    """The range of every input, by name."""

    ranges: dict[str, ShapeRange]

    def holds(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every input's shape lies in its range."""
        return all(name in self.ranges and self.ranges[name].holds(shape) for name, shape in shapes.items())

    def distance(self, shapes: Mapping[str, Shape]) -> float:
        """How far shapes are from the usual ones, as the sum of the absolute logarithms of the sides' ratios."""
        return sum(
            abs(math.log(side / usual))
            for name, shape in shapes.items()
            for side, usual in zip(shape, self.ranges[name].opt, strict=True)
        )


def read_profiles(
    manifest: Manifest, mins: Sequence[str], opts: Sequence[str], maxs: Sequence[str]
) -> tuple[Profile, ...]:
    """Makes the profiles of the command line.

    Args:
        manifest: Of the model; its free sides are what is to be filled in.
        mins, opts, maxs: One text per profile: ``1x512x512`` (batch, height, width of the picture) or
            ``1x512x512,other=1x4`` where the model has further inputs. A list that is empty follows the usual size, or
            all defaults where all three are: for a ``network`` the sizes that it was exported with.

    Raises:
        ProfileOptionError: If the lists do not match, or a text does not fit the model.
    """
    if not (mins or opts or maxs) and manifest.task == "network":
        usual_size = ",".join(f"{name}={words(shape)}" for name, shape in usual_shapes(manifest).items())
        mins, opts, maxs = [usual_size], [usual_size], [usual_size]
    elif not (mins or opts or maxs):
        mins, opts, maxs = [DEFAULT_MIN], [DEFAULT_OPT], [DEFAULT_MAX]
    count = max(len(mins), len(opts), len(maxs))
    filled = []
    for name, texts in (("--min", mins), ("--opt", opts), ("--max", maxs)):
        if texts and len(texts) != count:
            raise ProfileOptionError(
                f"{name} is given {len(texts)} times, another of --min, --opt, --max {count} times. "
                "Give each once for every profile, or leave it out altogether."
            )
        filled.append(texts)
    low, usual, high = filled
    usual = usual or high or low  # the size that is left out is the largest, else the smallest
    low, high = low or usual, high or usual
    return tuple(_profile(manifest, *texts) for texts in zip(low, usual, high, strict=True))


def choose_profile(path: Path, profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """Picks the profile that holds the shapes and whose usual shapes are nearest.

    Raises:
        ProfileError: If none does: with the profiles, and the command that builds a wider engine.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.holds(shapes)]
    if fitting:
        return min(fitting, key=lambda index: profiles[index].distance(shapes))
    given = ", ".join(f"{name} {words(shape)}" for name, shape in shapes.items())
    ranges = "; ".join(
        ", ".join(f"{name} {words(r.min)} to {words(r.max)}" for name, r in profile.ranges.items())
        for profile in profiles
    )
    raise ProfileError(
        f"{path}: {given} lies outside every profile of the engine ({ranges}). "
        f"Resize the input, or build a wider engine: `freqfusion build MODEL.onnx {widened(profiles, shapes)} "
        f"--output {shlex.quote(str(path))}`."
    )


def widened(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> str:
    """Words the options of the nearest profile, widened until it holds ``shapes``."""
    same_rank = [p for p in profiles if all(len(p.ranges[n].min) == len(s) for n, s in shapes.items() if n in p.ranges)]
    profile = min(same_rank or profiles, key=lambda p: _excess(p, shapes))
    texts: dict[str, list[str]] = {"--min": [], "--opt": [], "--max": []}
    for index, (name, r) in enumerate(profile.ranges.items()):
        shape = shapes.get(name, r.opt)
        if len(shape) != len(r.min):
            shape = r.opt
        prefix = f"{name}=" if index else ""
        texts["--min"].append(prefix + words(tuple(map(min, r.min, shape))))
        texts["--opt"].append(prefix + words(r.opt))
        texts["--max"].append(prefix + words(tuple(map(max, r.max, shape))))
    return " ".join(f"{option} {','.join(values)}" for option, values in texts.items())


def _excess(profile: Profile, shapes: Mapping[str, Shape]) -> float:
    total = 0.0
    for name, shape in shapes.items():
        r = profile.ranges.get(name)
        if r is None or len(r.min) != len(shape):
            continue
        total += sum(
            math.log(max(low / max(side, 1), side / high, 1.0))
            for low, side, high in zip(r.min, shape, r.max, strict=True)
        )
    return total


def _profile(manifest: Manifest, low: str, usual: str, high: str) -> Profile:
    specs = {spec.name: spec for spec in manifest.inputs}
    # The usual size first: where it is the only one given, a message should not speak of another.
    sides = {option: _read(text, manifest) for option, text in (("--opt", usual), ("--min", low), ("--max", high))}
    ranges = {}
    for name, spec in specs.items():
        shapes = []
        for option, given in sides.items():
            if name not in given and any(isinstance(side, str) for side in spec.shape):
                raise ProfileOptionError(
                    f"{option} does not say the shape of input {name!r} {_spec_words(spec)}. "
                    f"Add it: {option} ...,{name}=SIZES."
                )
            shapes.append(_shape(spec, given[name], option) if name in given else tuple(map(int, spec.shape)))
        shape_range = ShapeRange(min=shapes[1], opt=shapes[0], max=shapes[2])
        if not shape_range.holds(shape_range.opt):
            raise ProfileOptionError(
                f"input {name!r}: --min {words(shape_range.min)}, --opt {words(shape_range.opt)} and --max "
                f"{words(shape_range.max)} must not decrease in any side. Correct the sizes."
            )
        ranges[name] = shape_range
    if manifest.task == "network":
        _check_sizes(manifest, ranges)
    elif manifest.interface == "tensor":
        _check_multiples(manifest, ranges)
    return Profile(ranges)


def _check_sizes(manifest: Manifest, ranges: Mapping[str, ShapeRange]) -> None:
    for option, pick in (("--min", "min"), ("--opt", "opt"), ("--max", "max")):
        shapes = {name: getattr(shape_range, pick) for name, shape_range in ranges.items()}
        if (fault := sizes_fault(manifest.inputs, manifest.sizes, shapes)) is not None:
            raise ProfileOptionError(f"{option}: {fault}")


def _check_multiples(manifest: Manifest, ranges: Mapping[str, ShapeRange]) -> None:
    step = manifest.preprocessing.size_divisor
    name = manifest.inputs[0].name
    for shape in (ranges[name].min, ranges[name].opt, ranges[name].max):
        if any(side % step for side in shape[-2:]):
            raise ProfileOptionError(
                f"input {name!r} takes heights and widths that are multiples of {step}, got {words(shape)}. "
                f"Use {words((*shape[:-2], *(max(-(-side // step), 1) * step for side in shape[-2:])))}."
            )


def _read(text: str, manifest: Manifest) -> dict[str, Shape]:
    given: dict[str, Shape] = {}
    for position, part in enumerate(text.split(",")):
        name, sign, sizes = part.rpartition("=")
        name = name if sign else manifest.inputs[0].name
        if (not sign and position) or name in given or name not in {spec.name for spec in manifest.inputs}:
            names = ", ".join(spec.name for spec in manifest.inputs)
            raise ProfileOptionError(
                f"{part!r} names no input of the model, or one for a second time. "
                f"Write 1x512x512 for the picture and NAME=SIZES for others; the inputs are {names}."
            )
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise ProfileOptionError(
                f"{part!r} is no size. Write positive numbers with an x between, such as 1x512x512."
            )
        given[name] = tuple(map(int, sizes.split("x")))
    return given


def _shape(spec: TensorSpec, sizes: Shape, option: str) -> Shape:
    """Fits sizes to an input: all its sides, its free ones, or batch, height and width of a picture."""
    free = [index for index, side in enumerate(spec.shape) if isinstance(side, str)]
    if len(sizes) == len(spec.shape):
        shape = sizes
    elif len(sizes) == len(free):
        by_index = dict(zip(free, sizes, strict=True))
        shape = tuple(by_index[i] if i in by_index else int(side) for i, side in enumerate(spec.shape))
    elif len(sizes) == 3 and len(spec.shape) == 4 and (channels := picture_channels(spec)) is not None:
        shape = (*sizes[:channels], int(spec.shape[channels]), *sizes[channels:])
    else:
        raise ProfileOptionError(
            f"{option} {words(sizes)} does not fit input {spec.name!r} {_spec_words(spec)}. "
            "Write batch, height and width, such as 1x512x512, or every side."
        )
    wrong = [side for side, got in zip(spec.shape, shape, strict=True) if isinstance(side, int) and side != got]
    if wrong:
        raise ProfileOptionError(
            f"{option} {words(sizes)} contradicts input {spec.name!r} {_spec_words(spec)}, whose fixed sides cannot "
            "change. Write them as they are, or export the model with other ones."
        )
    return shape


def picture_channels(spec: TensorSpec) -> int | None:
    """Finds the axis of a picture's three channels: 1 in NCHW, 3 in NHWC, None if it is no picture."""
    return next((axis for axis in (1, 3) if len(spec.shape) == 4 and spec.shape[axis] == 3), None)


def words(shape: Shape) -> str:
    """Writes a shape as the command line takes it."""
    return "x".join(map(str, shape))


def _spec_words(spec: TensorSpec) -> str:
    return "(" + ", ".join(map(str, spec.shape)) + ")"
