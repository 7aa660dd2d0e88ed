# SPDX-License-Identifier: Apache-2.0
"""FreqFusion: fuses a fine and a coarse feature map with predicted low-pass and high-pass filters."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.ops.adaptive_filter import FilterMode, normalize_taps
from freqfusion.predicted_filters import PADDINGS, PredictedFilters
from freqfusion.sampler import LocalSimGuidedSampler


def hamming2d(size: int) -> Tensor:
    """Returns the ``(1, 1, size, size)`` fp32 outer product of two symmetric Hamming vectors."""
    if size == 1:
        return torch.ones(1, 1, 1, 1)
    steps = torch.arange(size, dtype=torch.float64)
    vector = 0.54 - 0.46 * torch.cos(2 * math.pi * steps / (size - 1))
    return torch.outer(vector, vector).float()[None, None]


class FreqFusion(PredictedFilters):
    """Fuses a fine map (HR) with a coarse map (LR) of half its size.

    The names and shapes of the state_dict are the official ones, so official checkpoints load strictly. The official
    code needs mmcv; this needs PyTorch only.

    Args:
        hr_channels: Channels of the fine map.
        lr_channels: Channels of the coarse map.
        scale_factor: Only 1; other values crash in the official forward.
        lowpass_kernel: Side of the low-pass window; odd.
        highpass_kernel: Side of the high-pass window; odd.
        up_group: Only 1; other values crash in the official ``kernel_normalizer``.
        encoder_kernel: Kernel side of the convolutions that predict filters and offsets; odd.
        encoder_dilation: Their dilation (filters only).
        compressed_channels: Channels C from which filters and offsets are predicted.
        align_corners: For ``upsample_mode`` other than ``nearest``; only without ``semi_conv``.
        upsample_mode: How LR is brought to HR size without ``semi_conv``.
        feature_resample: Whether the upsampled LR map goes through the offset resampler.
        feature_resample_group: Channel groups G of the resampler; divides C and ``lr_channels``.
        comp_feat_upsample: Whether the filters of LR are themselves upsampled by filters (path A) or by nearest (B).
        use_high_pass: Whether HR is sharpened. Path A cannot do without.
        use_low_pass: Without effect, here as in the official code.
        hr_residual: Whether ``hr_out`` is HR plus its high frequencies, or those alone.
        semi_conv: Whether filters are predicted from HR and LR apart (paths A, B) or from their sum (C).
        hamming_window: Whether the taps are weighed by a Hamming window. The window is a buffer of the checkpoint.
        feature_resample_norm: Whether the resampler normalises its inputs.
        direction_feat: What the resampler's offsets are predicted from: ``sim_concat`` in the official root,
            mmdetection and Mask2Former copies, ``sim`` in the SegNeXt copy; the state_dict shapes differ.
        padding: What filters read outside the maps: ``zeros``, as with mmcv, or ``reflect``, as in the official code's
            fallback. The state_dict does not say which a checkpoint was trained with.

    Raises:
        ValueError: For arguments that never worked officially, and for unknown ones, which the official code swallows.

    Source: FreqFusion, TPAMI 2024; class ``FreqFusion`` in the official ``FreqFusion.py``.
    """

    def __init__(
        self,
        hr_channels: int,
        lr_channels: int,
        scale_factor: int = 1,
        lowpass_kernel: int = 5,
        highpass_kernel: int = 3,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        align_corners: bool = False,
        upsample_mode: str = "nearest",
        feature_resample: bool = False,
        feature_resample_group: int = 4,
        comp_feat_upsample: bool = True,
        use_high_pass: bool = True,
        use_low_pass: bool = True,
        hr_residual: bool = True,
        semi_conv: bool = True,
        hamming_window: bool = True,
        feature_resample_norm: bool = True,
        direction_feat: str = "sim_concat",
        padding: str = "zeros",
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ValueError(
                f"FreqFusion: unknown arguments {sorted(unknown)}; the official code ignores them silently"
            )
        for name, value in (("scale_factor", scale_factor), ("up_group", up_group)):
            if value != 1:
                raise ValueError(f"FreqFusion: {name} must be 1, got {value}; the official forward crashes otherwise")
        for name, value in (
            ("hr_channels", hr_channels),
            ("lr_channels", lr_channels),
            ("compressed_channels", compressed_channels),
            ("encoder_dilation", encoder_dilation),
        ):
            if value < 1:
                raise ValueError(f"FreqFusion: {name} must be at least 1, got {value}")
        for name, value in (
            ("lowpass_kernel", lowpass_kernel),
            ("highpass_kernel", highpass_kernel),
            ("encoder_kernel", encoder_kernel),
        ):
            if value < 1 or value % 2 == 0:
                raise ValueError(f"FreqFusion: {name} must be odd and positive, got {value}")
        if padding not in PADDINGS:
            raise ValueError(f"FreqFusion: padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        if semi_conv and comp_feat_upsample and not use_high_pass:
            raise ValueError(
                "FreqFusion: use_high_pass=False needs comp_feat_upsample=False or semi_conv=False; "
                "the official forward raises NotImplementedError"
            )
        if not use_low_pass:
            warnings.warn("FreqFusion: use_low_pass=False has no effect, as in the official code", stacklevel=2)
        self.lowpass_kernel = lowpass_kernel
        self.highpass_kernel = highpass_kernel
        self.align_corners = align_corners
        self.upsample_mode = upsample_mode
        self.feature_resample = feature_resample
        self.comp_feat_upsample = comp_feat_upsample
        self.use_high_pass = use_high_pass
        self.hr_residual = hr_residual
        self.semi_conv = semi_conv
        self.padding = padding

        def encoder(taps: int) -> nn.Conv2d:
            padding = (encoder_kernel - 1) * encoder_dilation // 2
            return nn.Conv2d(compressed_channels, taps, encoder_kernel, padding=padding, dilation=encoder_dilation)

        self.hr_channel_compressor = nn.Conv2d(hr_channels, compressed_channels, 1)
        self.lr_channel_compressor = nn.Conv2d(lr_channels, compressed_channels, 1)
        self.content_encoder = encoder(lowpass_kernel**2)
        if feature_resample:
            self.dysampler = LocalSimGuidedSampler(
                compressed_channels,
                groups=feature_resample_group,
                kernel_size=encoder_kernel,
                norm=feature_resample_norm,
                direction_feat=direction_feat,
            )
        if use_high_pass:
            self.content_encoder2 = encoder(highpass_kernel**2)
        sizes = (lowpass_kernel, highpass_kernel)
        self.register_windows(*(hamming2d(size) if hamming_window else torch.ones(1) for size in sizes))
        self._initialize()

    def _initialize(self) -> None:
        """Initialises for training as the official code does."""
        for module in (self.hr_channel_compressor, self.lr_channel_compressor):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in (self.content_encoder, *([self.content_encoder2] if self.use_high_pass else [])):
            nn.init.normal_(module.weight, std=0.001)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, hr_feat: Tensor, lr_feat: Tensor, use_checkpoint: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Fuses the two maps.

        Args:
            hr_feat: ``(N, hr_channels, 2h, 2w)``.
            lr_feat: ``(N, lr_channels, h, w)``; any other size too without ``semi_conv`` and ``feature_resample``.
            use_checkpoint: Whether to trade time for memory in training.

        Returns:
            The normalised low-pass taps ``(N, lowpass_kernel**2, 2h, 2w)``, the sharpened ``hr_feat`` and the
            upsampled ``lr_feat``, both ``(N, ., 2h, 2w)``.

        Raises:
            ValueError: If the sizes of the two maps do not fit.
        """
        if use_checkpoint and self.training:
            from torch.utils.checkpoint import checkpoint

            result: tuple[Tensor, Tensor, Tensor] = checkpoint(self._fuse, hr_feat, lr_feat, use_reentrant=False)
            return result
        return self._fuse(hr_feat, lr_feat)

    def check_sizes(self, hr_feat: Tensor, lr_feat: Tensor) -> None:
        """Raises ``ValueError`` unless the maps' sizes fit."""
        h, w = lr_feat.shape[2:]
        if (self.semi_conv or self.feature_resample) and hr_feat.shape[2:] != (2 * h, 2 * w):
            raise ValueError(
                f"FreqFusion: hr_feat must be twice the size of lr_feat, {2 * h} x {2 * w}, "
                f"got {hr_feat.shape[2]} x {hr_feat.shape[3]}"
            )

    def _fuse(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.check_sizes(hr_feat, lr_feat)
        self.refresh_windows()
        hr = self.hr_channel_compressor(hr_feat)
        lr = self.lr_channel_compressor(lr_feat)
        low: Tensor
        high: Tensor | None = None
        if self.semi_conv and self.comp_feat_upsample:
            low, high, hr = self._logits_by_filters(hr, lr)
        elif self.semi_conv:
            low = self.content_encoder(hr) + _nearest_like(self.content_encoder(lr), hr)
            if self.use_high_pass:
                high = self.content_encoder2(hr) + _nearest_like(self.content_encoder2(lr), hr)
        else:
            both = hr + _nearest_like(lr, hr)
            low = self.content_encoder(both)
            if self.use_high_pass:
                high = self.content_encoder2(both)

        if self.semi_conv:
            lr_out = self._lowpass(lr_feat, low, 2)
        else:
            align_corners = None if self.upsample_mode == "nearest" else self.align_corners
            lr_out = F.interpolate(lr_feat, hr_feat.shape[2:], mode=self.upsample_mode, align_corners=align_corners)
            lr_out = self._lowpass(lr_out, low, 1)
        hr_out = hr_feat
        if high is not None:
            hr_out = self._highpass(hr_feat, high, FilterMode.SHARPEN if self.hr_residual else FilterMode.HIGHPASS)
        if self.feature_resample:
            lr_out = self.dysampler(hr, lr, lr_out)
        return normalize_taps(low, self._lowpass_window, self.lowpass_kernel), hr_out, lr_out

    def _logits_by_filters(self, hr: Tensor, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicts filter logits by path A: LR's logits are upsampled by the filters predicted so far.

        Args:
            hr: ``(N, C, 2h, 2w)`` compressed HR.
            lr: ``(N, C, h, w)`` compressed LR.

        Returns:
            Low-pass logits, high-pass logits, and ``hr`` sharpened, which the resampler needs too.
        """
        high = self.content_encoder2(hr)
        hr = self._highpass(hr, high, FilterMode.SHARPEN)
        low = self.content_encoder(hr)
        low = low + self._lowpass(self.content_encoder(lr), low, 2)
        high = high + self._lowpass(self.content_encoder2(lr), low, 2)
        return low, high, hr


def _nearest_like(features: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(features, target.shape[2:], mode="nearest")
