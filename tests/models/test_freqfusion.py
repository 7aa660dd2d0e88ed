# SPDX-License-Identifier: Apache-2.0
"""FreqFusion and its sampler against the official goldens."""

from __future__ import annotations

import copy
import json
import pickle

import embedding_networks
import pytest
import torch
from freqfusion import FreqFusion
from freqfusion.sampler import LocalSimGuidedSampler
from reference_data import SEGNEXT, assert_matches_golden, golden, goldens
from weights_spec import feat, fill_state_dict

pytestmark = pytest.mark.numerics

MODULES = goldens("freqfusion_")


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    module.load_state_dict(fill_state_dict(module.state_dict(), seed), strict=True)
    return module.eval()


def build(meta: dict) -> torch.nn.Module:
    direction = "sim" if meta["copy"] == "segnext" else "sim_concat"
    return filled(FreqFusion(**meta["ctor"], direction_feat=direction))


@pytest.mark.parametrize("name", MODULES)
def test_module_golden(name):
    g = golden(name)
    sampled = name.endswith("sampled")
    module = build(g.meta)
    if sampled:  # inputs too large to store; the file says how they were drawn
        hr = torch.from_numpy(feat("hr", g.meta["hr_shape"], g.meta["seed"]))
        lr = torch.from_numpy(feat("lr", g.meta["lr_shape"], g.meta["seed"]))
        assert_matches_golden(hr[:, ::16], g["hr_sub"], 1e-6)
    else:
        hr, lr = torch.from_numpy(g["hr"]), torch.from_numpy(g["lr"])
    with torch.inference_mode():
        mask_lr, hr_out, lr_out = module(hr, lr)
    assert_matches_golden(mask_lr, g["mask_lr"])
    if sampled:
        for actual, key in ((hr_out, "hr_out"), (lr_out, "lr_out")):
            assert_matches_golden(actual[:, ::4], g[f"{key}_sub"])
            assert_matches_golden(actual.mean(dim=1), g[f"{key}_chmean"])
    else:
        assert_matches_golden(hr_out, g["hr_out"])
        assert_matches_golden(lr_out, g["lr_out"])


@pytest.mark.parametrize("name", [n for n in goldens("sampler_") if "rawsample" not in n])
def test_sampler_golden(name):
    g = golden(name)
    arguments = dict(g.meta["ctor"])
    arguments.setdefault("direction_feat", g.meta["direction_feat"])
    sampler = filled(LocalSimGuidedSampler(**arguments))
    hr_x, lr_x, feature = (torch.from_numpy(g[key]) for key in ("hr_x", "lr_x", "feat2sample"))
    with torch.inference_mode():
        assert_matches_golden(sampler.get_offset(hr_x, lr_x), g["offset"])
        assert_matches_golden(sampler(hr_x, lr_x, feature), g["out"])


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("freqfusion_root_64_64_default", lambda: FreqFusion(64, 64)),
        ("freqfusion_root_64_64_resample", lambda: FreqFusion(64, 64, feature_resample=True)),
        (
            "freqfusion_segnext_160_256_c104_resample",
            lambda: FreqFusion(
                160, 256, compressed_channels=104, feature_resample=True, hamming_window=False, direction_feat="sim"
            ),
        ),
    ],
)
def test_state_dict_is_the_official_one(file, module):
    entries = [[n, list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in module().state_dict().items()]
    assert sorted(entries) == sorted(json.loads((SEGNEXT / "keys" / f"{file}.json").read_text()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"up_group": 2}, "up_group must be 1, got 2; the official forward crashes"),
        ({"scale_factor": 2}, "scale_factor must be 1, got 2"),
        ({"direction_features": "sim"}, r"unknown arguments \['direction_features'\]"),
        ({"direction_feat": "cos", "feature_resample": True}, "direction_feat must be one of.*got 'cos'"),
        ({"lowpass_kernel": 4}, "lowpass_kernel must be odd and positive, got 4"),
        ({"use_high_pass": False}, "use_high_pass=False needs comp_feat_upsample=False"),
        (
            {"feature_resample": True, "feature_resample_group": 3},
            "groups must divide the 64 compressed channels, got 3",
        ),
        (
            {"feature_resample": True, "compressed_channels": 4},
            "at least 8 and a multiple of that, got 4; take another",
        ),
        ({"feature_resample": True, "compressed_channels": 44}, "in C // 8 groups, so C must be .* got 44"),
        ({"compressed_channels": 0}, "compressed_channels must be at least 1, got 0"),
        ({"encoder_kernel": 2}, "encoder_kernel must be odd and positive, got 2"),
    ],
)
def test_arguments_that_never_worked_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FreqFusion(64, 64, **arguments)


def test_use_low_pass_has_no_effect_and_says_so():
    with pytest.warns(UserWarning, match="use_low_pass=False has no effect"):
        FreqFusion(8, 8, use_low_pass=False)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="hr_feat must be twice the size of lr_feat, 8 x 10, got 8 x 8"):
        FreqFusion(8, 8)(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 4, 5))


def test_reflected_maps_are_those_of_the_loops():
    module = filled(FreqFusion(4, 6, compressed_channels=8, padding="reflect"))
    copied = filled(embedding_networks.FreqFusion(4, 6, 8, "reflect", embedding_networks.carafe_by_loops))
    maps = torch.randn(1, 4, 10, 14), torch.randn(1, 6, 5, 7)
    with torch.inference_mode():
        for ours, theirs in zip(module(*maps), copied.double()(*(each.double() for each in maps)), strict=True):
            assert (ours.double() - theirs).abs().max() <= 1e-5 * theirs.std()


def test_a_padding_that_is_none_is_refused():
    with pytest.raises(ValueError, match="padding must be one of zeros, reflect, got 'mirror'"):
        FreqFusion(4, 6, padding="mirror")


def test_path_c_takes_other_ratios():
    module = FreqFusion(8, 12, semi_conv=False).eval()
    _, hr, lr = module(torch.randn(1, 8, 9, 12), torch.randn(1, 12, 3, 5))
    assert hr.shape == (1, 8, 9, 12)
    assert lr.shape == (1, 12, 9, 12)


def test_a_window_of_a_checkpoint_is_used_and_checked():
    module = FreqFusion(8, 8, hamming_window=False)
    inputs = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)
    before = module(*inputs)[2]
    state = module.state_dict()
    state["hamming_lowpass"] = torch.tensor([2.0])  # any constant is no window at all
    module.load_state_dict(state)
    torch.testing.assert_close(module(*inputs)[2], before)
    state["hamming_lowpass"] = torch.tensor([float("nan")])
    with pytest.raises(ValueError, match="hamming_lowpass must hold finite factors"):
        module.load_state_dict(state)


def test_gradients_reach_every_parameter():
    module = FreqFusion(16, 16, compressed_channels=16, feature_resample=True)
    with torch.no_grad():  # away from the zeros the scale branch starts at
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    outputs = module(torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4))
    sum(output.square().sum() for output in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in module.parameters())


def test_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    module = FreqFusion(8, 8, compressed_channels=8)
    hr, lr = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)
    gradients = []
    for use_checkpoint in (False, True):
        module.zero_grad()
        module(hr, lr, use_checkpoint)[1].sum().backward()
        gradients.append(module.content_encoder2.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("arguments", [{}, {"feature_resample": True}, {"semi_conv": False}])
def test_autocast_computes_the_same_less_exactly(arguments, dtype):
    torch.manual_seed(0)
    module = FreqFusion(16, 16, compressed_channels=16, **arguments)
    hr, lr = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)
    expected = module(hr, lr)
    with torch.autocast("cpu", dtype):
        actual = module(hr, lr)
        actual[2].sum().backward()
    for half, full in zip(actual, expected, strict=True):
        # The convolutions before the filters round their inputs and weights; a few of those roundings add up.
        assert (half - full).abs().max() <= 8 * torch.finfo(dtype).eps * full.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.hr_channel_compressor.parameters())


def test_a_module_can_be_pickled_and_copied(tmp_path):
    module = FreqFusion(8, 8, compressed_channels=8, feature_resample=True).eval()
    inputs = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)
    torch.save(module, tmp_path / "module.pth")
    copies = (
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(module),
        torch.load(tmp_path / "module.pth", weights_only=False),
    )
    for other in copies:
        assert all(torch.equal(a, b) for a, b in zip(module(*inputs), other(*inputs), strict=True))
        other.load_state_dict(module.state_dict())


@pytest.mark.parametrize("write", [lambda t: t.mul_(0).add_(torch.rand(25).reshape_as(t)), lambda t: t.data.fill_(1.0)])
def test_the_output_is_a_function_of_the_state_dict_even_of_windows_written_in_place(write):
    torch.manual_seed(0)
    module, other = (FreqFusion(8, 8, compressed_channels=8).eval() for _ in range(2))
    inputs = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)
    before = module(*inputs)[2]
    write(module.hamming_lowpass)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(*inputs)[2], other(*inputs)[2])
    assert not torch.allclose(module(*inputs)[2], before)
    exported = torch.export.export(module, inputs).module()
    torch.testing.assert_close(exported(*inputs)[2], module(*inputs)[2])
