# SPDX-License-Identifier: Apache-2.0
"""Every form in which public networks embed FreqFusion is adopted, and computes what it computed."""

from __future__ import annotations

import copy
from typing import Any

import freqfusion
import pytest
import torch
from embedding_networks import (
    CARAFE,
    CARAFEPack,
    FreqFusion,
    ListSum,
    Pair,
    ReversedListCat,
    Trimmed,
    TwoStages,
    carafe_by_loops,
    carafe_by_unfold,
    filled,
)
from freqfusion.adoption.proving import difference
from torch import Tensor, nn

pytestmark = pytest.mark.numerics

SAME = 1e-5  # standard deviations: fp32 differs from fp64 by 3 to 6 millionths (DESIGN)
OFFICIAL = "hr, lr -> (taps, hr, lr)"


def official(**options: Any) -> Any:
    return lambda padding: Pair(FreqFusion(8, 12, padding=padding, **options))


def same_channels() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, stride=2, padding=1)


FORMS = {
    "two numbers": (official(), OFFICIAL, {}),
    "as in OffSeg": (
        official(feature_resample=True, hamming_window=False),
        OFFICIAL,
        {"feature_resample": True, "hamming_window": False},
    ),
    "as in SegNeXt": (
        official(feature_resample=True, direction_feat="sim", feature_resample_norm=False, feature_resample_group=2),
        OFFICIAL,
        {"direction_feat": "sim", "feature_resample_norm": False, "feature_resample_group": 2},
    ),
    "other kernels": (
        official(kernels=(7, 5), encoder_kernel=1, compressed_channels=9),
        OFFICIAL,
        {"lowpass_kernel": 7, "highpass_kernel": 5, "encoder_kernel": 1, "compressed_channels": 9},
    ),
    "old variant": (official(semi_conv=False), OFFICIAL, {"semi_conv": False}),
    "without high pass": (
        official(comp_feat_upsample=False, use_high_pass=False),
        OFFICIAL,
        {"comp_feat_upsample": False, "use_high_pass": False},
    ),
    "list and sum": (
        lambda padding: Pair(ListSum(8, 8, padding=padding), "[hr, lr]", same_channels()),
        "[hr, lr] -> hr + lr",
        {},
    ),
    "list turned round and concatenation": (
        lambda padding: Pair(ReversedListCat(8, 12, padding=padding), "[lr, hr]"),
        "[lr, hr] -> cat(lr, hr)",
        {"resizes": True},
    ),
    "trimmed": (
        lambda padding: Pair(Trimmed(8, 12, padding=padding, comp_feat_upsample=False, hr_residual=False)),
        "hr, lr -> (hr, lr)",
        {"comp_feat_upsample": False, "hr_residual": False},
    ),
    "2x": (lambda padding: Pair(TwoStages(8, 8, padding), down=same_channels()), "hr, lr -> hr + lr", {}),
    "1x": (
        lambda padding: Pair(TwoStages(8, 8, padding), down=nn.Conv2d(8, 8, 3, padding=1)),
        "hr, lr -> hr + lr",
        {},
    ),
}


def in_float64(network: nn.Module, image: Tensor) -> Any:
    """What the network's own arithmetic gives."""
    with torch.no_grad():
        return copy.deepcopy(network).double()(image.double())


def allowed(network: nn.Module, image: Tensor, expected: Any) -> float:
    """How far ours may be off: no less than the network's own fp32 is, which two roundings of sums make twice.

    Where maps are read at predicted places, an error of these becomes one of the map, times its gradient, and by how
    much is a matter of the processor.
    """
    with torch.no_grad():
        return max(SAME, 2 * difference(copy.deepcopy(network)(image), expected))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_found_out_and_computes_the_same(name, padding):
    make, form, options = FORMS[name]
    network = filled(make(padding))
    image = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)

    report = freqfusion.adopt(network, image)

    (module,) = report.adopted
    assert (module.paths, module.form, module.padding) == (("fusion",), form, padding)
    assert options.items() <= module.options.items()
    assert module.error < 1e-4
    assert report.left == ()
    assert report.network_error < 1e-4
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_the_official_form_is_that_of_the_loops(padding):
    network = filled(Pair(FreqFusion(8, 12, padding=padding, carafe=carafe_by_loops)))
    image = torch.randn(1, 3, 14, 18, generator=torch.Generator().manual_seed(2))
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    report = freqfusion.adopt(network, image)
    assert report.adopted[0].padding == padding
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_an_odd_coarse_map_is_half_of_an_even_one(padding):
    network = filled(official()(padding))
    image = torch.randn(1, 3, 98, 50, generator=torch.Generator().manual_seed(3))  # coarse: 49 x 25
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    freqfusion.adopt(network, image)
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


@pytest.mark.parametrize("size", [(23, 19), (24, 19), (27, 33)])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_map_that_is_not_double_is_taken_where_the_original_takes_it(padding, size):
    network = filled(Pair(ReversedListCat(8, 12, padding=padding), "[lr, hr]"))
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4))
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    report = freqfusion.adopt(network)  # found out on random maps
    assert report.adopted[0].options["resizes"]
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


@pytest.mark.parametrize(("fine", "coarse"), [((27, 9), (13, 4)), ((5, 12), (6, 5)), ((23, 33), (12, 17))])
def test_windows_are_enlarged_to_any_size(fine, coarse):
    copied = filled(ReversedListCat(8, 12))
    network = nn.ModuleList([copied]).eval()
    maps = [torch.randn(1, 12, *coarse), torch.randn(1, 8, *fine)]
    with torch.no_grad():
        expected = copy.deepcopy(copied).double()([each.double() for each in maps])
        freqfusion.adopt(network)
        assert network[0] is not copied
        assert difference(network[0](maps), expected) <= SAME


def test_a_map_that_is_not_double_is_refused_where_the_original_refuses_it():
    network = filled(official()("zeros"))
    freqfusion.adopt(network)
    with pytest.raises(ValueError, match="hr_feat must be twice the size of lr_feat, 24 x 20, got 23 x 19"):
        network(torch.randn(1, 3, 23, 19))


def test_a_fusion_of_one_size_refuses_any_other():
    network = filled(FORMS["2x"][0]("zeros"))
    freqfusion.adopt(network)
    with pytest.raises(ValueError, match="of the size of lr_feat, 12 x 10, or twice it, got 23 x 19"):
        network(torch.randn(1, 3, 23, 19))


def test_maps_that_are_rounded_to_half_precision_on_their_way_are_no_obstacle():
    network = filled(Pair(TwoStages(8, 8, halves=True), down=same_channels()))
    report = freqfusion.adopt(network, torch.randn(1, 3, 24, 20))
    assert 1e-5 < report.adopted[0].error < 1e-2


@pytest.mark.parametrize("groups", [1, 2])
def test_mmcvs_upsamplers_are_adopted_alone(groups):
    network = filled(nn.Sequential(nn.Conv2d(3, 8, 3), CARAFEPack(8, 2, 5, groups), nn.Conv2d(8, 4, 1)))
    image = torch.randn(2, 3, 13, 11)
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    report = freqfusion.adopt(network, image)
    assert (report.adopted[0].kind, report.adopted[0].padding) == ("CARAFEPack", "zeros")
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


class OwnMask(nn.Module):
    """A network that makes its mask itself and keeps mmcv's operator as a module."""

    def __init__(self, runs: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mask = nn.Conv2d(3, 2 * 9, 3, padding=1)
        self.up = CARAFE(3, 2, 1, runs)

    def forward(self, image: Tensor) -> Tensor:
        return self.up(self.stem(image), self.mask(image).unflatten(1, (2, 9)).softmax(2).flatten(1, 2))


def test_mmcvs_operator_is_adopted_alone():
    network = filled(OwnMask())
    image = torch.randn(2, 3, 13, 11)
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    report = freqfusion.adopt(network, image)
    assert (report.adopted[0].kind, report.adopted[0].padding) == ("CARAFE", "zeros")
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


def test_mmcvs_operator_pads_with_zeros_where_it_does_not_run(monkeypatch):
    monkeypatch.setattr(CARAFE, "__module__", "mmcv.ops.carafe")
    image = torch.randn(2, 3, 13, 11)
    expected = filled(OwnMask())(image)
    network = filled(OwnMask(runs=False))
    assert freqfusion.adopt(network).adopted[0].padding == "zeros"
    with torch.no_grad():
        assert difference(network(image), expected.detach()) <= SAME


class NormedConv2d(nn.Conv2d):
    """As in mmcv: the weights are divided by their norms at every forward."""

    def forward(self, x: Tensor) -> Tensor:
        norms = self.weight.norm(dim=1, keepdim=True)
        return self._conv_forward(x, self.weight / (norms + 1e-6), self.bias)


def test_convolutions_of_another_class_go_on_computing_as_they_do():
    fusion = FreqFusion(8, 12)
    fusion.content_encoder = NormedConv2d(16, 25, 3, padding=1)
    network = filled(Pair(fusion))
    image = torch.randn(1, 3, 24, 20)
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    freqfusion.adopt(network, image)
    assert isinstance(network.fusion.content_encoder, NormedConv2d)
    with torch.no_grad():
        assert difference(network(image), expected) <= bound


class Three(nn.Module):
    """Three steps of a pyramid with the weights of one fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        shared = ListSum(8, 8, carafe=carafe_by_unfold)
        self.fine, self.middle, self.coarse = shared, shared, shared

    def forward(self, image: Tensor) -> Tensor:
        maps = [self.stem(image)]
        for _ in range(3):
            maps.append(nn.functional.avg_pool2d(maps[-1], 2))
        x = self.coarse([maps[2], maps[3]])
        x = self.middle([maps[1], x])
        return self.fine([maps[0], x])


def test_shared_weights_stay_shared():
    network = filled(Three())
    image = torch.randn(1, 3, 48, 56)
    expected = in_float64(network, image)
    bound = allowed(network, image, expected)
    report = freqfusion.adopt(network, image)
    assert report.adopted[0].paths == ("fine", "middle", "coarse")
    assert network.fine is network.middle is network.coarse
    assert network.fine.hr_channel_compressor.weight.shape == (16, 8, 1, 1)
    with torch.no_grad():
        assert difference(network(image), expected) <= bound
