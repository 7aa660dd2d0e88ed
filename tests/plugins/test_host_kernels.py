# SPDX-License-Identifier: Apache-2.0
"""Every CPU kernel, at every instruction set this processor has, in every dtype, against the float64 loops."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
import torch
from host_kernels import (
    DTYPE_IDS,
    DTYPES,
    LEVELS,
    LIBRARY,
    ROUNDOFF,
    SMALLEST,
    HostKernels,
    has_level,
)
from reference_data import golden, goldens
from torch import Tensor

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfreqfusion_c.so is not built: run `make plugins`")


def example(shape: tuple[int, ...], dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape) * scale).to(dtype)


def assert_near(actual: Tensor, expected: np.ndarray, accumulated: float) -> None:
    """Fails unless the error stays below ``accumulated`` (the fp32 sums') and the rounding to the output's dtype."""
    allowed = accumulated + ROUNDOFF[actual.dtype] * np.abs(expected) + SMALLEST[actual.dtype]
    error = np.abs(actual.double().numpy() - expected)
    assert not np.isnan(error).any()
    assert (error <= allowed).all(), f"error {error.max():.3e}, largest excess {(error - allowed).max():.3e}"


def numpy64(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


def window_error(x: Tensor, weights: np.ndarray | float, taps: int) -> float:
    """fp32 rounding of a weighted sum: each of its taps + 8 operations adds 2^-24 of the largest sum."""
    return (taps + 8) * 2.0**-24 * float(x.double().abs().max()) * float(np.max(weights))


REASSEMBLIES = [  # N, C, H, W, kernel_size, groups, scale
    (1, 4, 5, 7, 3, 1, 1),
    (2, 8, 4, 4, 5, 1, 2),
    (1, 6, 3, 2, 5, 2, 2),
    (1, 8, 1, 1, 3, 4, 2),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 2, 7, 1, 7, 1, 1),
    (1, 11, 6, 17, 3, 1, 1),
    (1, 10, 9, 33, 5, 2, 2),
    (2, 9, 5, 16, 5, 1, 2),
    (1, 25, 4, 18, 5, 1, 2),
    (1, 3, 3, 5, 3, 1, 3),
    (1, 2, 4, 3, 5, 2, 4),
    (1, 13, 13, 40, 3, 1, 1),
    (1, 3, 2, 19, 9, 1, 2),
    (1, 1, 2, 3, 31, 1, 2),
    (1, 9, 2, 9, 31, 1, 1),
    (3, 2, 2, 130, 3, 1, 1),
]


def can_reflect(case: tuple[int, ...]) -> bool:
    return min(case[2:4]) > case[4] // 2


PADDED = [pytest.param(case, 0, id=str(case)) for case in REASSEMBLIES]
PADDED += [pytest.param(case, 1, id=f"{case}-reflect") for case in REASSEMBLIES if can_reflect(case)]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize(("case", "padding"), PADDED)
def test_carafe(kernels: HostKernels, case: tuple[int, ...], padding: int, dtype: torch.dtype) -> None:
    n, c, h, w, kernel_size, groups, scale = case
    x = example((n, c, h, w), dtype, 1)
    mask = example((n, groups * kernel_size**2, h * scale, w * scale), dtype, 2, 1 / kernel_size**2)
    expected = references.carafe(numpy64(x), numpy64(mask), kernel_size, groups, scale, padding)

    actual = kernels.carafe(x, mask, kernel_size, groups, scale, padding)

    sums = np.abs(numpy64(mask)).reshape(n, groups, kernel_size**2, -1).sum(axis=2)
    assert_near(actual, expected, window_error(x, sums, kernel_size**2))


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", REASSEMBLIES, ids=str)
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_adaptive_filter(kernels: HostKernels, case: tuple[int, ...], mode: int, dtype: torch.dtype) -> None:
    n, c, h, w, kernel_size, groups, scale = case
    if mode != 0 and scale != 1:
        with pytest.raises(ValueError, match="scale_factor must be 1 in the modes highpass and sharpen"):
            kernels.adaptive_filter(
                torch.zeros(n, c, h, w),
                torch.zeros(n, groups * kernel_size**2, h * scale, w * scale),
                [1.0] * kernel_size**2,
                kernel_size,
                groups,
                scale,
                mode,
            )
        return
    x = example((n, c, h, w), dtype, 3)
    logits = example((n, groups * kernel_size**2, h * scale, w * scale), dtype, 4, 3.0)
    window = np.random.default_rng(5).uniform(0.05, 1, kernel_size**2).astype(np.float32).tolist()
    expected = references.adaptive_filter(numpy64(x), numpy64(logits), window, kernel_size, groups, scale, mode)

    actual = kernels.adaptive_filter(x, logits, window, kernel_size, groups, scale, mode)

    # exp's argument is rounded at 2^-24 of up to 25, which moves every weight by as much.
    assert_near(actual, expected, window_error(x, 1.0 + mode, kernel_size**2 + 25))


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", [case for case in REASSEMBLIES if can_reflect(case) and case[6] < 3], ids=str)
def test_adaptive_filter_reflects(kernels: HostKernels, case: tuple[int, ...], dtype: torch.dtype) -> None:
    n, c, h, w, kernel_size, groups, scale = case
    mode = 2 if scale == 1 else 0
    x = example((n, c, h, w), dtype, 3)
    logits = example((n, groups * kernel_size**2, h * scale, w * scale), dtype, 4, 3.0)
    arguments = ([1.0] * kernel_size**2, kernel_size, groups, scale, mode, 1)
    expected = references.adaptive_filter(numpy64(x), numpy64(logits), *arguments)
    actual = kernels.adaptive_filter(x, logits, *arguments)
    assert_near(actual, expected, window_error(x, 1.0 + mode, kernel_size**2 + 25))


@pytest.mark.parametrize(
    "case",
    [(1, 4, 5, 7, 3, 1), (2, 6, 3, 33, 5, 2), (1, 3, 4, 16, 1, 3), (1, 5, 2, 19, 7, 1), (1, 0, 3, 4, 3, 1)],
    ids=str,
)
def test_window_products(kernels: HostKernels, case: tuple[int, ...]) -> None:
    n, c, h, w, kernel_size, groups = case
    padded = example((n, c, h + kernel_size - 1, w + kernel_size - 1), torch.float32, 8)
    factors = example((n, c, h, w), torch.float32, 9)
    expected = references.window_products(numpy64(padded), numpy64(factors), kernel_size, groups)
    # A sum of C products, each off by a unit in the last place of itself.
    bound = (c + 1) * 2.0**-24 * c * float(padded.abs().max() * factors.abs().max()) if c else 0.0
    assert_near(kernels.window_products(padded, factors, kernel_size, groups), expected, bound)


def test_adaptive_filter_of_extreme_logits(kernels: HostKernels) -> None:
    x = example((1, 5, 3, 20), torch.float32, 6)
    logits = torch.full((1, 9, 3, 20), -200.0)
    logits[:, 2] = -float("inf")
    logits[0, 4, :, ::2] = 3e38
    logits[0, 7, :, 1::2] = 90.0
    window = [1.0] * 9
    expected = references.adaptive_filter(numpy64(x), numpy64(logits), window, 3, 1, 1, 0)
    assert_near(kernels.adaptive_filter(x, logits, window, 3, 1, 1, 0), expected, 2.0**-20)


def test_a_feature_that_is_not_finite_stays_in_its_window(kernels: HostKernels) -> None:
    x = example((1, 3, 4, 20), torch.float32, 7)
    x[0, :, 1, 19] = float("inf")
    x[0, :, 2, 0] = float("nan")
    actual = kernels.carafe(x, torch.full((1, 9, 4, 20), 1 / 9), 3, 1, 1)
    assert not torch.isfinite(actual[0, :, :3, 18:]).any()
    assert not torch.isfinite(actual[0, :, 1:, :2]).any()
    actual[0, :, :3, 18:] = 0
    actual[0, :, 1:, :2] = 0
    assert torch.isfinite(actual).all()


@pytest.mark.parametrize("name", goldens("carafe"))
def test_carafe_goldens(kernels: HostKernels, name: str) -> None:
    arrays = golden(name)
    x, mask, out = (torch.from_numpy(np.ascontiguousarray(arrays[key], np.float32)) for key in ("x", "mask", "out"))
    scale = out.shape[2] // x.shape[2]
    groups = int(name.split("_g")[1].split("_")[0])
    kernel_size = round((mask.shape[1] // groups) ** 0.5)
    actual = kernels.carafe(x, mask, kernel_size, groups, scale)
    assert (actual - out).abs().max() <= 1e-5 * out.std()  # fp32 sums in another order: SPEC section 1


SIMILARITIES = [  # N, C, H, W, kernel_size, dilation
    (1, 3, 6, 7, 3, 2),
    (2, 13, 5, 18, 3, 2),
    (1, 8, 1, 1, 3, 2),
    (1, 4, 2, 3, 3, 2),
    (1, 5, 33, 20, 3, 1),
    (1, 4, 9, 133, 3, 2),
    (1, 6, 7, 9, 5, 2),
    (1, 2, 5, 6, 7, 1),
    (1, 5, 12, 21, 3, 32),
    (1, 9, 40, 5, 3, 31),
    (2, 4, 3, 140, 3, 2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", SIMILARITIES, ids=str)
def test_local_similarity(kernels: HostKernels, case: tuple[int, ...], dtype: torch.dtype) -> None:
    *size, kernel_size, dilation = case
    x = example(tuple(size), dtype, 8)
    x[0, :, 0, 0] = 0  # a pixel without direction
    expected = references.local_similarity(numpy64(x), kernel_size, dilation)
    # A dot product of C terms and two norms of unit vectors: C + 8 roundings.
    assert_near(kernels.local_similarity(x, kernel_size, dilation), expected, (size[1] + 8) * 2.0**-24)


def test_local_similarity_ignores_what_lies_outside(kernels: HostKernels) -> None:
    """Rows lie one after another: a neighbour beyond a row's end must not be read from the next row."""
    x = torch.full((1, 4, 5, 21), float("inf"))
    x[:, :, :, 3:18] = example((1, 4, 5, 15), torch.float32, 9)
    actual = kernels.local_similarity(x, 3, 2)
    inner = references.local_similarity(numpy64(x[:, :, :, 3:18]), 3, 2)
    assert_near(actual[:, :, :, 5:16], inner[:, :, :, 2:13], 2.0**-20)
    assert (actual[:, [0, 1, 2], :2] == 0).all()
    assert (actual[:, [0, 3, 5], :, :2] == 0).all()
    assert (actual[:, [2, 4, 7], :, -2:] == 0).all()


RESAMPLES = [  # N, C, h, w, groups
    (1, 4, 3, 5, 1),
    (2, 8, 4, 3, 4),
    (1, 6, 1, 1, 2),
    (1, 3, 1, 9, 1),
    (1, 5, 17, 1, 1),
    (1, 8, 6, 33, 4),
    (1, 4, 9, 40, 2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", RESAMPLES, ids=str)
@pytest.mark.parametrize("spread", [0.3, 5.0])
def test_offset_resample(kernels: HostKernels, case: tuple[int, ...], spread: float, dtype: torch.dtype) -> None:
    n, c, h, w, groups = case
    x = example((n, c, 2 * h, 2 * w), dtype, 10)
    offsets = example((n, 8 * groups, h, w), dtype, 11, spread)
    expected = references.offset_resample(numpy64(x), numpy64(offsets), groups)
    actual = kernels.offset_resample(x, offsets, groups)
    # The position rounds by 3 * 2^-24 of its size, which the largest step between pixels multiplies; sums by 8 * 2^-24.
    position = 3 * 2.0**-24 * (2 * max(h, w) + 4 * spread * 5)
    assert_near(actual, expected, (4 * position + 8 * 2.0**-24) * float(x.double().abs().max()))


def test_offset_resample_survives_any_offset(kernels: HostKernels) -> None:
    x = example((1, 2, 6, 34), torch.float32, 12)
    offsets = torch.zeros(1, 8, 3, 17)
    offsets[:, :4] = torch.tensor([float("inf"), -float("inf"), float("nan"), 3e38]).view(1, 4, 1, 1)
    actual = kernels.offset_resample(x, offsets, 1)
    assert torch.isfinite(actual).all()
    assert (actual >= x.min()).all()
    assert (actual <= x.max()).all()


ATTENTIONS = [  # N, heads, channels, points, sizes of the levels
    (1, 8, 32, 4, (5, 7, 9, 13, 17, 3)),
    (2, 3, 20, 3, (1, 1, 12, 9)),
    (1, 1, 1, 1, (1, 1)),
    (1, 2, 70, 5, (3, 4)),
    (1, 2, 16, 32, (2, 3, 1, 5, 4, 1, 2, 2, 1, 1, 3, 3, 1, 2, 2, 1)),
]


def attention_inputs(case: tuple[Any, ...], dtype: torch.dtype, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    n, heads, channels, points, sizes = case
    tokens = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
    places = len(sizes) // 2 * points
    value = example((n, tokens, heads, channels), dtype, 19)
    return (
        value,
        example((n, tokens, heads, 2 * places), dtype, 20, spread),
        example((n, tokens, heads, places), dtype, 21, 3.0),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
@pytest.mark.parametrize("spread", [0.3, 5.0])
def test_deformable_attention(kernels: HostKernels, case: tuple[Any, ...], spread: float, dtype: torch.dtype) -> None:
    tensors, sizes = attention_inputs(case, dtype, spread), case[4]
    expected = references.deformable_attention(*map(numpy64, tensors), sizes)
    actual = kernels.deformable_attention(*tensors, list(sizes))
    # A position rounds by 5 * 2^-24 of its size, which the largest step between pixels multiplies, on two axes; the
    # argument of exp by 2^-24 of up to 25, on both sides of softmax; sums by one for each of four pixels of a place.
    position = 5 * 2.0**-24 * (max(sizes) + 5 * spread)
    sums = (2 * 25 + 16 + 4 * tensors[2].shape[3]) * 2.0**-24
    assert_near(actual, expected, (4 * position + sums) * float(tensors[0].double().abs().max()))


def test_deformable_attention_survives_any_offset(kernels: HostKernels) -> None:
    value, offsets, logits = attention_inputs((1, 2, 20, 4, (3, 4, 2, 1)), torch.float32, 0.0)
    far = torch.tensor([float("inf"), -float("inf"), float("nan"), 3e38]).repeat_interleave(2)
    offsets[..., :8] = far
    actual = kernels.deformable_attention(value, offsets, logits, [3, 4, 2, 1])
    weights = logits.softmax(dim=3)[..., 4:].sum(dim=3, keepdim=True)  # all that is left
    assert torch.isfinite(actual).all()
    assert torch.allclose(actual[:, 12:], value[:, 12:] * weights[:, 12:], atol=1e-6)


def test_deformable_attention_of_extreme_logits(kernels: HostKernels) -> None:
    value, offsets, logits = attention_inputs((1, 2, 8, 5, (3, 4)), torch.float32, 1.0)
    logits[..., 1] = -float("inf")
    logits[:, :, 0] = -200.0
    logits[:, ::2, 1, 3] = 3e38
    expected = references.deformable_attention(numpy64(value), numpy64(offsets), numpy64(logits), [3, 4])
    assert_near(kernels.deformable_attention(value, offsets, logits, [3, 4]), expected, 2.0**-18)


QUERIES = [  # N, queries, classes, h, w, padded height and width, kept, output
    (1, 100, 150, 8, 12, 32, 48, 29, 43, 22, 33),
    (2, 5, 7, 6, 40, 24, 160, 21, 155, 30, 200),
    (1, 4, 13, 5, 20, 20, 80, 20, 80, 20, 80),
    (1, 3, 6, 7, 5, 28, 20, 17, 19, 3, 2),
    (1, 9, 1, 3, 3, 12, 12, 9, 9, 9, 21),
    (1, 2, 19, 1, 1, 3, 2, 1, 1, 70, 3),
    (1, 3, 5, 40, 70, 9, 11, 9, 10, 21, 23),
    (1, 3, 5, 3, 90, 9, 360, 8, 333, 6, 40),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", QUERIES, ids=str)
def test_query_argmax(kernels: HostKernels, case: tuple[int, ...], dtype: torch.dtype) -> None:
    n, queries, classes, h, w, *sizes = case
    masks, logits = example((n, queries, h, w), dtype, 22, 2.0), example((n, queries, classes + 1), dtype, 23, 2.0)
    actual = kernels.query_argmax(masks, logits, sizes).numpy()
    scores = references.query_scores(numpy64(masks), numpy64(logits), sizes)
    assert actual.dtype == np.int32
    assert (actual >= 0).all()
    difference = np.max(scores, axis=1) - np.take_along_axis(scores, actual[:, None], axis=1)[:, 0]
    # As for resize_argmax, of sigmoids, whose slope is a quarter, added up with shares; and as many roundings as
    # queries.
    largest = float(np.max(scores)) if scores.size else 0.0
    slope = 2 + 0.5 * float(masks.double().abs().max())
    allowed = (16 * max(case[3:]) * slope + queries + 64) * 2.0**-24 * max(largest, 1.0)
    assert (difference <= allowed).all()
    second = np.partition(scores, -2, axis=1)[:, -2] if classes > 1 else np.full(actual.shape, -np.inf)
    assert (np.max(scores, axis=1) - second <= allowed).mean() < 0.01  # so the rest is settled


def test_query_argmax_gives_ties_to_the_lowest_class_and_nothing_to_no_object(kernels: HostKernels) -> None:
    logits = torch.zeros(1, 6, 40)
    logits[:, :, 0], logits[:, :, -1] = -1.0, 30.0
    assert (kernels.query_argmax(example((1, 6, 5, 7), torch.float32, 24), logits, [20, 28, 19, 27, 45, 50]) == 1).all()


def test_query_argmax_of_extreme_logits(kernels: HostKernels) -> None:
    masks = torch.tensor([3e38, -3e38, 1e38, -1e38]).view(1, 4, 1, 1).expand(1, 4, 3, 3).contiguous()
    logits = torch.full((1, 4, 5), -float("inf"))
    logits[0, range(4), range(4)] = 0.0  # each query stands for one class
    logits[0, 2, 3], logits[0, 2, 2] = 0.0, -1.0  # and the third for the last, rather
    assert (kernels.query_argmax(masks, logits, [12, 12, 12, 12, 12, 12]) == 0).all()
    assert (kernels.query_argmax(masks[:, 1:], logits[:, 1:], [12, 12, 11, 11, 7, 9]) == 3).all()


RESIZES = [  # N, C, h, w, step height, step width, output height, output width
    (1, 5, 4, 6, 32, 48, 30, 45),
    (2, 3, 5, 3, 5, 3, 5, 3),
    (1, 150, 8, 12, 64, 96, 61, 100),
    (1, 33, 7, 20, 56, 160, 40, 131),
    (1, 4, 1, 1, 8, 8, 3, 70),
    (1, 6, 20, 30, 7, 5, 50, 41),
    (1, 5, 33, 40, 8, 9, 4, 5),
    (1, 2, 9, 80, 72, 640, 200, 100),
    (1, 1, 3, 3, 6, 6, 12, 12),
    (1, 70, 6, 5, 48, 40, 48, 40),
    (1, 3, 40, 70, 9, 11, 21, 23),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("case", RESIZES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_resize_argmax(kernels: HostKernels, case: tuple[int, ...], align_corners: bool, dtype: torch.dtype) -> None:
    size, sizes = case[:4], list(case[4:])
    scores = example(size, dtype, 13)
    actual = kernels.resize_argmax(scores, sizes, align_corners).numpy()
    resized = references.resized_scores(numpy64(scores), sizes, align_corners)
    expected = resized.argmax(axis=1)

    assert actual.dtype == np.int32
    assert actual.shape == expected.shape
    assert (actual >= 0).all()
    # Where labels differ, the two scores must be a tie within rounding: a position's, 4 * 2^-24 of the larger side for
    # each of two steps on two axes, times the largest step between scores, twice.
    difference = np.max(resized, axis=1) - np.take_along_axis(resized, actual[:, None], axis=1)[:, 0]
    allowed = 16 * 2.0**-24 * max(case[2:]) * 2 * float(scores.double().abs().max())
    assert (difference <= allowed).all()
    second = np.partition(resized, -2, axis=1)[:, -2] if size[1] > 1 else np.full(actual.shape, -np.inf)
    assert (np.max(resized, axis=1) - second <= allowed).mean() < 0.01  # so the rest is settled


def test_resize_argmax_gives_ties_to_the_lowest_class(kernels: HostKernels) -> None:
    scores = example((1, 1, 6, 7), torch.float32, 14).repeat(1, 40, 1, 1)
    scores[:, 0] -= 1
    assert (kernels.resize_argmax(scores, [48, 56, 45, 50], False) == 1).all()


def test_resize_argmax_of_masked_classes(kernels: HostKernels) -> None:
    scores = torch.full((1, 40, 6, 7), -float("inf"))
    assert (kernels.resize_argmax(scores, [48, 56, 48, 56], False) == 0).all()
    scores[:, 35] = -1e30
    assert (kernels.resize_argmax(scores, [48, 56, 45, 50], False) == 35).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=DTYPE_IDS[1:])
def test_every_16_bit_value_is_read_and_rounded_exactly(kernels: HostKernels, dtype: torch.dtype) -> None:
    """A reassembly by the mask 1 copies; by 1 + a little it rounds."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(dtype).view(1, 1, 256, 256)
    x = torch.where(torch.isnan(x), torch.zeros_like(x), x)
    for factor in (1.0, 1.0 + 2.0**-6, 0.9375, 2.0**-3 + 2.0**-7):
        mask = torch.full_like(x, factor)
        expected = (x.float() * mask.float()).to(dtype)
        actual = kernels.carafe(x, mask, 1, 1, 1)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def test_a_16_bit_nan_stays_one(kernels: HostKernels) -> None:
    for dtype in DTYPES:
        x = torch.full((1, 1, 1, 20), float("nan"), dtype=dtype)
        assert torch.isnan(kernels.carafe(x, torch.ones_like(x), 1, 1, 1)).all()


def test_any_number_of_threads_gives_the_same_result(tmp_path: Path) -> None:
    """Pieces of work never depend on one another, whatever they are."""
    x, logits = example((2, 40, 19, 35), torch.float32, 15), example((2, 25, 38, 70), torch.float32, 16)
    offsets = example((2, 32, 19, 35), torch.float32, 17)
    large = example((2, 40, 38, 70), torch.float32, 18)
    attention = attention_inputs((2, 3, 20, 4, (19, 35, 5, 9)), torch.float32, 2.0)
    classes = example((2, 40, 13), torch.float32, 25)

    def results(threads: int) -> list[Tensor]:
        kernels = HostKernels("baseline", tmp_path, threads)
        return [
            kernels.adaptive_filter(x, logits, [1.0] * 25, 5, 1, 2, 0),
            kernels.local_similarity(x, 3, 2),
            kernels.offset_resample(large, offsets, 4),
            kernels.resize_argmax(x, [152, 280, 100, 333], False),
            kernels.deformable_attention(*attention, [19, 35, 5, 9]),
            kernels.query_argmax(x, classes, [76, 140, 70, 131, 100, 200]),
        ]

    alone = results(1)
    for threads in (2, 3, 64):
        for one, many in zip(alone, results(threads), strict=True):
            assert torch.equal(one, many)


@pytest.mark.parametrize("level", LEVELS)
def test_random_shapes(level: str) -> None:
    """Under a build with ``-DFREQFUSION_SANITIZE=address,undefined`` this also watches every access."""
    program = LIBRARY.parent / "random_shapes" if LIBRARY is not None else Path()
    if not program.is_file() or not has_level(level):
        pytest.skip("random_shapes is not built beside the library, or this processor lacks the level")
    environment = {**os.environ, "FREQFUSION_ISA": level}
    result = subprocess.run([program, "2"], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert f"random shapes at level {level}" in result.stdout


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda k, x, m: k.carafe(x, m, 2, 1, 1), "kernel_size must be odd, from 1 to 31"),
        (lambda k, x, m: k.carafe(x, m, 33, 1, 1), "kernel_size must be odd, from 1 to 31"),
        (lambda k, x, m: k.carafe(x, m, -1, 1, 1), "kernel_size must be odd"),
        (lambda k, x, m: k.carafe(x, m, 3, 0, 1), "must be at least 1"),
        (lambda k, x, m: k.carafe(x, m, 3, -1, 1), "must be at least 1"),
        (lambda k, x, m: k.carafe(x, m, 3, 3, 1), "must divide the features' channels"),
        (lambda k, x, m: k.carafe(x, m[:, :8], 3, 1, 1), "the mask must have size"),
        (lambda k, x, m: k.carafe(x, m, 3, 1, 1, 2), r"padding must be 0 \(zeros\) or 1 \(reflect\)"),
        (lambda k, x, m: k.carafe(x[:, :, :, :1], m[:, :, :, :1], 3, 1, 1, 1), "higher and wider than kernel_size / 2"),
        (lambda k, x, m: k.adaptive_filter(x, m, [1.0] * 4, 3, 1, 1, 0), "window must hold kernel_size"),
        (lambda k, x, m: k.adaptive_filter(x, m, [1.0] * 9, 3, 1, 1, 3), "mode must be 0"),
        (lambda k, x, m: k.adaptive_filter(x, m[:, :8], [1.0] * 9, 3, 1, 1, 0), "the logits must have size"),
        (lambda k, x, m: k.window_products(x, x, 3, 1), "map must be kernel_size - 1 higher and wider"),
        (lambda k, x, m: k.window_products(x, x, 2, 1), "kernel_size must be odd, from 1 to 31"),
        (lambda k, x, m: k.window_products(x.half(), x.half(), 3, 1), "one dtype"),
        (lambda k, x, m: k.local_similarity(x, 1, 2), "kernel_size must be odd, from 3 to 15"),
        (lambda k, x, m: k.local_similarity(x, 3, 0), "dilation must be at least 1"),
        (lambda k, x, m: k.local_similarity(x, 3, 2**30), "reach no farther than 32 pixels"),
        (lambda k, x, m: k.offset_resample(x, m, 0), "groups must be at least 1"),
        (lambda k, x, m: k.offset_resample(x, m, 3), "groups must divide"),
        (lambda k, x, m: k.offset_resample(x, m, 1), "the features must have size"),
    ],
)
def test_says_why_it_cannot_run(
    kernels: HostKernels, call: Callable[[HostKernels, Tensor, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        call(kernels, torch.zeros(1, 4, 6, 8), torch.zeros(1, 9, 6, 8))


def test_an_empty_batch_is_done_at_once(kernels: HostKernels) -> None:
    assert kernels.carafe(torch.zeros(0, 4, 6, 8), torch.zeros(0, 9, 6, 8), 3, 1, 1).numel() == 0
    assert kernels.local_similarity(torch.zeros(0, 4, 6, 8), 3, 2).numel() == 0
    assert kernels.offset_resample(torch.zeros(0, 4, 6, 8), torch.zeros(0, 8, 3, 4), 1).numel() == 0
    assert kernels.resize_argmax(torch.zeros(0, 4, 6, 8), [12, 16, 12, 16], False).numel() == 0
    assert kernels.query_argmax(torch.zeros(0, 4, 6, 8), torch.zeros(0, 4, 3), [12, 16, 12, 16, 9, 9]).numel() == 0
    nothing = torch.zeros(0, 6, 2, 4), torch.zeros(0, 6, 2, 8), torch.zeros(0, 6, 2, 4)
    assert kernels.deformable_attention(*nothing, [2, 3]).numel() == 0
