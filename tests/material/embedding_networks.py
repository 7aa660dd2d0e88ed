# SPDX-License-Identifier: Apache-2.0
"""Networks that embed FreqFusion as people do: in the forms of public repositories, in code of our own.

Every copy computes CARAFE by ``self.carafe``: windows by ``unfold``, padded as the copy pads, or float64 loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import references
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Carafe = Callable[..., Tensor]


def carafe_by_unfold(x: Tensor, mask: Tensor, kernel: int, group: int, padding: str) -> Tensor:
    """Unfolds all windows, enlarges them to the mask's size by nearest neighbour, and weighs them."""
    n, c, h, w = x.shape
    height, width = mask.shape[2:]
    mode = "reflect" if padding == "reflect" else "constant"
    windows = F.unfold(F.pad(x, [kernel // 2] * 4, mode), kernel).view(n, c * kernel**2, h, w)
    windows = F.interpolate(windows, size=(height, width), mode="nearest")
    windows = windows.view(n, group, c // group, kernel**2, height, width)
    return (windows * mask.view(n, group, 1, kernel**2, height, width)).sum(3).view(n, c, height, width)


def carafe_by_loops(x: Tensor, mask: Tensor, kernel: int, group: int, padding: str) -> Tensor:
    """What is right, at exactly once or twice the size."""
    arrays = (x.detach().double().numpy(), mask.detach().double().numpy())
    scale = mask.shape[2] // x.shape[2]
    out = references.carafe(*arrays, kernel, group, scale, int(padding == "reflect"))
    return torch.from_numpy(out).to(x.dtype)


def carafe_of_a_gpu(*_: Any) -> Tensor:
    raise NotImplementedError("carafe_forward_impl: implementation for device cpu not found.")


def hamming(kernel: int) -> Tensor:
    return torch.from_numpy(np.outer(np.hamming(kernel), np.hamming(kernel))).float()[None, None]


def normalized(logits: Tensor, window: Tensor) -> Tensor:
    """Softmax over all channels, times the window, divided by the sum."""
    taps = logits.softmax(1) * window.reshape(1, -1, 1, 1)
    return taps / taps.sum(1, keepdim=True)


class Sampler(nn.Module):
    """The offset generator, with ``grid_sample``."""

    def __init__(self, channels: int, groups: int, norm: bool, direction: str) -> None:
        super().__init__()
        self.groups, self.direction = groups, direction
        concat = channels + 8
        offset_inputs, scale_inputs = (8, channels) if direction == "sim" else (concat, concat)
        self.offset = nn.Conv2d(offset_inputs, 8 * groups, 3, padding=1)
        self.direct_scale = nn.Conv2d(scale_inputs, 8 * groups, 3, padding=1)
        self.hr_offset = nn.Conv2d(offset_inputs, 2 * groups, 3, padding=1)
        self.hr_direct_scale = nn.Conv2d(scale_inputs, 2 * groups, 3, padding=1)
        if norm:
            self.norm_hr = nn.GroupNorm(channels // 8, channels)
            self.norm_lr = nn.GroupNorm(channels // 8, channels)
        else:
            self.norm_hr = self.norm_lr = nn.Identity()
        steps = torch.tensor([-0.25, 0.25])
        start = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))
        self.register_buffer("init_pos", start.flip(0).repeat(1, groups, 1).reshape(1, -1, 1, 1))

    @staticmethod
    def similarity(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        windows = F.unfold(x, 3, dilation=2, padding=2).view(n, c, 9, h, w)
        cosines = F.cosine_similarity(windows[:, :, 4:5], windows, dim=1)
        return torch.cat((cosines[:, :4], cosines[:, 5:]), 1)

    def forward(self, hr: Tensor, lr: Tensor, features: Tensor) -> Tensor:
        hr, lr = self.norm_hr(hr), self.norm_lr(lr)
        hr_sim, lr_sim = self.similarity(hr), self.similarity(lr)
        if self.direction == "sim_concat":
            hr_sim = hr = torch.cat((hr, hr_sim), 1)
            lr_sim = lr = torch.cat((lr, lr_sim), 1)
        offset = self.offset(lr_sim) + F.pixel_unshuffle(self.hr_offset(hr_sim), 2)
        scale = (self.direct_scale(lr) + F.pixel_unshuffle(self.hr_direct_scale(hr), 2)).sigmoid()
        offset = (offset * scale + self.init_pos).view(len(hr), 2, -1, *lr.shape[2:])
        n, _, _, h, w = offset.shape
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        places = torch.stack((x, y)).view(1, 2, 1, h, w).to(offset)
        places = 2 * (places + offset) / torch.tensor([w, h]).view(1, 2, 1, 1, 1).to(offset) - 1
        places = F.pixel_shuffle(places.view(n, -1, h, w), 2).view(n, 2, self.groups, 2 * h, 2 * w)
        places = places.permute(0, 2, 3, 4, 1).flatten(0, 1)
        blocks = features.reshape(n * self.groups, -1, 2 * h, 2 * w)
        sampled = F.grid_sample(blocks, places, mode="bilinear", align_corners=False, padding_mode="border")
        return sampled.view(n, -1, 2 * h, 2 * w)


class FreqFusion(nn.Module):
    """A copy in the official form: two maps in, three out.

    Args:
        hr_channels: Of the fine map.
        lr_channels: Of the coarse map.
        padding: As its ``carafe`` pads.
        carafe: Computes CARAFE.
        says: Whether its options are attributes, as in the official class; trimmed copies have none.
    """

    def __init__(
        self,
        hr_channels: int,
        lr_channels: int,
        compressed_channels: int = 16,
        padding: str = "zeros",
        carafe: Carafe = carafe_by_unfold,
        kernels: tuple[int, int] = (5, 3),
        encoder_kernel: int = 3,
        feature_resample: bool = False,
        feature_resample_group: int = 4,
        feature_resample_norm: bool = True,
        direction_feat: str = "sim_concat",
        hamming_window: bool = True,
        semi_conv: bool = True,
        comp_feat_upsample: bool = True,
        use_high_pass: bool = True,
        hr_residual: bool = True,
        says: bool = True,
    ) -> None:
        super().__init__()
        self._pad, self.carafe = padding, carafe
        self._switches = (semi_conv, comp_feat_upsample, use_high_pass, hr_residual)
        if says:
            self.semi_conv, self.comp_feat_upsample, self.use_high_pass, self.hr_residual = self._switches
            self.feature_resample = feature_resample
        self.hr_channel_compressor = nn.Conv2d(hr_channels, compressed_channels, 1)
        self.lr_channel_compressor = nn.Conv2d(lr_channels, compressed_channels, 1)

        def encoder(kernel: int) -> nn.Conv2d:
            return nn.Conv2d(compressed_channels, kernel**2, encoder_kernel, padding=encoder_kernel // 2)

        self.content_encoder = encoder(kernels[0])
        if use_high_pass:
            self.content_encoder2 = encoder(kernels[1])
        if feature_resample:
            self.dysampler = Sampler(compressed_channels, feature_resample_group, feature_resample_norm, direction_feat)
        for name, kernel in zip(("hamming_lowpass", "hamming_highpass"), kernels, strict=True):
            self.register_buffer(name, hamming(kernel) if hamming_window else torch.ones(1))

    def _filter(self, x: Tensor, taps: Tensor) -> Tensor:
        return self.carafe(x, taps, round(int(taps.shape[1]) ** 0.5), 1, self._pad)

    def _forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        semi, upsample, high_pass, residual = self._switches
        low_window, high_window = self.hamming_lowpass, self.hamming_highpass
        hr, lr = self.hr_channel_compressor(hr_feat), self.lr_channel_compressor(lr_feat)
        size = hr.shape[2:]
        high = None
        if semi and upsample:
            own = self.content_encoder2(hr)
            hr = 2 * hr - self._filter(hr, normalized(own, high_window))
            low = self.content_encoder(hr)
            low = low + self._filter(self.content_encoder(lr), normalized(low, low_window))
            high = own + self._filter(self.content_encoder2(lr), normalized(low, low_window))
        elif semi:
            low = self.content_encoder(hr) + F.interpolate(self.content_encoder(lr), size, mode="nearest")
            if high_pass:
                high = self.content_encoder2(hr) + F.interpolate(self.content_encoder2(lr), size, mode="nearest")
        else:
            both = hr + F.interpolate(lr, size, mode="nearest")
            low = self.content_encoder(both)
            high = self.content_encoder2(both) if high_pass else None
        taps = normalized(low, low_window)
        lr_feat = self._filter(lr_feat if semi else F.interpolate(lr_feat, size, mode="nearest"), taps)
        if high is not None:
            sharp = hr_feat - self._filter(hr_feat, normalized(high, high_window))
            hr_feat = hr_feat + sharp if residual else sharp
        if hasattr(self, "dysampler"):
            lr_feat = self.dysampler(hr, lr, lr_feat)
        return taps, hr_feat, lr_feat

    def forward(self, hr_feat: Tensor, lr_feat: Tensor, use_checkpoint: bool = False) -> Any:
        if hr_feat.shape[2:] != (2 * lr_feat.shape[2], 2 * lr_feat.shape[3]) and self._switches[0]:
            raise AssertionError("m_h == up * h")
        return self._forward(hr_feat, lr_feat)


class ListSum(FreqFusion):
    """As in YOLO graphs: ``[hr, lr]`` in, the sum out."""

    def forward(self, x: list[Tensor]) -> Any:
        hr, lr = x
        _, hr, lr = super().forward(hr, lr)
        return hr + lr


class ReversedListCat(FreqFusion):
    """``[lr, hr]`` in, both concatenated out, and fine maps of any size."""

    def forward(self, x: list[Tensor]) -> Any:
        lr, hr = x
        _, hr, lr = self._forward(hr, lr)
        return torch.cat((lr, hr), 1)


class Trimmed(FreqFusion):
    """Gives the two maps alone and says nothing of itself."""

    def __init__(self, hr_channels: int, lr_channels: int, **options: Any) -> None:
        super().__init__(hr_channels, lr_channels, says=False, **options)

    def forward(self, fine: Tensor, coarse: Tensor) -> Any:
        return super().forward(fine, coarse)[1:]


class TwoStages(nn.Module):
    """FreqFusion1x and 2x: every filter from both maps, the sum out. Some maps are rounded to fp16 on the way."""

    def __init__(self, hr_channels: int, lr_channels: int, padding: str = "zeros", halves: bool = False) -> None:
        super().__init__()
        self._pad, self._halves = padding, halves
        compressed = 8
        self.hr_channel_compressor = nn.Conv2d(hr_channels, compressed, 1)
        self.lr_channel_compressor = nn.Conv2d(lr_channels, compressed, 1)
        for name, kernel in (("L1", 5), ("L2", 5), ("H1", 3), ("H2", 3)):
            setattr(self, f"content_encoder{name}", nn.Conv2d(2 * compressed, kernel**2, 3, padding=1))
        self.register_buffer("hamming_lowpass", hamming(5))
        self.register_buffer("hamming_highpass", hamming(3))

    def _filter(self, x: Tensor, taps: Tensor, rounds: bool = True) -> Tensor:
        kernel = round(taps.shape[1] ** 0.5)
        if self._halves and rounds:
            return carafe_by_unfold(x.half().float(), taps.half().float(), kernel, 1, self._pad).half()
        return carafe_by_unfold(x, taps, kernel, 1, self._pad)

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        hr, lr = self.hr_channel_compressor(hr_feat), self.lr_channel_compressor(lr_feat)
        lr = F.interpolate(lr, hr.shape[2:], mode="nearest")
        both = torch.cat((hr, lr), 1)
        sharp = 2 * hr - self._filter(hr, normalized(self.content_encoderH1(both), self.hamming_highpass))
        smooth = self._filter(lr, normalized(self.content_encoderL1(both), self.hamming_lowpass))
        both = torch.cat((sharp, smooth), 1)
        low = normalized(self.content_encoderL2(both), self.hamming_lowpass)
        high = normalized(self.content_encoderH2(both), self.hamming_highpass)
        return 2 * hr_feat - self._filter(hr_feat, high, rounds=False) + self._filter(lr_feat, low)


class CARAFEPack(nn.Module):
    """mmcv's upsampler, as a module that predicts its own filters."""

    def __init__(self, channels: int, scale_factor: int, up_kernel: int = 5, up_group: int = 1) -> None:
        super().__init__()
        self.channels, self.scale_factor, self.up_kernel, self.up_group = channels, scale_factor, up_kernel, up_group
        self.channel_compressor = nn.Conv2d(channels, 8, 1)
        self.content_encoder = nn.Conv2d(8, up_kernel**2 * up_group * scale_factor**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mask = F.pixel_shuffle(self.content_encoder(self.channel_compressor(x)), self.scale_factor)
        mask = mask.unflatten(1, (self.up_group, -1)).softmax(2).flatten(1, 2)
        return carafe_by_unfold(x, mask, self.up_kernel, self.up_group, "zeros")


class CARAFE(nn.Module):
    """mmcv's operator, as a module."""

    def __init__(self, kernel_size: int, group_size: int, scale_factor: int, runs: bool = True) -> None:
        super().__init__()
        self.kernel_size, self.group_size, self.scale_factor = kernel_size, group_size, scale_factor
        self._runs = runs

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        if not self._runs:
            return carafe_of_a_gpu()
        return carafe_by_unfold(features, masks, self.kernel_size, self.group_size, "zeros")


class Pair(nn.Module):
    """The least network around a fusion: a stem, a step down, and the fusion called as its form wants.

    Args:
        fusion: Takes maps of 8 and 12 channels.
        inputs: How it is called, as in ``freqfusion.adoption.forms.INPUTS``.
        down: The step; halves the map and rounds up unless it is said.
    """

    def __init__(self, fusion: nn.Module, inputs: str = "hr, lr", down: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = down or nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fusion = fusion
        self._inputs = inputs

    def forward(self, image: Tensor) -> Any:
        hr = self.stem(image)
        maps = [hr, self.down(hr)]
        if "lr, hr" in self._inputs:
            maps.reverse()
        return self.fusion(maps) if "[" in self._inputs else self.fusion(*maps)


class UNet(nn.Module):
    """A U-Net whose every step up is a FreqFusion and two convolutions: 5 M parameters at ``width`` 32.

    Args:
        width: Channels of the finest map; each of the four coarser ones has twice as many, up to 256.
        padding: As its FreqFusions pad.
    """

    def __init__(self, width: int = 32, padding: str = "reflect", classes: int = 3) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width, 8 * width]

        def block(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (inputs, outputs):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            return nn.Sequential(*layers)

        self.encoders = nn.ModuleList(block(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        pairs = list(zip(sizes[-2::-1], sizes[:0:-1], strict=True))
        self.fusions = nn.ModuleList(FreqFusion(hr, lr, 64, padding) for hr, lr in pairs)
        self.decoders = nn.ModuleList(block(hr + lr, hr) for hr, lr in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        maps = []
        x = image
        for i, encoder in enumerate(self.encoders):
            x = encoder(F.max_pool2d(x, 2) if i else x)
            maps.append(x)
        for hr, fusion, decoder in zip(maps[-2::-1], self.fusions, self.decoders, strict=True):
            _, hr, x = fusion(hr, x)
            x = decoder(torch.cat((hr, x), 1))
        return self.head(x)


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights that matter, in evaluation mode: filters as initialised are nearly even."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(values * (0.7 / parameter[0].numel() ** 0.5))
            else:
                parameter.copy_(0.1 * values + (0 if name.endswith("bias") else 1))
    return network.eval()
