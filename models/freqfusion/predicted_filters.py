# SPDX-License-Identifier: Apache-2.0
"""What modules with FreqFusion's predicted filters share: windows, as buffers and as attributes, and padding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.ops.adaptive_filter import FilterMode, adaptive_filter
from freqfusion.ops.padding import Padding

PADDINGS = {"zeros": Padding.ZEROS, "reflect": Padding.REFLECT}


class PredictedFilters(nn.Module):
    """Base of modules that filter maps by logits they predict.

    Subclasses set ``lowpass_kernel`` and ``highpass_kernel`` and call ``register_windows``.

    Attributes:
        padding: What filters read outside the maps: a key of ``PADDINGS``.
    """

    hamming_lowpass: Tensor
    hamming_highpass: Tensor
    lowpass_kernel: int
    highpass_kernel: int
    padding = "zeros"  # of modules pickled before there was a choice

    def register_windows(self, lowpass: Tensor, highpass: Tensor) -> None:
        """Takes the factors of the taps, ``kernel ** 2`` or a single one each, as buffers."""
        self.register_buffer("hamming_lowpass", lowpass)
        self.register_buffer("hamming_highpass", highpass)
        self.read_windows()
        self.register_load_state_dict_post_hook(_read_windows)

    def read_windows(self) -> None:
        """Takes the window buffers as they are now, for a trace, which cannot read them.

        Operators take the windows as attributes. A forward without tracing reads them itself.

        Raises:
            ValueError: If a factor is negative or not finite.
        """
        if self.hamming_lowpass.is_meta:
            return  # nothing to read before weights are loaded
        self._lowpass_window = self._window("hamming_lowpass", self.lowpass_kernel)
        self._highpass_window = self._window("hamming_highpass", self.highpass_kernel)

    def refresh_windows(self) -> None:
        """The same at the start of a forward, where nothing traces it."""
        if not torch.compiler.is_compiling() and type(self.hamming_lowpass) is Tensor:
            self.read_windows()

    def _window(self, name: str, kernel_size: int) -> list[float]:
        values: list[float] = getattr(self, name).detach().double().flatten().tolist()
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"FreqFusion: buffer {name} must hold finite factors, none negative, got {values}")
        return values * (kernel_size**2) if len(values) == 1 else values

    def _lowpass(self, features: Tensor, logits: Tensor, scale: int) -> Tensor:
        padding, mode = int(PADDINGS[self.padding]), int(FilterMode.LOWPASS)
        window, kernel_size = self._lowpass_window, self.lowpass_kernel
        filtered: Tensor = adaptive_filter(features, logits, window, kernel_size, 1, scale, mode, padding)
        return filtered

    def _highpass(self, features: Tensor, logits: Tensor, mode: FilterMode) -> Tensor:
        padding, window = int(PADDINGS[self.padding]), self._highpass_window
        filtered: Tensor = adaptive_filter(features, logits, window, self.highpass_kernel, 1, 1, int(mode), padding)
        return filtered


def _read_windows(module: PredictedFilters, _: Any) -> None:
    module.read_windows()
