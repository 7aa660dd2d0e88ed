# SPDX-License-Identifier: Apache-2.0
"""SegNeXt-T and its parts against the official goldens."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from freqfusion import create_model, describe_model, list_models, native
from freqfusion.detection import Detector
from freqfusion.errors import UnknownModelError
from freqfusion.ham_head import NMF2D, interleave
from freqfusion.ops.resize_argmax import resize_argmax
from mask2former_reference import SMALL
from reference_data import (
    GOLDEN_TOLERANCE,
    SEGNEXT,
    assert_decided_labels_match_golden,
    assert_matches_golden,
    filled_model,
    golden,
)
from weights_spec import image, nmf_bases

pytestmark = pytest.mark.numerics


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def test_state_dict_is_the_official_one_in_order(segnext_t):
    entries = [[n, list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in segnext_t.state_dict().items()]
    assert entries == json.loads((SEGNEXT / "keys" / "segnext_t_freqfusion.json").read_text())


def test_backbone_golden(segnext_t):
    g = golden("mscan_t_seed0_64x96")
    for stage, actual in enumerate(segnext_t.backbone(torch.from_numpy(image(64, 96, 3)))):
        assert_matches_golden(actual, g[f"out{stage}"])


def test_head_golden(segnext_t):
    maps = golden("mscan_t_seed0_64x96")
    g = golden("head_seed0_64x96")
    head = segnext_t.decode_head
    c2, c3, x = (torch.from_numpy(maps[f"out{stage}"]) for stage in (1, 2, 3))
    assert_matches_golden(head((c2, c3, x)), g["logits"])
    for fusion, fine, key in ((head.freqfusions[0], c3, "cat0"), (head.freqfusions[1], c2, "cat1")):
        _, hr, lr = fusion(fine, x)
        x = interleave(hr, lr, 4)
        assert_matches_golden(x, g[key])


def test_factorisation_golden():
    g = golden("nmf2d_r16_b2_256x6x5")
    nmf = NMF2D(256, 16)
    nmf.bases.copy_(torch.from_numpy(g["bases_raw"]))
    assert_matches_golden(nmf(torch.from_numpy(g["x"])), g["out"])


@pytest.mark.parametrize("kernels", [False, True], ids=["definition", "native"])
def test_network_golden(segnext_t, kernels):
    if kernels and not native.is_available():
        pytest.skip("libfreqfusion_c.so is not built; `make plugins` builds it")
    g = golden("segnext_t_seed0_128x128")
    exact = golden("segnext_t_seed0_128x128_fp64")["logits_fp64"]
    images = torch.from_numpy(image(128, 128, 0))
    assert np.allclose(images.flatten()[:64], g["image_first64"], atol=1e-6)
    if kernels:
        logits = segnext_t(images)
    else:
        with native.disabled():
            logits = segnext_t(images)
    assert_matches_golden(logits, g["logits"])
    assert_matches_golden(logits, exact)
    labels = resize_argmax(logits, [128, 128, 128, 128], False)[0].numpy()
    margin = 2 * GOLDEN_TOLERANCE * float(g["logits"].std())
    assert assert_decided_labels_match_golden(labels, g, margin) <= 1e-3


def test_every_tap_of_the_network(segnext_t):
    g = golden("segnext_t_seed0_128x128")
    taps: dict[str, torch.Tensor] = {}

    def keep(name, output):
        if isinstance(output, tuple):
            taps.update(
                {f"{name}:{part}": tensor for part, tensor in zip(("mask_lr", "hr", "lr"), output, strict=True)}
            )
        elif isinstance(output, list):
            taps.update({f"{name}.out{stage}": tensor for stage, tensor in enumerate(output)})
        else:
            taps[name] = output

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, module in segnext_t.named_modules()
    ]
    segnext_t(torch.from_numpy(image(128, 128, 0)))
    for handle in handles:
        handle.remove()
    for index, name in enumerate(map(str, g["tap_names"])):
        tap, scale = taps[name].double().flatten(), float(g["tap_std"][index])
        assert tap.numel() == np.prod(json.loads(str(g["tap_shapes"][index])))
        found = {
            "mean": tap.mean() - g["tap_mean"][index],
            "std": tap.std(correction=0) - scale,
            "absmax": tap.abs().max() - g["tap_absmax"][index],
            "first": np.abs(tap[:16].numpy() - g["tap_first16"][index]).max(),
            "last": np.abs(tap[-16:].numpy() - g["tap_last16"][index]).max(),
        }
        assert all(abs(float(error)) <= GOLDEN_TOLERANCE * scale for error in found.values()), (name, found)


def test_a_batch_is_its_images_one_by_one(segnext_t):
    images = torch.from_numpy(image(64, 96, 5, n=3))
    one_by_one = torch.cat([segnext_t(single) for single in images.split(1)])
    assert_matches_golden(segnext_t(images), one_by_one.numpy(), 1e-5)


def test_equal_seeds_give_equal_bases_and_others_do_not():
    a, b, c = (create_model("segnext_t", bases_seed=seed).decode_head.hamburger.ham.bases for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.min() >= 0
    assert a.max() < 1


def test_bases_are_no_part_of_the_state_dict():
    model = filled_model("segnext_t", 7)
    assert not any("bases" in name for name in model.state_dict())
    assert torch.equal(model.decode_head.hamburger.ham.bases, torch.from_numpy(nmf_bases(256, 16, 7)))


def test_sides_must_be_multiples_of_32(segnext_t):
    with pytest.raises(ValueError, match="multiples of 32, got 64 x 100"):
        segnext_t(torch.zeros(1, 3, 64, 100))


def test_twin_has_the_same_interface_and_no_freqfusion():
    twin = create_model("segnext_t_bilinear", num_classes=9)
    assert twin(torch.zeros(1, 3, 64, 96)).shape == (1, 9, 8, 12)
    assert not any("freqfusions" in name for name in twin.state_dict())


def test_models_are_listed_and_described():
    assert "segnext_t" in list_models()
    assert all(describe_model(name) for name in list_models())
    with pytest.raises(UnknownModelError, match="unknown model 'segnext_x'; known models: segnext_t"):
        create_model("segnext_x")


@pytest.mark.parametrize("threshold", [None, 0.3, 0.5, 0.9])
def test_one_class_is_a_probability_above_a_threshold(threshold):
    """mmseg's rule for ``out_channels=1``: sigmoid of the resized logit, and above the threshold, 0.3 by default."""
    arguments = {} if threshold is None else {"threshold": threshold}
    model = create_model("segnext_t", num_classes=1, **arguments)
    assert model.state_dict()["decode_head.conv_seg.weight"].shape[0] == 1
    images = torch.from_numpy(image(64, 96, 3))
    logits = model(images)
    assert logits.shape == (1, 2, 8, 12)
    resized = torch.nn.functional.interpolate(logits[:, 1:], (64, 96), mode="bilinear", align_corners=False)
    middle = resized.median() - torch.tensor(threshold or 0.3).logit()
    model.decode_head.conv_seg.bias -= middle  # half of the pixels on each side
    probability = (resized - middle).sigmoid()[:, 0]
    labels = resize_argmax(model(images), [64, 96, 64, 96], False)
    undecided = (probability - (threshold or 0.3)).abs() < 1e-5  # fp32 rounding
    assert torch.equal(labels[~undecided], (probability > (threshold or 0.3)).int()[~undecided])
    assert 0.4 < labels.float().mean() < 0.6


def test_a_threshold_is_a_probability():
    with pytest.raises(ValueError, match=r"threshold must be between 0 and 1, got 1\.5"):
        create_model("segnext_t", num_classes=1, threshold=1.5)


@pytest.mark.parametrize("name", list_models())
def test_every_model_runs_under_autocast_and_can_be_pickled(name):
    model = create_model(name, **(SMALL if name.startswith("mask2former") else {}))
    pickle.dumps(model)
    inputs = (torch.from_numpy(image(64, 64, 3)),)
    if isinstance(model, Detector):
        inputs += (torch.tensor([[64, 64]]),)
    with torch.autocast("cpu", torch.bfloat16):
        results = model(*inputs)
    for result in results if isinstance(results, tuple) else (results,):
        assert result.isfinite().all()
    if isinstance(model, Detector):
        assert results[1].dtype == torch.float32  # boxes: a coordinate needs more than bf16's eight bits
