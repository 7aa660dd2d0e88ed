# SPDX-License-Identifier: Apache-2.0
"""The offset generator of FreqFusion: moves pixels towards neighbours that resemble them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.ops.local_similarity import local_similarity
from freqfusion.ops.offset_resample import offset_resample

DIRECTION_FEATURES = ("sim", "sim_concat")


class LocalSimGuidedSampler(nn.Module):
    """Predicts an offset per output pixel from local similarity, and resamples a map by it.

    Args:
        in_channels: Channels C of the compressed maps; with ``norm`` at least 8, and a multiple of ``C // 8``.
        groups: Channel groups G of the resampled map that share offsets; divides C.
        kernel_size: Side of the four convolutions; odd.
        use_direct_scale: Whether a sigmoid branch scales the offsets, or the constant 0.25. FreqFusion always does.
        local_window: Side of the similarity's neighbourhood.
        norm: Whether the compressed maps go through group normalisation.
        direction_feat: ``sim``: offsets from similarity, scales from features; ``sim_concat``: both from both.

    Raises:
        ValueError: For a ``direction_feat``, ``in_channels`` or ``groups`` that does not fit.

    Source: class ``LocalSimGuidedSampler`` in the official ``FreqFusion.py``; its style ``pl`` and scales other than 2
    are unreachable there and absent here.
    """

    init_pos: Tensor

    def __init__(
        self,
        in_channels: int,
        groups: int = 4,
        kernel_size: int = 1,
        use_direct_scale: bool = True,
        local_window: int = 3,
        norm: bool = True,
        direction_feat: str = "sim_concat",
    ) -> None:
        super().__init__()
        if direction_feat not in DIRECTION_FEATURES:
            raise ValueError(f"direction_feat must be one of {DIRECTION_FEATURES}, got {direction_feat!r}")
        if norm and (in_channels < 8 or in_channels % (in_channels // 8)):
            raise ValueError(
                f"compressed channels are normalised in C // 8 groups, so C must be at least 8 and a multiple of that, "
                f"got {in_channels}; take another number, or no norm"
            )
        if groups < 1 or in_channels % groups:
            raise ValueError(f"groups must divide the {in_channels} compressed channels, got {groups}")
        if not use_direct_scale and direction_feat != "sim_concat":
            raise ValueError(f"use_direct_scale=False needs direction_feat 'sim_concat', got {direction_feat!r}")
        self.groups = groups
        self.local_window = local_window
        self.direction_feat = direction_feat
        self.use_direct_scale = use_direct_scale
        similarity = local_window**2 - 1
        concat = in_channels + similarity
        scale_inputs = in_channels if direction_feat == "sim" else concat
        offset_inputs = similarity if direction_feat == "sim" else concat

        def convolution(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)

        self.offset = convolution(offset_inputs, 8 * groups)
        if use_direct_scale:
            self.direct_scale = convolution(scale_inputs, 8 * groups)
        self.hr_offset = convolution(offset_inputs, 2 * groups)
        if use_direct_scale:
            self.hr_direct_scale = convolution(scale_inputs, 2 * groups)
        self.norm_hr: nn.Module = nn.GroupNorm(in_channels // 8, in_channels) if norm else nn.Identity()
        self.norm_lr: nn.Module = nn.GroupNorm(in_channels // 8, in_channels) if norm else nn.Identity()
        self.register_buffer("init_pos", self._identity_offsets())
        self._initialize()

    def _initialize(self) -> None:
        """Starts at the identity for training, as the official code does."""
        for module in (self.offset, self.hr_offset):
            nn.init.normal_(module.weight, std=0.001)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in (self.direct_scale, self.hr_direct_scale) if self.use_direct_scale else ():
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def _identity_offsets(self) -> Tensor:
        """Returns the ``(1, 8G, 1, 1)`` offsets, in LR pixels, that read every HR pixel where it is."""
        side = torch.tensor([-0.25, 0.25])
        x = side.repeat(2)  # (i, j) row-major: j moves x
        y = side.repeat_interleave(2)
        return torch.cat((x.repeat(self.groups), y.repeat(self.groups))).reshape(1, -1, 1, 1)

    def get_offset(self, hr_x: Tensor, lr_x: Tensor) -> Tensor:
        """Predicts the offsets.

        Args:
            hr_x: ``(N, C, 2h, 2w)`` compressed (sharpened) HR.
            lr_x: ``(N, C, h, w)`` compressed LR.

        Returns:
            ``(N, 8G, h, w)`` in LR pixels, ``init_pos`` included; layout as ``offset_resample`` takes it.
        """
        hr, lr = self.norm_hr(hr_x), self.norm_lr(lr_x)
        hr_sim = local_similarity(hr, self.local_window, 2)
        lr_sim = local_similarity(lr, self.local_window, 2)
        if self.direction_feat == "sim_concat":
            hr_sim = hr = torch.cat((hr, hr_sim), dim=1)
            lr_sim = lr = torch.cat((lr, lr_sim), dim=1)
        if not self.use_direct_scale:
            unscaled: Tensor = self.offset(lr) + F.pixel_unshuffle(self.hr_offset(hr), 2)
            return 0.25 * unscaled + self.init_pos
        offset: Tensor = self.offset(lr_sim) + F.pixel_unshuffle(self.hr_offset(hr_sim), 2)
        scale = self.direct_scale(lr) + F.pixel_unshuffle(self.hr_direct_scale(hr), 2)
        scaled: Tensor = offset * scale.sigmoid() + self.init_pos
        return scaled

    def forward(self, hr_x: Tensor, lr_x: Tensor, feat2sample: Tensor) -> Tensor:
        """Resamples ``feat2sample`` ``(N, F, 2h, 2w)`` by the predicted offsets; G divides F."""
        resampled: Tensor = offset_resample(feat2sample, self.get_offset(hr_x, lr_x), self.groups)
        return resampled
