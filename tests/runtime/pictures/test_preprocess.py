# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import fit, normalise, prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size, network_size
from mmdet_reference import Golden, weights_spec
from reference_data import golden

pytestmark = pytest.mark.numerics

PLAN = Preprocessing()


@pytest.mark.parametrize(
    ("picture", "kept", "network"),
    [
        ((375, 500), (512, 683), (512, 704)),
        ((683, 512), (683, 512), (704, 512)),
        ((256, 1500), (350, 2048), (352, 2048)),
        ((300, 300), (512, 512), (512, 512)),
        ((1050, 1400), (512, 683), (512, 704)),
        ((120, 81), (759, 512), (768, 512)),
        ((1, 1), (512, 512), (512, 512)),
        ((1, 9000), (1, 2048), (32, 2048)),
    ],
)
def test_sizes_are_those_of_the_official_pipeline(picture, kept, network):
    assert keep_ratio_size(*picture, PLAN) == kept
    assert network_size(*picture, PLAN) == network


@pytest.mark.parametrize("name", ["e2e_seed0_75x100", "e2e_seed0_120x81"])
def test_matches_the_official_pipeline(name):
    official = golden(name)
    (tensor,) = prepare(official["rgb"], PLAN)
    _, height, width = tensor.shape
    middle = tensor[:, height // 2 - 12 : height // 2 + 12, width // 2 - 12 : width // 2 + 12]
    assert [height, width] == official.meta["net_input"]
    # Values reach 2.7, where float32 steps are 2.4e-7; one grey level is 0.017.
    for ours, theirs in ((tensor[:, :24, :24], "tl"), (tensor[:, -24:, -24:], "br"), (middle, "mid")):
        np.testing.assert_allclose(ours, official[theirs], rtol=0, atol=3e-7)
    np.testing.assert_allclose(tensor.mean(axis=(1, 2), dtype=np.float64), official["ch_mean"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(tensor.std(axis=(1, 2), dtype=np.float64), official["ch_std"], rtol=0, atol=1e-6)


def test_normalisation_equals_opencv_bit_for_bit():
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    expected = picture.astype(np.float32)
    cv2.subtract(expected, np.array([PLAN.mean]), expected)
    cv2.multiply(expected, 1 / np.array([PLAN.std]), expected)
    np.testing.assert_array_equal(normalise(picture, PLAN)[0].transpose(1, 2, 0), expected)


def test_colour_order_of_the_network_is_obeyed():
    picture = np.array([[[10, 20, 30]]], np.uint8)
    plan = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), color_order="BGR")
    assert normalise(picture, plan).ravel().tolist() == [30, 20, 10]


def test_sides_become_multiples_of_the_divisor():
    picture = np.zeros((50, 70, 3), np.uint8)
    assert fit(picture, Preprocessing(long_side=200, short_side=100, size_divisor=64)).shape == (128, 192, 3)


@pytest.mark.parametrize("name", ["up", "down", "tall", "long"])
def test_pads_as_the_official_detection_pipeline(name):
    official = {key.removeprefix(f"{name}_"): value for key, value in Golden("extra/preprocess_pipeline").items()}
    plan = Preprocessing(long_side=1333, short_side=800, size_divisor=64, size_fit="pad")
    height, width, seed = official["input_hw_seed"]
    picture = weights_spec.uint8_image(height, width, seed)[:, :, ::-1]
    (tensor,) = prepare(picture, plan)
    assert keep_ratio_size(height, width, plan) == tuple(official["img_shape"][:2])
    assert network_size(height, width, plan) == tensor.shape[1:] == tuple(official["pad_shape"][:2])
    bottom, right = official["img_shape"][:2]
    y, x = official["sample_yx"].T
    for ours, theirs in (
        (tensor[:, y, x].T, "sample_rgb"),
        (tensor[:, :8, :8], "corner_tl"),
        (tensor[:, bottom - 8 : bottom + 2, right - 8 : right + 2], "corner_br"),
    ):
        np.testing.assert_allclose(ours, official[theirs], rtol=0, atol=3e-7)
    stats = [tensor.mean((1, 2), np.float64), tensor.std((1, 2), dtype=np.float64), np.abs(tensor).max((1, 2))]
    np.testing.assert_allclose(np.transpose(stats), official["tensor_stats"], rtol=0, atol=1e-6)
