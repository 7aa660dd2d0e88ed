# SPDX-License-Identifier: Apache-2.0
"""What a foreign module is, by its parameters' names and shapes and its attributes; never by its class."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from freqfusion.adoption.forms import INPUTS, RESULTS, Form
from freqfusion.adoption.replacements import AdoptedFreqFusion, CarafeLayer, CarafeUpsampler, TwoStageFusion

FUSION = "FreqFusion"
TWO_STAGES = "FreqFusion1x/2x"
PACK = "CARAFEPack"
LAYER = "CARAFE"
COMPRESSORS = ("hr_channel_compressor", "lr_channel_compressor")
WINDOWS = ("hamming_lowpass", "hamming_highpass")
SAMPLER = ("offset", "hr_offset", "direct_scale", "hr_direct_scale", "norm_hr", "norm_lr")
SWITCHES = ("semi_conv", "comp_feat_upsample", "hr_residual")


class ForeignModuleError(Exception):
    """What stands in the way of replacing a module, as the end of a sentence that begins with the module."""


@dataclass(frozen=True)
class Reading:
    """A module that can be replaced, as far as names and shapes tell.

    Attributes:
        kind: ``FUSION``, ``TWO_STAGES``, ``PACK`` or ``LAYER``.
        channels: Of the maps it takes, in the order hr, lr.
        known: What was read, by its official name.
        open: What neither shapes nor attributes tell: the values it may have, the official one first.
        build: Makes the replacement from a form, a padding, and values for everything in ``open``.
        forms: How it may be called; empty for kinds that have one form.
    """

    kind: str
    channels: tuple[int, ...]
    known: dict[str, Any]
    build: Callable[..., nn.Module]
    open: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    forms: tuple[Form, ...] = ()

    def choices(self) -> Iterator[dict[str, Any]]:
        """Every combination of what is open, the official ones first."""
        for values in itertools.product(*self.open.values()):
            yield dict(zip(self.open, values, strict=True))


ALL_FORMS = tuple(Form(inputs, result) for inputs, result in itertools.product(INPUTS, RESULTS))


def read(module: nn.Module) -> Reading | None:
    """Reads a module; ``None`` if it has nothing of FreqFusion or CARAFE.

    Raises:
        ForeignModuleError: If it has, and cannot be replaced.
    """
    children = {name for name, child in module.named_children() if child is not None}
    if is_scripted(module) and children >= {*COMPRESSORS}:
        raise ForeignModuleError("is compiled by torch.jit, which hides its code: adopt before torch.jit.script")
    if children >= {*COMPRESSORS, "content_encoder"}:
        return _read_fusion(module)
    if children >= {*COMPRESSORS, *TwoStageFusion.ENCODERS}:
        return _read_two_stages(module)
    if children >= {"channel_compressor", "content_encoder"}:
        return _read_pack(module)
    names = ("kernel_size", "group_size", "scale_factor")
    if not children and not list(module.parameters()) and all(type(getattr(module, n, None)) is int for n in names):
        known = {name: getattr(module, name) for name in names}

        def build(form: Form | None, padding: str) -> nn.Module:
            return CarafeLayer(module, known["kernel_size"], known["group_size"], known["scale_factor"], padding)

        return Reading(LAYER, (), known, build)
    called = type(module).__name__
    if called.startswith(("FreqFusion", "CARAFE")) and not any(read_or_foreign(child) for child in module.children()):
        own = [name for name, _ in itertools.chain(module.named_parameters(), module.named_buffers())]
        raise ForeignModuleError(
            f"is of a class called {called} but none of those: its parameters are {_listed(own)}, expected "
            f"hr_channel_compressor, lr_channel_compressor and content_encoder"
        )
    return None


def read_or_foreign(module: nn.Module) -> bool:
    """Whether there is anything to say of ``module``."""
    try:
        return read(module) is not None
    except ForeignModuleError:
        return True


def is_scripted(module: nn.Module) -> bool:
    """Whether ``torch.jit`` has compiled it."""
    return any(base.__module__.startswith("torch.jit") for base in type(module).__mro__)


def _read_fusion(module: nn.Module) -> Reading:
    _refuse_further(module, (*COMPRESSORS, "content_encoder", "content_encoder2", "dysampler"), WINDOWS)
    hr, lr, compressed = _compressors(module)
    encoder = _convolution(module, "content_encoder", compressed)
    highpass = isinstance(getattr(module, "content_encoder2", None), nn.Module)
    for name in ("up_group", "scale_factor"):
        if getattr(module, name, 1) != 1:
            raise ForeignModuleError(
                f"has {name} {getattr(module, name)}, expected 1: the official code crashes otherwise"
            )
    known: dict[str, Any] = {
        "lowpass_kernel": _kernel_size("content_encoder", encoder.out_channels),
        "encoder_kernel": encoder.kernel_size[0],
        "encoder_dilation": encoder.dilation[0],
        "compressed_channels": compressed,
        "use_high_pass": highpass,
    }
    if highpass:
        second = _convolution(module, "content_encoder2", compressed)
        known["highpass_kernel"] = _kernel_size("content_encoder2", second.out_channels)
    _check_windows(module, known["lowpass_kernel"], known.get("highpass_kernel", 3))
    open_values: dict[str, tuple[Any, ...]] = {"resizes": (False, True)}
    for name in SWITCHES:
        value = getattr(module, name, None)
        open_values[name] = (value, not value) if isinstance(value, bool) else (True, False)
    if not highpass:
        open_values["hr_residual"] = (True,)
    known["upsample_mode"] = getattr(module, "upsample_mode", "nearest")
    known["align_corners"] = bool(getattr(module, "align_corners", False))
    resampler = getattr(module, "dysampler", None)
    sampler = _read_sampler(resampler, compressed, lr) if isinstance(resampler, nn.Module) else None

    def build(form: Form, padding: str, resizes: bool, **switches: bool) -> nn.Module:
        options = {"hr_channels": hr, "lr_channels": lr, "padding": padding, **known, **switches}
        return AdoptedFreqFusion(module, form, resizes, sampler, **options)

    shown = {**known, "feature_resample": sampler is not None}
    if sampler is not None:
        shown |= {"feature_resample_group": sampler["groups"], "feature_resample_norm": sampler["norm"]}
        shown["direction_feat"] = sampler["direction_feat"]
    windows = [getattr(module, name) for name in WINDOWS if hasattr(module, name)]
    shown["hamming_window"] = bool(windows) and all(window.numel() > 1 for window in windows)
    return Reading(FUSION, (hr, lr), shown, build, open_values, ALL_FORMS)


def _read_two_stages(module: nn.Module) -> Reading:
    _refuse_further(module, (*COMPRESSORS, *TwoStageFusion.ENCODERS), WINDOWS)
    hr, lr, compressed = _compressors(module)
    sizes = []
    for names in (TwoStageFusion.ENCODERS[:2], TwoStageFusion.ENCODERS[2:]):
        first, second = (_convolution(module, name, 2 * compressed) for name in names)
        if first.out_channels != second.out_channels:
            raise ForeignModuleError(
                f"has {names[0]} and {names[1]} of {first.out_channels} and {second.out_channels} outputs"
            )
        sizes.append(_kernel_size(names[0], first.out_channels))
    _check_windows(module, *sizes)

    def build(form: Form, padding: str) -> nn.Module:
        return TwoStageFusion(module, form, sizes[0], sizes[1], padding)

    known = {"lowpass_kernel": sizes[0], "highpass_kernel": sizes[1], "compressed_channels": compressed}
    return Reading(TWO_STAGES, (hr, lr), known, build, forms=ALL_FORMS)


def _read_pack(module: nn.Module) -> Reading | None:
    names = ("up_kernel", "up_group", "scale_factor")
    if not all(type(getattr(module, name, None)) is int for name in names):
        return None  # many networks call something so
    kernel_size, groups, scale = (int(getattr(module, name)) for name in names)
    _refuse_further(module, ("channel_compressor", "content_encoder"), ())
    compressor, encoder = module.get_submodule("channel_compressor"), module.get_submodule("content_encoder")
    if not isinstance(compressor, nn.Conv2d) or not isinstance(encoder, nn.Conv2d):
        raise ForeignModuleError("has parts other than two convolutions")
    expected = kernel_size**2 * groups * scale**2
    if encoder.out_channels != expected or kernel_size % 2 == 0:
        raise ForeignModuleError(
            f"has a content_encoder of {encoder.out_channels} outputs, expected up_kernel^2 * up_group * "
            f"scale_factor^2, {expected}, of an odd up_kernel"
        )

    def build(form: Form | None, padding: str) -> nn.Module:
        return CarafeUpsampler(module, kernel_size, groups, scale, padding)

    known = {"up_kernel": kernel_size, "up_group": groups, "scale_factor": scale}
    return Reading(PACK, (compressor.in_channels,), known, build)


def _read_sampler(sampler: nn.Module, compressed: int, lr_channels: int) -> dict[str, Any]:
    _refuse_further(sampler, SAMPLER, ("init_pos",), "dysampler.")
    if not hasattr(sampler, "offset") or not hasattr(sampler, "hr_offset"):
        raise ForeignModuleError("has a dysampler without the convolutions offset and hr_offset")
    offset = _convolution(sampler, "offset", None)
    groups, rest = divmod(_convolution(sampler, "hr_offset", offset.in_channels).out_channels, 2)
    if rest or offset.out_channels != 8 * groups or compressed % groups or lr_channels % groups:
        raise ForeignModuleError(
            f"has a dysampler whose offsets have {offset.out_channels} outputs at half and {2 * groups + rest} at full "
            f"size, expected 8 and 2 for each of its groups, which divide {compressed} and {lr_channels} channels"
        )
    concat = offset.in_channels > compressed
    window = math.isqrt(offset.in_channels - (compressed if concat else 0) + 1)
    if window**2 - 1 + (compressed if concat else 0) != offset.in_channels or window % 2 == 0:
        raise ForeignModuleError(
            f"has a dysampler whose offsets are predicted from {offset.in_channels} channels, expected 8 similarities, "
            f"or {compressed + 8} with the {compressed} compressed channels"
        )
    return {
        "in_channels": compressed,
        "groups": groups,
        "kernel_size": offset.kernel_size[0],
        "use_direct_scale": hasattr(sampler, "direct_scale"),
        "local_window": window,
        "norm": isinstance(getattr(sampler, "norm_hr", None), nn.GroupNorm),
        "direction_feat": "sim_concat" if concat else "sim",
    }


def _refuse_further(module: nn.Module, children: Iterable[str], buffers: Iterable[str], inside: str = "") -> None:
    """Raises for parameters and buffers that a replacement would have no place for."""
    known = {*children, *buffers}
    stored = itertools.chain(module.named_parameters(), module.named_buffers())
    further = [f"{inside}{name}" for name, _ in stored if name.partition(".")[0] not in known]
    if further:
        raise ForeignModuleError(f"has further parameters, {_listed(further)}: it computes more than FreqFusion does")


def _compressors(module: nn.Module) -> tuple[int, int, int]:
    """Channels of the fine and the coarse map, and of what is made of them."""
    inputs, outputs = [], []
    for name in COMPRESSORS:
        layer = module.get_submodule(name)
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.stride != (1, 1):
            raise ForeignModuleError(f"has for a {name} {_described(layer)}, expected a 1 x 1 convolution")
        inputs.append(layer.in_channels)
        outputs.append(layer.out_channels)
    if outputs[0] != outputs[1]:
        raise ForeignModuleError(
            f"compresses the two maps to {outputs[0]} and {outputs[1]} channels, expected one number"
        )
    return inputs[0], inputs[1], outputs[0]


def _convolution(module: nn.Module, name: str, inputs: int | None) -> nn.Conv2d:
    """A square convolution that keeps the map's size."""
    layer = module.get_submodule(name)
    if not isinstance(layer, nn.Conv2d) or layer.stride != (1, 1) or layer.groups != 1:
        raise ForeignModuleError(f"has for a {name} {_described(layer)}, expected a convolution of stride 1, ungrouped")
    size, dilation = layer.kernel_size, layer.dilation
    kept = tuple((k - 1) * d // 2 for k, d in zip(size, dilation, strict=True))
    if size[0] != size[1] or dilation[0] != dilation[1] or size[0] % 2 == 0 or layer.padding not in (kept, "same"):
        raise ForeignModuleError(
            f"has for a {name} {_described(layer)}, expected an odd square kernel that keeps the size"
        )
    if inputs is not None and layer.in_channels != inputs:
        raise ForeignModuleError(f"has a {name} of {layer.in_channels} channels, expected {inputs}")
    return layer


def _kernel_size(name: str, taps: int) -> int:
    size = math.isqrt(taps)
    if size**2 != taps or size % 2 == 0:
        raise ForeignModuleError(f"has a {name} of {taps} outputs, expected the square of an odd kernel size")
    return size


def _check_windows(module: nn.Module, *sizes: int) -> None:
    for name, size in zip(WINDOWS, sizes, strict=True):
        window = getattr(module, name, None)
        if isinstance(window, Tensor) and window.numel() not in (1, size**2):
            raise ForeignModuleError(f"has a {name} of {window.numel()} factors, expected 1 or {size**2}")


def official_signature(module: nn.Module) -> bool:
    """Whether ``forward`` takes what the official class takes, by its names."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return names in (["hr_feat", "lr_feat"], ["hr_feat", "lr_feat", "use_checkpoint"])


def _described(layer: nn.Module) -> str:
    return f"a {type(layer).__name__}({layer.extra_repr()})"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4]) or "none"
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
