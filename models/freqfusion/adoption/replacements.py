# SPDX-License-Identifier: Apache-2.0
"""What is put in place of foreign modules. Each computes with the convolutions, norms and buffers of the original.

They are the same objects: optimizers go on with them, hooks and parametrizations on them stay, and the state_dict keeps
its names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.adoption.forms import RESULTS, Form
from freqfusion.adoption.odd_sizes import lowpass_to_size
from freqfusion.fusion import FreqFusion
from freqfusion.ops.adaptive_filter import FilterMode, adaptive_filter, normalize_taps
from freqfusion.ops.carafe import carafe
from freqfusion.predicted_filters import PADDINGS, PredictedFilters
from freqfusion.sampler import LocalSimGuidedSampler


def take(replacement: nn.Module, original: nn.Module, children: Iterable[str]) -> None:
    """Gives ``replacement`` the named children of ``original``, its mode, and what else hangs on it.

    Frameworks hang things on modules, as ultralytics does with the layers that one reads from.
    """
    for name in children:
        setattr(replacement, name, getattr(original, name))
    replacement.training = original.training
    own = vars(nn.Module()).keys()
    for name, value in vars(original).items():
        if name not in own and name != "forward" and not hasattr(replacement, name):
            setattr(replacement, name, value)


def device_of(module: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(module.parameters()).device


def take_buffer(replacement: nn.Module, original: nn.Module, name: str, otherwise: Tensor) -> None:
    """The same for a buffer, which is stored where the original stores it."""
    found = getattr(original, name, None)
    stored = name in original._buffers and name not in original._non_persistent_buffers_set
    replacement.register_buffer(name, found if isinstance(found, Tensor) else otherwise, persistent=stored)


class CalledByForm(PredictedFilters):
    """Base of fusions that are called as the original was.

    Attributes:
        form: How.
    """

    form: Form

    def forward(self, *maps: Any, use_checkpoint: bool = False, **named: Any) -> Any:
        """Fuses the maps, given and returned as ``form`` says.

        Raises:
            ValueError: If the call is of another form or the maps' sizes do not fit.
        """
        if len(maps) > 1 and isinstance(maps[-1], bool):
            maps, use_checkpoint = maps[:-1], maps[-1]
        hr_feat, lr_feat = self.form.maps(maps, named)
        if use_checkpoint and self.training:
            from torch.utils.checkpoint import checkpoint

            fused = checkpoint(self._fuse, hr_feat, lr_feat, use_reentrant=False)
        else:
            fused = self._fuse(hr_feat, lr_feat)
        return RESULTS[self.form.result](*fused)

    def _fuse(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError


class AdoptedFreqFusion(CalledByForm, FreqFusion):
    """FreqFusion with the parts of a copy of its class.

    Args:
        original: The copy.
        form: How it is called.
        resizes: Whether it takes a fine map of any size, by enlarging windows to the size of the mask.
        sampler: Keywords of ``LocalSimGuidedSampler``, or nothing for none.
        options: Keywords of ``FreqFusion``.
    """

    def __init__(
        self, original: nn.Module, form: Form, resizes: bool, sampler: dict[str, Any] | None, **options: Any
    ) -> None:
        with torch.device("meta"):  # what is made here is thrown away
            super().__init__(**options)
        self.form, self.resizes = form, resizes
        names = ["hr_channel_compressor", "lr_channel_compressor", "content_encoder"]
        take(self, original, names + ["content_encoder2"] * self.use_high_pass)
        for name in ("hamming_lowpass", "hamming_highpass"):
            take_buffer(self, original, name, torch.ones(1, device=device_of(original)))
        self.read_windows()
        if sampler is not None:
            self.feature_resample = True
            self.dysampler = adopted_sampler(original.get_submodule("dysampler"), sampler)

    forward = CalledByForm.forward
    _fuse = FreqFusion._fuse

    def check_sizes(self, hr_feat: Tensor, lr_feat: Tensor) -> None:
        if not self.resizes or self.feature_resample:
            super().check_sizes(hr_feat, lr_feat)

    def _lowpass(self, features: Tensor, logits: Tensor, scale: int) -> Tensor:
        if self.resizes and logits.shape[2:] != (scale * features.shape[2], scale * features.shape[3]):
            return lowpass_to_size(super()._lowpass, features, logits)
        return super()._lowpass(features, logits, scale)


def adopted_sampler(original: nn.Module, options: dict[str, Any]) -> LocalSimGuidedSampler:
    """Our sampler with the parts of ``original``."""
    with torch.device("meta"):
        sampler = LocalSimGuidedSampler(**options)
    names = [name for name, _ in original.named_children() if name in sampler._modules]
    take(sampler, original, names)
    take_buffer(sampler, original, "init_pos", sampler._identity_offsets().to(device_of(original)))
    return sampler


class TwoStageFusion(CalledByForm):
    """The fusion that its users call FreqFusion1x and FreqFusion2x: every filter is predicted twice, from both maps.

    Maps may be of one size (1x), or the coarse one of half the size of the fine one (2x).

    Args:
        original: The module with the encoders ``content_encoderL1``, ``L2``, ``H1``, ``H2``.
        form: How it is called.
        lowpass_kernel: Side of the low-pass window.
        highpass_kernel: Side of the high-pass window.
        padding: A key of ``PADDINGS``.
    """

    hr_channel_compressor: nn.Module
    lr_channel_compressor: nn.Module
    content_encoderL1: nn.Module
    content_encoderL2: nn.Module
    content_encoderH1: nn.Module
    content_encoderH2: nn.Module

    ENCODERS = ("content_encoderL1", "content_encoderL2", "content_encoderH1", "content_encoderH2")

    def __init__(
        self, original: nn.Module, form: Form, lowpass_kernel: int, highpass_kernel: int, padding: str
    ) -> None:
        super().__init__()
        self.form, self.padding = form, padding
        self.lowpass_kernel, self.highpass_kernel = lowpass_kernel, highpass_kernel
        one = torch.ones(1, device=device_of(original))
        self.register_windows(one, one)
        take(self, original, ("hr_channel_compressor", "lr_channel_compressor", *self.ENCODERS))
        for name in ("hamming_lowpass", "hamming_highpass"):
            take_buffer(self, original, name, one)
        self.read_windows()

    def _fuse(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (h, w), size = lr_feat.shape[2:], hr_feat.shape[2:]
        if size not in ((h, w), (2 * h, 2 * w)):
            raise ValueError(
                f"FreqFusion: hr_feat must be of the size of lr_feat, {h} x {w}, or twice it, got {size[0]} x {size[1]}"
            )
        self.refresh_windows()
        hr, lr = self.hr_channel_compressor(hr_feat), self.lr_channel_compressor(lr_feat)
        if size != (h, w):
            lr = F.interpolate(lr, size=size, mode="nearest")
        both = torch.cat((hr, lr), dim=1)
        sharpened = self._highpass(hr, self.content_encoderH1(both), FilterMode.SHARPEN)
        smoothed = self._lowpass(lr, self.content_encoderL1(both), 1)
        both = torch.cat((sharpened, smoothed), dim=1)
        low, high = self.content_encoderL2(both), self.content_encoderH2(both)
        lr_out = self._lowpass(lr_feat, low, 1 if size == (h, w) else 2)
        hr_out = self._highpass(hr_feat, high, FilterMode.SHARPEN)
        return normalize_taps(low, self._lowpass_window, self.lowpass_kernel), hr_out, lr_out


class CarafeUpsampler(nn.Module):
    """``CARAFEPack`` of mmcv: a map enlarged by filters that are predicted from it.

    Args:
        original: The module with ``channel_compressor`` and ``content_encoder``.
        kernel_size: Side of the window.
        groups: Channel groups that share filters.
        scale: Output pixels per input pixel along each axis.
        padding: A key of ``PADDINGS``.
    """

    channel_compressor: nn.Module
    content_encoder: nn.Module

    def __init__(self, original: nn.Module, kernel_size: int, groups: int, scale: int, padding: str) -> None:
        super().__init__()
        self.kernel_size, self.groups, self.scale, self.padding = kernel_size, groups, scale, padding
        take(self, original, ("channel_compressor", "content_encoder"))

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges ``x`` ``(N, C, h, w)`` to ``(N, C, scale * h, scale * w)``."""
        logits = F.pixel_shuffle(self.content_encoder(self.channel_compressor(x)), self.scale)
        window = [1.0] * self.kernel_size**2
        sizes, mode = (self.kernel_size, self.groups, self.scale), int(FilterMode.LOWPASS)
        enlarged: Tensor = adaptive_filter(x, logits, window, *sizes, mode, int(PADDINGS[self.padding]))
        return enlarged


class CarafeLayer(nn.Module):
    """``CARAFE`` of mmcv: the operator as a module.

    Args:
        original: The module.
        kernel_size: Side of the window.
        groups: Channel groups that share a mask.
        scale: Output pixels per input pixel along each axis.
        padding: A key of ``PADDINGS``.
    """

    def __init__(self, original: nn.Module, kernel_size: int, groups: int, scale: int, padding: str) -> None:
        super().__init__()
        self.kernel_size, self.groups, self.scale, self.padding = kernel_size, groups, scale, padding
        take(self, original, ())

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Sums windows of ``features`` weighed by ``masks``; shapes as ``freqfusion.ops.carafe`` has them."""
        summed: Tensor = carafe(features, masks, self.kernel_size, self.groups, self.scale, int(PADDINGS[self.padding]))
        return summed
