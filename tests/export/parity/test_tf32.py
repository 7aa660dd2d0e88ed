# SPDX-License-Identifier: Apache-2.0
"""TF32 on a CPU: the rounding bit by bit, and which factors it touches."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from freqfusion.ops import adaptive_filter
from freqfusion_export.parity.tf32 import Tf32Products, round_to_tf32

pytestmark = pytest.mark.numerics


def nearest(value: float) -> float:
    """The definition, in exact arithmetic: 11 significant bits, of numbers below 2 ** -126 fewer; ties to even."""
    if value == 0:
        return value
    exact = Fraction(value)
    exponent = max(int(np.frexp(value)[1]) - 1, -126)
    unit = Fraction(2) ** (exponent - 10)
    return float(round(exact / unit) * unit)  # Python rounds halves to even


def test_every_number_is_rounded_to_the_nearest():
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32)
    ties = (generator.integers(0, 2**19, 4000, dtype=np.uint64).astype(np.uint32) << 13) | 0x1000
    edges = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x007FF000, 0x00800000, 0x80000000, 0x3F801000], np.uint32)
    values = np.concatenate([bits, ties, ties + 1, ties - 1, edges]).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3.4e38)]
    rounded = round_to_tf32(torch.from_numpy(values)).numpy()
    expected = np.array([nearest(float(value)) for value in values], np.float32)
    np.testing.assert_array_equal(rounded.view(np.uint32), expected.view(np.uint32))
    assert not (rounded.view(np.uint32) & 0x1FFF).any()


def test_what_is_no_number_stays_and_the_largest_overflow():
    values = torch.tensor([float("inf"), -float("inf"), float("nan"), torch.finfo(torch.float32).max])
    rounded = round_to_tf32(values)
    assert rounded[0] == float("inf")
    assert rounded[1] == -float("inf")
    assert rounded[2].isnan()
    assert rounded[3] == float("inf")


def test_rounding_again_changes_nothing_and_other_types_stay():
    once = round_to_tf32(torch.randn(100))
    assert torch.equal(round_to_tf32(once), once)
    doubles = torch.randn(3, dtype=torch.float64)
    assert round_to_tf32(doubles) is doubles
    transposed = torch.randn(4, 6).t()
    assert torch.equal(round_to_tf32(transposed), round_to_tf32(transposed.contiguous()))


X, W, B = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(5)
A, M = torch.randn(3, 6, 8), torch.randn(3, 8, 5)


@pytest.mark.parametrize(
    ("product", "factors", "rest"),
    [
        (lambda x, w, b: F.conv2d(x, w, b, padding=1), (X, W), (B,)),
        (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), (X, torch.randn(4, 5, 2, 2)), (B,)),
        (F.linear, (A, torch.randn(5, 8)), (B,)),
        (lambda a, m: a @ m, (A, M), ()),
        (lambda a, m: torch.bmm(a, m), (A, M), ()),
        (lambda a, m, c: torch.addmm(c, a, m), (A[0], M[0]), (torch.randn(6, 5),)),
    ],
)
def test_factors_are_rounded_and_nothing_else(product, factors, rest):
    plain = product(*factors, *rest)
    expected = product(*map(round_to_tf32, factors), *rest)
    with torch.inference_mode(), Tf32Products():
        found = product(*factors, *rest)
    assert not torch.equal(expected, plain)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(product(*factors, *rest), plain)  # outside it all is as before


def test_what_is_no_product_is_not_rounded():
    with Tf32Products():
        assert torch.equal(F.relu(X) + 1 / X, X.relu() + 1 / X)
        features, logits = torch.randn(2, 4, 6, 6), torch.randn(2, 25, 12, 12)
        filtered = adaptive_filter(features, logits, [1.0] * 25, 5, 1, 2, 0)
    assert torch.equal(filtered, adaptive_filter(features, logits, [1.0] * 25, 5, 1, 2, 0))
