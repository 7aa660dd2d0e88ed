# SPDX-License-Identifier: Apache-2.0
"""SegNeXt's decode head with FreqFusion: fused multi-scale features through a matrix factorisation (Hamburger)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.fusion import FreqFusion


def draw_bases(channels: int, rank: int, seed: int) -> Tensor:
    """Draws the initial bases of a factorisation: ``(channels, rank)``, in ``[0, 1)``."""
    return torch.rand(channels, rank, generator=torch.Generator().manual_seed(seed))


class NMF2D(nn.Module):
    """Reconstructs a map from a non-negative matrix factorisation, fitted anew to each image.

    Args:
        channels: D.
        rank: Number of bases R.
        steps: Multiplicative updates; 7 in evaluation.
        bases_seed: Seed of the initial bases.

    Source: ``NMF2D`` of the official ``ham_head.py``, which draws random bases at every forward, so that two runs of
    the official model differ by 12-15 % rms of the logits. Here they are a non-persistent buffer ``bases`` ``(D, R)``
    of raw values in ``[0, 1)``, drawn once, so that the model is a function and an exported file can hold it. mmcv
    saves such buffers too; those of a state_dict are taken, and ``bases_seed`` is None if they are not the seed's.
    """

    bases: Tensor
    bases_seed: int | None

    def __init__(self, channels: int = 256, rank: int = 16, steps: int = 7, bases_seed: int = 0) -> None:
        super().__init__()
        self.steps = steps
        self.bases_seed = bases_seed
        self.register_buffer("bases", draw_bases(channels, rank, bases_seed), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Approximates ``x`` ``(N, D, h, w)``, not negative, by a product of rank R."""
        n, channels, h, w = x.shape
        pixels = x.flatten(2)  # (N, D, P)
        bases = F.normalize(self.bases, dim=0).expand(n, -1, -1)  # (N, D, R)
        # Coefficients are kept as (R, P), so that only small matrices are ever transposed.
        coefficients = (bases.transpose(1, 2) @ pixels).softmax(dim=1)
        for _ in range(self.steps):
            coefficients = self._updated_coefficients(pixels, bases, coefficients)
            transposed = coefficients.transpose(1, 2)
            bases = bases * (pixels @ transposed) / (bases @ (coefficients @ transposed) + 1e-6)
        coefficients = self._updated_coefficients(pixels, bases, coefficients)
        return (bases @ coefficients).reshape(n, channels, h, w)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.pop(f"{prefix}bases", None)
        if saved is not None and not torch.equal(saved.to(self.bases), self.bases):
            self.bases.copy_(saved)
            self.bases_seed = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @staticmethod
    def _updated_coefficients(pixels: Tensor, bases: Tensor, coefficients: Tensor) -> Tensor:
        transposed = bases.transpose(1, 2)
        return coefficients * (transposed @ pixels) / (transposed @ bases @ coefficients + 1e-6)


class _ConvModule(nn.Module):
    """A 1 x 1 convolution with optional group normalisation and ReLU, under mmcv's attribute names."""

    def __init__(self, inputs: int, outputs: int, norm: bool = True, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=not norm)
        if norm:
            self.gn = nn.GroupNorm(32, outputs)
        self.norm = norm
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm:
            x = self.gn(x)
        return F.relu(x) if self.relu else x


class _Hamburger(nn.Module):
    def __init__(self, channels: int, rank: int, steps: int, bases_seed: int) -> None:
        super().__init__()
        self.ham_in = _ConvModule(channels, channels, norm=False, relu=False)
        self.ham = NMF2D(channels, rank, steps, bases_seed)
        self.ham_out = _ConvModule(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class BilinearFusion(nn.Module):
    """What FreqFusion replaces: the coarse map resized bilinearly. Same interface, no parameters.

    Source: ``LightHamHead`` of the official SegNeXt, which resizes and concatenates.
    """

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[None, Tensor, Tensor]:
        """Returns None for the filter, ``hr_feat`` as it is, and ``lr_feat`` at its size."""
        resized = F.interpolate(lr_feat, hr_feat.shape[2:], mode="bilinear", align_corners=False)
        return None, hr_feat, resized


def interleave(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Concatenates two maps block by block: a's first quarter of channels, b's first quarter, a's second, ...

    The official head does so whenever features are resampled; a plain concatenation flips 48 % of the labels.
    """
    n, _, h, w = a.shape
    blocks = [x.reshape(n, groups, -1, h, w) for x in (a, b)]
    return torch.cat(blocks, dim=2).reshape(n, -1, h, w)


class HamHead(nn.Module):
    """Fuses the maps of stages 2, 3 and 4 from coarse to fine and classifies each pixel at stride 8.

    Args:
        in_channels: Channels of the three maps, fine to coarse.
        channels: Width of the Hamburger.
        num_classes: Classes. With one, the head has two after all: see ``threshold``.
        fusion: ``freqfusion``, or ``bilinear`` for the twin that shows FreqFusion's price.
        bases_seed: Seed of the factorisation's bases.
        threshold: Of one class: the probability above which a pixel is of it.
        nmf_rank: Number of bases; official configurations have ``MD_R`` 16.
        nmf_steps: Updates of the factorisation.
        options: Further ones of :class:`FreqFusion` that the weights do not show, such as ``semi_conv``.

    Source: ``LightHamHeadFreqAware`` in the official ``ham_head.py`` with the settings of
    ``segnext.tiny.freqfusion.512x512.ade.160k.py``.
    """

    resample_groups = 4

    def __init__(
        self,
        in_channels: Sequence[int] = (64, 160, 256),
        channels: int = 256,
        num_classes: int = 150,
        fusion: str = "freqfusion",
        bases_seed: int = 0,
        threshold: float = 0.3,
        nmf_rank: int = 16,
        nmf_steps: int = 7,
        **options: Any,
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"HamHead: threshold must be between 0 and 1, got {threshold}")
        self.threshold_logit = math.log(threshold / (1 - threshold))
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.squeeze = _ConvModule(sum(in_channels), channels)
        self.hamburger = _Hamburger(channels, nmf_rank, nmf_steps, bases_seed)
        self.align = _ConvModule(channels, channels)
        self.freqfusions = nn.ModuleList()
        self.interleaved = fusion == "freqfusion"
        coarse = in_channels[-1]
        for fine in reversed(in_channels[:-1]):
            self.freqfusions.append(
                self._freqfusion(fine, coarse, options) if fusion == "freqfusion" else BilinearFusion()
            )
            coarse += fine

    def _freqfusion(self, fine: int, coarse: int, options: Mapping[str, Any]) -> FreqFusion:
        return FreqFusion(
            fine,
            coarse,
            compressed_channels=(fine + coarse) // 4,
            feature_resample=True,
            feature_resample_group=self.resample_groups,
            hamming_window=False,
            direction_feat="sim",
            **options,
        )

    @property
    def num_labels(self) -> int:
        """Channels of the logits: the classes, or background and the one class."""
        return max(2, self.conv_seg.out_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Returns logits ``(N, num_classes, h, w)`` at the size of ``features[0]``; of one class ``(N, 2, h, w)``.

        One class is for mmseg a probability by sigmoid, and a pixel is of it above the threshold. The same is the
        larger of two logits, the threshold's, which is everywhere the same and resizing leaves so, and the class's.

        Args:
            features: Maps from fine to coarse, each half the size of the one before.
        """
        *finer, x = features
        for fusion, fine in zip(self.freqfusions, reversed(finer), strict=True):
            _, hr, lr = fusion(fine, x)
            x = interleave(hr, lr, self.resample_groups) if self.interleaved else torch.cat((hr, lr), dim=1)
        logits: Tensor = self.conv_seg(self.align(self.hamburger(self.squeeze(x))))
        if self.conv_seg.out_channels == 1:
            logits = torch.cat((torch.full_like(logits, self.threshold_logit), logits), dim=1)
        return logits
