# SPDX-License-Identifier: Apache-2.0
"""Mask2Former and its parts against the official goldens, and what the goldens can see."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from freqfusion.mask2former import pixel_decoder
from freqfusion.mask2former.pixel_decoder import PixelDecoder
from freqfusion.ops.query_argmax import class_scores, query_argmax
from mask2former_reference import (
    DECODER,
    GOLDEN_TOLERANCE,
    assert_statistics,
    error,
    fill,
    filled_mask2former,
    golden,
    key_list,
    weights_spec,
)

pytestmark = pytest.mark.numerics


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def swin_b() -> Any:
    """Swin-B with the goldens' weights."""
    return filled_mask2former("mask2former_swin_b")


def recorded(network: Any, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """What the network's parts compute, by the goldens' names, and the keys hidden from each layer, dead rows too."""
    found: dict[str, torch.Tensor] = {}
    hidden: list[torch.Tensor] = []
    decoder = network.sem_seg_head.pixel_decoder
    hide = network.sem_seg_head.predictor.hidden_keys

    def keep(*names: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            found.update(zip(names, (output,) if isinstance(output, torch.Tensor) else output, strict=True))

        return hook

    handles = [
        network.backbone.register_forward_hook(keep("res2", "res3", "res4", "res5")),
        *(
            part.register_forward_hook(keep(f"ff.{name}.mask_lr", f"ff.{name}.hr_out", f"ff.{name}.lr_out"))
            for part, name in zip(decoder.freqfusions, ("res5to4", "res4to3", "res3to2"), strict=True)
        ),
        *(p.register_forward_hook(keep(f"pd.src{i}")) for i, p in enumerate(decoder.input_proj)),
        *(p.register_forward_hook(keep(f"pd.enc{i}")) for i, p in enumerate(decoder.transformer.encoder.layers)),
        decoder.transformer.register_forward_hook(keep("pd.ms0", "pd.ms1", "pd.ms2")),
        decoder.mask_features.register_forward_hook(keep("pd.mask_features")),
        hide.register_forward_pre_hook(lambda _, given: hidden.append(given[0] < 0)),
    ]
    found["pred_masks"], found["pred_logits"] = network(images)
    for handle in handles:
        handle.remove()
    return found, hidden


@pytest.mark.parametrize("size", ["swin_b", "swin_l"])
def test_state_dict_is_the_official_one_in_order(size):
    from freqfusion import create_model

    with torch.device("meta"):
        state_dict = create_model(f"mask2former_{size}").state_dict()
    entries = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state_dict.items()]
    assert entries == key_list(size)


def test_pixel_decoder_golden():
    g = golden("pixel_decoder_seed0")
    decoder = fill(PixelDecoder([128, 256, 512, 1024]).eval(), DECODER)
    maps = weights_spec.pyramid((128, 256, 512, 1024), 2, 3, seed=0, n=2)
    fused = []
    for part in decoder.freqfusions:
        part.register_forward_hook(lambda _, __, output: fused.append(output))
    features, decoded = decoder([torch.from_numpy(x) for x in maps.values()])
    assert error(features[:, :, ::2, ::2], g["mask_features_s2"]) < GOLDEN_TOLERANCE
    for i, x in enumerate(decoded):
        assert error(x, g[f"ms{i}"]) < GOLDEN_TOLERANCE
    for (low, hr, lr), name in zip(fused, ("res5to4", "res4to3"), strict=False):
        assert error(low, g[f"ff.{name}.mask_lr"]) < GOLDEN_TOLERANCE
        if name == "res5to4":
            assert error(hr, g["ff.res5to4.hr_out"]) < GOLDEN_TOLERANCE
            assert error(lr, g["ff.res5to4.lr_out"]) < GOLDEN_TOLERANCE


def assert_network_golden(network: Any, g: dict[str, Any]) -> None:
    found, hidden = recorded(network, torch.from_numpy(weights_spec.image(128, 160, 0)))
    for name in found:
        assert_statistics(found[name], g, name)
    for layer, bits in enumerate(hidden):
        packed = np.packbits(bits.numpy(), axis=-1)
        assert np.array_equal(packed, g[f"attn{layer}_bits"]), f"attention mask of layer {layer}"
        assert np.array_equal(bits.all(dim=-1).numpy(), g[f"attn{layer}_allmasked"])
    assert len(hidden) == 9
    assert error(found["pred_logits"], g["pred_logits"]) < GOLDEN_TOLERANCE
    assert error(found["pred_logits"], g["pred_logits_f64"]) < GOLDEN_TOLERANCE
    assert error(found["pred_masks"][:, :, ::2, ::2], g["pred_masks_s2"]) < GOLDEN_TOLERANCE
    sizes = [128, 160] * 3
    scores = class_scores(found["pred_masks"], found["pred_logits"], sizes)
    assert_statistics(scores, g, "semseg")
    assert error(scores[:, :, ::8, ::8], g["semseg_s8"]) < GOLDEN_TOLERANCE
    assert error(scores[:, :, ::8, ::8], g["semseg_s8_f64"]) < GOLDEN_TOLERANCE
    assert_labels(query_argmax(found["pred_masks"], found["pred_logits"], sizes), scores, g["semseg_argmax"])


def assert_labels(labels: torch.Tensor, scores: torch.Tensor, expected: np.ndarray) -> None:
    """Every label is the golden's, but where the two best scores are as near as the tolerance; that is one in 1e4."""
    best = scores.topk(2, dim=1).values
    decided = (best[:, 0] - best[:, 1] > 2 * GOLDEN_TOLERANCE * scores.abs().max()).numpy()
    assert decided.mean() > 0.999
    assert np.array_equal(labels.numpy()[decided], expected.reshape(labels.shape)[decided])


def test_swin_b_golden(swin_b):
    assert_network_golden(swin_b, golden("swin_b_seed0_128x160"))


def test_swin_l_golden():
    assert_network_golden(filled_mask2former("mask2former_swin_l"), golden("swin_l_seed0_128x160"))


def test_a_picture_that_is_padded_cropped_and_resized(swin_b):
    g = golden("swin_b_seed0_e2e_100x150")
    assert hashlib.sha256(g["raw"].tobytes()).hexdigest() == str(g["raw_sha256"])
    mean, std = (torch.tensor(values)[:, None, None] for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    images = (torch.from_numpy(g["raw"]).float() - mean) / std
    images = torch.nn.functional.pad(images, (0, 10, 0, 28))
    masks, classes = swin_b(images)
    padded = class_scores(masks, classes, [128, 160] * 3)
    assert error(padded[:, :, ::8, ::8], g["padded_semseg_s8"]) < GOLDEN_TOLERANCE
    sizes = [128, 160, 100, 150, 75, 110]
    scores = class_scores(masks, classes, sizes)
    assert error(scores[0, :, ::5, ::5], g["sem_seg_s5"]) < GOLDEN_TOLERANCE
    assert_labels(query_argmax(masks, classes, sizes), scores, g["sem_seg_argmax"])


def test_images_of_a_batch_do_not_meet(swin_b):
    images = torch.from_numpy(weights_spec.image(64, 96, 5, n=2))
    together, apart = swin_b(images), [swin_b(image[None]) for image in images]
    for i, values in enumerate(together):
        assert error(values, torch.cat([found[i] for found in apart]).numpy()) < GOLDEN_TOLERANCE


def test_weights_are_those_that_the_goldens_were_made_with(swin_b):
    import json

    from mask2former_reference import MASK2FORMER

    checks = json.loads((MASK2FORMER / "checks.json").read_text())["weights"]["swin_b_seed0"]
    digest = hashlib.sha256()
    for name, tensor in swin_b.state_dict().items():
        if not weights_spec.is_constant(name):
            digest.update(name.encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == checks["sha256"]


def test_sides_must_be_multiples_of_32():
    from freqfusion import create_model
    from mask2former_reference import SMALL

    with pytest.raises(ValueError, match=r"Mask2Former: sides must be multiples of 32, got 64 x 100; append zeros"):
        create_model("mask2former", **SMALL)(torch.zeros(1, 3, 64, 100))


def test_an_unknown_fusion_is_told():
    with pytest.raises(ValueError, match=r"fusion must be one of \('freqfusion', 'bilinear'\), got 'none'"):
        pixel_decoder.PixelDecoder([32, 64, 128, 256], 64, 1, "none")
