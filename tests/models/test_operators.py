# SPDX-License-Identifier: Apache-2.0
"""The PyTorch operators against the float64 loops and the official goldens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import references
import torch
from freqfusion import native
from freqfusion.ops import (
    FilterMode,
    adaptive_filter,
    carafe,
    deformable_attention,
    local_similarity,
    normalize_taps,
    offset_resample,
    query_argmax,
    resize_argmax,
)
from reference_data import assert_matches_golden, golden, goldens

pytestmark = pytest.mark.numerics

# Units in the last place of the dtype at the largest magnitude here (below 8): sums of up to 49 products in fp32, then
# one rounding to the dtype. bf16 and fp16 inputs are compared with the exact result for those very inputs.
TOLERANCE = {torch.float32: 16 * 2.0**-23 * 8, torch.float16: 2.0**-11 * 8, torch.bfloat16: 2.0**-8 * 8}

SHAPES = [  # N, C, H, W, kernel_size, groups, scale
    pytest.param((1, 4, 5, 7, 3, 1, 1), id="same-size"),
    pytest.param((2, 8, 4, 6, 5, 1, 2), id="upsample"),
    pytest.param((1, 6, 3, 2, 5, 2, 2), id="window-wider-than-map"),
    pytest.param((1, 8, 1, 1, 3, 4, 3), id="one-pixel"),
    pytest.param((0, 4, 3, 5, 3, 1, 1), id="empty-batch"),
    pytest.param((1, 20, 9, 5, 7, 4, 1), id="seven-taps"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=["definition", "native"])
def front_end(request):
    if request.param == "native":
        if not native.is_available():
            pytest.skip("libfreqfusion_c.so is not built; `make plugins` builds it")
        yield
    else:
        with native.disabled():
            yield


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(actual: torch.Tensor, expected: np.ndarray, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected), rtol=0, atol=TOLERANCE[dtype])


def exact(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_carafe_matches_the_loops(front_end, shape, dtype):
    n, c, h, w, k, g, s = shape
    x, m = draw(n, c, h, w, dtype=dtype), draw(n, g * k * k, s * h, s * w, dtype=dtype, seed=1).softmax(dim=1)
    for padding in paddings(shape):
        expected = references.carafe(exact(x), exact(m), k, g, s, padding)
        assert_close(carafe(x, m, k, g, s, padding), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", list(FilterMode))
def test_adaptive_filter_matches_the_loops(front_end, shape, mode, dtype):
    n, c, h, w, k, g, s = shape
    if mode != FilterMode.LOWPASS:
        s = 1
    x, logits = draw(n, c, h, w, dtype=dtype), draw(n, g * k * k, s * h, s * w, dtype=dtype, seed=1)
    window = np.linspace(0.0, 1.0, k * k).tolist()
    for padding in paddings(shape):
        expected = references.adaptive_filter(exact(x), exact(logits), window, k, g, s, mode, padding)
        assert_close(adaptive_filter(x, logits, window, k, g, s, int(mode), padding), expected, dtype)


def paddings(shape: tuple[int, ...]) -> list[int]:
    """Zeros, and reflect where the map is larger than the window's radius."""
    return [0, 1] if min(shape[2:4]) > shape[4] // 2 else [0]


@pytest.mark.parametrize(("h", "w"), [(2, 8), (8, 2), (1, 1)])
def test_a_map_that_is_too_small_to_be_reflected_is_refused(front_end, h, w):
    x, m = draw(1, 4, h, w), draw(1, 25, h, w)
    message = rf"reflect\) needs features larger than 2 x 2 for kernel_size 5, got {h} x {w}"
    with pytest.raises(ValueError, match=f"carafe: padding 1.*{message}"):
        carafe(x, m, 5, 1, 1, 1)
    with pytest.raises(ValueError, match=f"adaptive_filter: padding 1.*{message}"):
        adaptive_filter(x, m, [1.0] * 25, 5, 1, 1, 0, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 6, 10, 3, 2), (1, 5, 2, 3, 3, 2), (1, 1, 1, 1, 3, 1), (1, 6, 9, 8, 5, 2)])
def test_local_similarity_matches_the_loops(front_end, shape, dtype):
    *size, k, d = shape
    x = draw(*size, dtype=dtype)
    x[0, :, 0, 0] = 0
    assert_close(local_similarity(x, k, d), references.local_similarity(exact(x), k, d), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 6, 3, 4, 2), (1, 8, 5, 7, 4), (1, 3, 1, 1, 1)])
def test_offset_resample_matches_the_loops(front_end, shape, dtype):
    n, c, h, w, g = shape
    x, offsets = draw(n, c, 2 * h, 2 * w, dtype=dtype), draw(n, 8 * g, h, w, dtype=dtype, seed=1)
    assert_close(offset_resample(x, offsets, g), references.offset_resample(exact(x), exact(offsets), g), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(2, 3, 4, 6, 5, 7), (1, 1), (1, 4, 3, 1)], ids=str)
def test_deformable_attention_matches_the_loops(front_end, sizes, dtype):
    tokens, samples = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True)), 4 * len(sizes) // 2
    value, logits = draw(2, tokens, 3, 5, dtype=dtype), draw(2, tokens, 3, samples, dtype=dtype, seed=1)
    offsets = 2 * draw(2, tokens, 3, 2 * samples, dtype=dtype, seed=2)  # at many places partly outside
    expected = references.deformable_attention(exact(value), exact(offsets), exact(logits), sizes)
    assert_close(deformable_attention(value, offsets, logits, sizes), expected, dtype)


def test_deformable_attention_reads_its_own_pixel_without_offsets(front_end):
    value = draw(1, 6 * 5, 2, 3)
    logits = torch.tensor([4.0, -1.0]).expand(1, 30, 2, 2)
    assert torch.allclose(deformable_attention(value, torch.zeros(1, 30, 2, 4), logits, [6, 5]), value, atol=1e-6)


def test_deformable_attention_sees_nothing_outside_the_maps(front_end):
    value, logits = draw(1, 4 + 6, 1, 3), draw(1, 10, 1, 2)
    offsets = torch.tensor([1e9, -3e38, -1e9, 60.0]).expand(1, 10, 1, 4)
    assert (deformable_attention(value, offsets, logits, [2, 2, 2, 3]) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "sizes", [(16, 24, 13, 22, 29, 31), (16, 24, 16, 24, 7, 5), (4, 6, 4, 6, 4, 6), (5, 7, 1, 1, 3, 2)], ids=str
)
def test_query_argmax_matches_the_loops(front_end, sizes, dtype):
    masks, classes = 3 * draw(2, 9, 4, 6, dtype=dtype), 2 * draw(2, 9, 6, dtype=dtype, seed=1)
    actual = query_argmax(masks, classes, sizes).numpy()
    scores = references.query_scores(exact(masks), exact(classes), sizes)
    best = np.sort(scores, axis=1)
    undecided = best[:, -1] - best[:, -2] < 1e-5  # fp32 rounding of scores below 9
    assert actual.dtype == np.int32
    assert (actual == scores.argmax(axis=1))[~undecided].all()
    assert undecided.mean() < 0.01


def test_query_argmax_takes_the_first_of_equals_and_never_no_object(front_end):
    classes = torch.tensor([0.0, 1.0, 1.0, 9.0]).expand(1, 3, 4)
    assert (query_argmax(draw(1, 3, 4, 4), classes, [16, 16, 13, 11, 20, 9]) == 1).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(32, 48, 21, 33), (1, 1, 5, 4), (8, 12, 8, 12), (3, 2, 64, 50)])
def test_resize_argmax_matches_the_loops(front_end, sizes, dtype, align_corners):
    scores = draw(2, 7, 4, 6, dtype=dtype)
    actual = resize_argmax(scores, list(sizes), align_corners).numpy()
    resized = references.resized_scores(exact(scores), sizes, align_corners)
    best = np.sort(resized, axis=1)
    undecided = best[:, -1] - best[:, -2] < 1e-5  # fp32 rounding of scores below 4
    expected = references.resize_argmax(exact(scores), sizes, align_corners)
    assert actual.dtype == np.int32
    assert (actual == expected)[~undecided].all()
    assert undecided.mean() < 0.01 or min(sizes) == 1


def test_resize_argmax_takes_the_first_of_equals(front_end):
    scores = torch.ones(1, 5, 4, 4)
    scores[:, 0] = 0
    assert (resize_argmax(scores, [16, 16, 9, 9], False) == 1).all()


@pytest.mark.parametrize("name", goldens("carafe_"))
def test_carafe_golden(front_end, name):
    g = golden(name)
    x, m = torch.from_numpy(g["x"]), torch.from_numpy(g["mask"])
    k = g.meta["kernel_size"]
    groups, scale = g.meta.get("group", m.shape[1] // k**2), g.meta.get("scale", m.shape[2] // x.shape[2])
    assert_matches_golden(carafe(x, m, k, groups, scale), g["out"])


@pytest.mark.parametrize("name", goldens("similarity_"))
def test_local_similarity_golden(front_end, name):
    g = golden(name)
    assert_matches_golden(local_similarity(torch.from_numpy(g["x"]), g.meta["k"], g.meta["dilation"]), g["out"])


@pytest.mark.parametrize("name", goldens("sampler_rawsample"))
def test_offset_resample_golden(front_end, name):
    g = golden(name)
    x, offset = torch.from_numpy(g["x"]), torch.from_numpy(g["offset"])
    assert_matches_golden(offset_resample(x, offset, g.meta["groups"]), g["out"])


def test_taps_sum_to_one_and_half_types_are_computed_in_fp32():
    logits = 20 * draw(1, 2 * 9, 4, 5, dtype=torch.float16)
    taps = normalize_taps(logits, [0.08, 1, 0.08] * 3, 3)
    expected = references.normalize_taps(exact(logits), [0.08, 1, 0.08] * 3, 3)
    assert np.abs(exact(taps) - expected).max() <= 2.0**-11
    assert np.allclose(expected.reshape(1, 2, 9, 4, 5).sum(axis=2), 1)


def test_non_contiguous_tensors_are_read_rightly(front_end):
    x = draw(1, 6, 5, 8).to(memory_format=torch.channels_last)[:, :, ::2]
    logits = draw(1, 9, 8, 3, seed=1).transpose(2, 3)
    expected = references.adaptive_filter(exact(x), exact(logits), [1.0] * 9, 3, 1, 1, 2)
    assert_close(adaptive_filter(x, logits, [1.0] * 9, 3, 1, 1, 2), expected, torch.float32)


OPCHECKS: list[tuple[Any, Callable[[], tuple[Any, ...]]]] = [
    (carafe, lambda: (draw(2, 4, 3, 5), draw(2, 18, 6, 10), 3, 2, 2)),
    (adaptive_filter, lambda: (draw(2, 4, 3, 5), draw(2, 9, 3, 5), [1.0] * 9, 3, 1, 1, 2)),
    (carafe, lambda: (draw(2, 4, 3, 5), draw(2, 50, 6, 10), 5, 2, 2, 1)),
    (adaptive_filter, lambda: (draw(2, 4, 3, 5), draw(2, 9, 3, 5), [1.0] * 9, 3, 1, 1, 2, 1)),
    (local_similarity, lambda: (draw(2, 4, 6, 5), 3, 2)),
    (offset_resample, lambda: (draw(2, 4, 6, 10), draw(2, 16, 3, 5), 2)),
    (
        deformable_attention,
        lambda: (draw(1, 14, 2, 3), draw(1, 14, 2, 8, seed=1), draw(1, 14, 2, 4, seed=2), [2, 4, 3, 2]),
    ),
    (resize_argmax, lambda: (draw(2, 4, 6, 10), [12, 20, 7, 9], False)),
    (query_argmax, lambda: (draw(2, 3, 4, 6), draw(2, 3, 5), [16, 24, 15, 20, 7, 9])),
]
DIFFERENTIABLE = OPCHECKS[:7]


@pytest.mark.parametrize(("operator", "arguments"), OPCHECKS, ids=[op._name for op, _ in OPCHECKS])
def test_opcheck(front_end, operator, arguments):
    results = torch.library.opcheck(operator, arguments())
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("operator", "arguments"), DIFFERENTIABLE, ids=[op._name for op, _ in DIFFERENTIABLE])
def test_gradients_are_those_of_the_definition(operator, arguments):
    values = [v.double().requires_grad_() if isinstance(v, torch.Tensor) else v for v in arguments()]
    assert torch.autograd.gradcheck(operator, tuple(values), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: carafe(draw(1, 4, 8, 8), draw(1, 9, 8, 8), 3, 1, 2),
            r"mask must have shape \(1, 9, 16, 16\).*\(1, 9, 8, 8\)",
        ),
        (lambda: carafe(draw(1, 4, 8, 8), draw(1, 16, 8, 8), 4, 1, 1), "kernel_size must be odd and positive, got 4"),
        (lambda: carafe(draw(1, 4, 8, 8), draw(1, 9, 8, 8), 3, 1, 1, 2), r"padding must be 0 \(zeros\) or 1.*got 2"),
        (lambda: carafe(draw(1, 4, 8, 8), draw(1, 27, 8, 8), 3, 3, 1), "groups must divide the 4 channels.*got 3"),
        (
            lambda: carafe(draw(1, 4, 8, 8), draw(1, 9, 8, 8).half(), 3, 1, 1),
            "mask must be torch.float32.*got torch.float16",
        ),
        (lambda: carafe(draw(4, 8, 8), draw(1, 9, 8, 8), 3, 1, 1), "four dimensions.*got 3"),
        (
            lambda: adaptive_filter(draw(1, 4, 8, 8), draw(1, 9, 8, 8), [1.0] * 8, 3, 1, 1, 0),
            "window must have 9 factors, got 8",
        ),
        (lambda: adaptive_filter(draw(1, 4, 8, 8), draw(1, 9, 8, 8), [1.0] * 9, 3, 1, 1, 3), "mode must be 0.*got 3"),
        (
            lambda: adaptive_filter(draw(1, 4, 8, 8), draw(1, 9, 16, 16), [1.0] * 9, 3, 1, 2, 2),
            "sharpen needs scale 1, got 2",
        ),
        (lambda: local_similarity(draw(1, 4, 8, 8), 1, 2), "kernel_size must be odd and at least 3, got 1"),
        (lambda: local_similarity(draw(1, 4, 8, 8), 3, 0), "dilation must be at least 1, got 0"),
        (
            lambda: offset_resample(draw(1, 4, 8, 8), draw(1, 8, 4, 4), 2),
            r"offsets must have shape \(1, 16, 8/2, 8/2\)",
        ),
        (lambda: offset_resample(draw(1, 4, 7, 8), draw(1, 8, 3, 4), 1), "offsets must have shape"),
        (
            lambda: deformable_attention(draw(1, 7, 2, 4), draw(1, 7, 2, 8), draw(1, 7, 2, 4), [2, 3]),
            r"value must have 6 tokens for levels of \[2, 3\], got 7",
        ),
        (
            lambda: deformable_attention(draw(1, 7, 2, 4), draw(1, 7, 2, 8), draw(1, 7, 2, 3), [2, 3, 1, 1]),
            r"logits must have shape \(1, 7, 2, 2 \* points\).*got \(1, 7, 2, 3\)",
        ),
        (
            lambda: deformable_attention(draw(1, 6, 2, 4), draw(1, 6, 2, 4), draw(1, 6, 2, 4), [2, 3]),
            r"offsets must have shape \(1, 6, 2, 8\).*got \(1, 6, 2, 4\)",
        ),
        (
            lambda: deformable_attention(draw(1, 6, 2, 4), draw(1, 6, 2, 8), draw(1, 6, 2, 4), [2, 3, 1]),
            r"sizes must be positive pairs.*got \[2, 3, 1\]",
        ),
        (
            lambda: deformable_attention(draw(1, 6, 2, 4), draw(1, 6, 2, 8).half(), draw(1, 6, 2, 4), [2, 3]),
            r"offsets must be torch.float32 as value is, got torch.float16",
        ),
        (lambda: deformable_attention(draw(6, 2, 4), draw(1), draw(1), [2, 3]), "value must have four dim.*got 3"),
        (lambda: query_argmax(draw(1, 3, 4, 4), draw(1, 2, 5), [8] * 6), r"classes must have shape \(1, 3, C \+ 1\)"),
        (lambda: query_argmax(draw(1, 3, 4, 4), draw(3, 5), [8] * 6), "four dimensions.*three.*got 4 and 2"),
        (lambda: query_argmax(draw(1, 3, 4, 4), draw(1, 3, 5).half(), [8] * 6), "classes must be torch.float32"),
        (lambda: query_argmax(draw(1, 3, 4, 4), draw(1, 3, 5), [8] * 4), "sizes must be six positive numbers"),
        (
            lambda: query_argmax(draw(1, 3, 4, 4), draw(1, 3, 5), [8, 8, 9, 8, 5, 5]),
            r"kept size must lie within the padded one, \(8, 8\), got \(9, 8\)",
        ),
        (lambda: resize_argmax(draw(1, 4, 8, 8), [8, 8, 0, 8], False), "four positive numbers"),
        (lambda: resize_argmax(draw(1, 0, 8, 8), [8, 8, 8, 8], False), "at least one class"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
