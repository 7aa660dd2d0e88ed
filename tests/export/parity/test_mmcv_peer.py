# SPDX-License-Identifier: Apache-2.0
"""What is done around mmcv's CARAFE. Its kernel needs CUDA; elsewhere a stand-in by definition shows the wiring."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from freqfusion import FreqFusion, native
from freqfusion.ops.adaptive_filter import FilterMode, filter_features
from freqfusion.ops.carafe import reassemble
from freqfusion_export.parity import mmcv_peer


@pytest.fixture
def stand_in(monkeypatch):
    package, ops = types.ModuleType("mmcv"), types.ModuleType("mmcv.ops")

    def carafe(features, masks, kernel_size, group_size, scale_factor):
        assert features.is_contiguous()
        assert masks.is_contiguous()
        return reassemble(features, masks, kernel_size, group_size, scale_factor)

    ops.carafe = carafe
    monkeypatch.setitem(sys.modules, "mmcv", package)
    monkeypatch.setitem(sys.modules, "mmcv.ops", ops)


@pytest.mark.parametrize("mode", list(FilterMode))
def test_the_filter_around_mmcv_is_ours(stand_in, mode):
    torch.manual_seed(0)
    x, logits = torch.randn(2, 6, 5, 7).transpose(2, 3).transpose(2, 3), torch.randn(2, 9, 5, 7)
    arguments = (x.to(memory_format=torch.channels_last), logits, [0.5] * 9, 3, 1, 1, int(mode))
    torch.testing.assert_close(mmcv_peer.adaptive_filter(*arguments), filter_features(*arguments))


def test_modules_filter_by_mmcv_within_the_block_only(stand_in):
    torch.manual_seed(0)
    module = FreqFusion(8, 8, compressed_channels=8).eval()
    inputs = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)
    with native.disabled():
        expected = module(*inputs)
        with mmcv_peer.mmcv_operators():
            actual = module(*inputs)
    torch.testing.assert_close(actual, expected)
    assert sys.modules["freqfusion.predicted_filters"].adaptive_filter is not mmcv_peer.adaptive_filter


def test_mmcv_does_not_reflect(stand_in):
    module = FreqFusion(8, 8, compressed_channels=8, padding="reflect").eval()
    with mmcv_peer.mmcv_operators(), pytest.raises(ValueError, match=r"pads with zeros \(0\) alone, got padding 1"):
        module(torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4))


def test_it_is_not_available_without_mmcv():
    if importlib.util.find_spec("mmcv") is not None:
        pytest.skip("mmcv is installed here")
    assert not mmcv_peer.is_available()


@pytest.mark.gpu
def test_mmcvs_own_kernel_agrees_with_the_definition():
    if not mmcv_peer.is_available():
        pytest.skip("mmcv is not installed")
    x, logits = torch.randn(1, 16, 8, 12), torch.randn(1, 25, 16, 24)
    expected = filter_features(x, logits, [1.0] * 25, 5, 1, 2, 0)
    actual = mmcv_peer.adaptive_filter(x.cuda(), logits.cuda(), [1.0] * 25, 5, 1, 2, 0)
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-5, rtol=0)
