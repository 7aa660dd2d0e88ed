# SPDX-License-Identifier: Apache-2.0
"""One table of inputs for every front-end: awkward sizes, what the float64 loops say, and how far off one may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
import torch

DTYPES = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.bfloat16, id="bf16"),
]
HAMMING = np.outer(np.hamming(3), np.hamming(3)).astype(np.float32).ravel().tolist()


@dataclass(frozen=True)
class Case:
    """A call of one operator.

    Attributes:
        operator: ONNX name.
        shapes: Of the tensors; ``sizes`` is an attribute here.
        attributes: By ONNX name, in the order of the loops' and the PyTorch operators' parameters.
        rounding: Bound on the absolute error of fp32 arithmetic, in units of 2**-24, before the result is rounded.
    """

    operator: str
    shapes: tuple[tuple[int, ...], ...]
    attributes: dict[str, Any]
    rounding: float

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
        """Inputs of ``dtype``: features and scores in [0, 1), masks that sum to one, logits and offsets around zero."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.rand(self.shapes[0], generator=generator)
        rest = [torch.randn(shape, generator=generator) for shape in self.shapes[1:]]
        if self.operator == "Carafe":
            taps = rest[0].unflatten(1, (-1, self.attributes["kernel_size"] ** 2))
            rest = [taps.softmax(2).flatten(1, 2)]
        if self.operator in ("OffsetResample", "DeformableAttention"):
            rest[0] = 3 * rest[0]  # a few pixels, so that some reach over the border
        if self.operator == "QueryArgmax":
            first, rest = 6 * first - 3, [2 * rest[0]]
        return [tensor.to(dtype) for tensor in (first, *rest)]

    def expected(self, tensors: Sequence[torch.Tensor]) -> np.ndarray:
        """What the float64 loops make of these very inputs."""
        arrays = [tensor.double().numpy() for tensor in tensors]
        return LOOPS[self.operator](*arrays, **self.attributes)

    def check(self, actual: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
        """Fails unless ``actual`` is right for ``tensors``."""
        expected, dtype = self.expected(tensors), tensors[0].dtype
        assert tuple(actual.shape) == expected.shape
        if self.operator in LABELS:
            assert actual.dtype == torch.int32
            arrays = [tensor.double().numpy() for tensor in tensors]
            assert_labels(actual.numpy(), LABELS[self.operator](*arrays, **self.attributes))
            return
        assert actual.dtype == dtype
        # Half a unit in the last place of the result (below 2), on top of the arithmetic's own error.
        atol = self.rounding * 2.0**-24 + (torch.finfo(dtype).eps if dtype != torch.float32 else 0.0)
        np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0.0, atol=atol)


def assert_labels(actual: np.ndarray, maps: np.ndarray) -> None:
    """Fails unless each label is a class whose score in ``maps`` is the largest, to within fp32 rounding.

    Scores of ResizeArgmax are in [0, 1) and each is a sum of four products in each of two steps, positions being off by
    2**-24 of the map's side, 64 at most: 2**-24 * (8 + 2 * 64 * 4) < 2**-14. Those of QueryArgmax are sums of at most
    20 products, with a sigmoid, whose slope is at most 1/4, of logits in [-3, 3) between: no more.
    """
    chosen = np.take_along_axis(maps, actual[:, None].astype(np.int64), axis=1)[:, 0]
    assert (maps.max(axis=1) - chosen).max(initial=0.0) <= 2.0**-14
    assert (actual == maps.argmax(axis=1)).mean() >= 0.999 if actual.size else True


LABELS: dict[str, Callable[..., np.ndarray]] = {
    "QueryArgmax": references.query_scores,
    "ResizeArgmax": references.resized_scores,
}
"""Operators that choose among scores, and the scores."""


LOOPS: dict[str, Callable[..., np.ndarray]] = {
    "Carafe": lambda x, m, **attributes: references.carafe(x, m, *attributes.values()),
    "AdaptiveFilter": lambda x, m, **attributes: references.adaptive_filter(x, m, *attributes.values()),
    "DeformableAttention": references.deformable_attention,
    "LocalSimilarity": references.local_similarity,
    "OffsetResample": references.offset_resample,
    "QueryArgmax": references.query_argmax,
    "ResizeArgmax": references.resize_argmax,
}
TORCH_NAMES = {
    "Carafe": "carafe",
    "AdaptiveFilter": "adaptive_filter",
    "DeformableAttention": "deformable_attention",
    "LocalSimilarity": "local_similarity",
    "OffsetResample": "offset_resample",
    "QueryArgmax": "query_argmax",
    "ResizeArgmax": "resize_argmax",
}


def reassembly(
    n: int, c: int, h: int, w: int, k: int, g: int, s: int, mode: int | None = None, padding: int | None = None
) -> Case:
    """A Carafe case, or with ``mode`` one of AdaptiveFilter; ``padding`` is no attribute of older files."""
    shapes = ((n, c, h, w), (n, g * k * k, s * h, s * w))
    attributes: dict[str, Any] = {"kernel_size": k, "group_size": g, "scale_factor": s}
    # A sum of K*K products of numbers in [0, 1) with weights that sum to one is off by at most K*K + 1 units; softmax
    # adds an exponential of a number off by one unit in 16 (logits stay below 16) and a division, on both sides of it.
    stated = {} if padding is None else {"padding": padding}
    if mode is None:
        return Case("Carafe", shapes, {**attributes, **stated}, rounding=k * k + 2)
    window = HAMMING if k == 3 else [1.0] * (k * k)
    attributes = {"window": window, **attributes, "mode": mode, **stated}
    return Case("AdaptiveFilter", shapes, attributes, rounding=k * k + 64)


def similarity(n: int, c: int, h: int, w: int, kernel_size: int, dilation: int) -> Case:
    # Cosines are at most 1; a sum of C products is off by C units of itself, and so is each of the two norms.
    return Case("LocalSimilarity", ((n, c, h, w),), {"kernel_size": kernel_size, "dilation": dilation}, 2 * c + 8)


def resampling(n: int, c: int, h: int, w: int, groups: int) -> Case:
    # Positions are off by two units of the map's side; features in [0, 1) change by at most 1 per pixel and axis.
    shapes = ((n, c, 2 * h, 2 * w), (n, 8 * groups, h, w))
    return Case("OffsetResample", shapes, {"groups": groups}, rounding=2 * 2 * (2 * h + 2 * w) + 32)


def labelling(n: int, c: int, h: int, w: int, sizes: Sequence[int], align_corners: bool = False) -> Case:
    return Case("ResizeArgmax", ((n, c, h, w),), {"sizes": list(sizes), "align_corners": align_corners}, 0)


def attention(n: int, heads: int, channels: int, points: int, sizes: Sequence[int]) -> Case:
    # Values in [0, 1) change by at most 1 per pixel and axis; positions are off by three units of the level's side,
    # from the centre, the ratio of the levels and the offset. Softmax as in `reassembly`.
    tokens = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
    places = len(sizes) // 2 * points
    shapes = ((n, tokens, heads, channels), (n, tokens, heads, 2 * places), (n, tokens, heads, places))
    rounding = 2 * 3 * (max(sizes) + 16) + 4 * places + 64
    return Case("DeformableAttention", shapes, {"sizes": list(sizes)}, rounding)


def query_labelling(n: int, queries: int, classes: int, h: int, w: int, sizes: Sequence[int]) -> Case:
    return Case("QueryArgmax", ((n, queries, h, w), (n, queries, classes + 1)), {"sizes": list(sizes)}, 0)


CASES = [
    pytest.param(case, id=f"{case.operator}-{name}")
    for name, case in [
        ("same-size", reassembly(1, 4, 5, 7, 3, 1, 1)),
        ("upsampled-pair", reassembly(2, 8, 4, 6, 5, 1, 2)),
        ("window-wider-than-map", reassembly(1, 6, 3, 2, 5, 2, 2)),
        ("one-pixel", reassembly(1, 8, 1, 1, 3, 4, 2)),
        ("by-three", reassembly(1, 3, 2, 5, 3, 1, 3)),
        ("kernel-7-five-groups", reassembly(3, 5, 7, 1, 7, 5, 1)),
        ("wide", reassembly(1, 9, 3, 67, 5, 1, 2)),
        ("empty-batch", reassembly(0, 4, 5, 7, 3, 1, 2)),
        ("lowpass", reassembly(1, 5, 4, 7, 5, 1, 2, mode=0)),
        ("lowpass-window", reassembly(2, 6, 5, 3, 3, 3, 2, mode=0)),
        ("highpass-window", reassembly(1, 7, 6, 19, 3, 1, 1, mode=1)),
        ("sharpen-window", reassembly(2, 4, 3, 37, 3, 2, 1, mode=2)),
        ("sharpen-one-pixel", reassembly(1, 2, 1, 1, 5, 1, 1, mode=2)),
        ("lowpass-empty-batch", reassembly(0, 4, 5, 7, 3, 1, 2, mode=0)),
        ("zeros-as-stated", reassembly(1, 4, 5, 7, 3, 1, 2, padding=0)),
        ("reflected", reassembly(2, 6, 5, 37, 5, 2, 2, padding=1)),
        ("reflected-smallest", reassembly(1, 3, 3, 4, 5, 1, 3, padding=1)),
        ("lowpass-reflected", reassembly(1, 9, 3, 67, 5, 1, 2, mode=0, padding=1)),
        ("highpass-reflected", reassembly(2, 5, 2, 19, 3, 1, 1, mode=1, padding=1)),
        ("sharpen-reflected", reassembly(1, 8, 9, 4, 7, 2, 1, mode=2, padding=1)),
        ("default", similarity(1, 16, 9, 7, 3, 2)),
        ("kernel-5", similarity(2, 5, 8, 35, 5, 1)),
        ("all-outside", similarity(1, 3, 2, 2, 3, 2)),
        ("one-channel", similarity(1, 1, 4, 5, 3, 2)),
        ("empty-batch", similarity(0, 3, 4, 5, 3, 2)),
        ("four-groups", resampling(1, 8, 5, 7, 4)),
        ("pair-wide", resampling(2, 6, 3, 33, 2)),
        ("one-cell", resampling(1, 3, 1, 1, 1)),
        ("empty-batch", resampling(0, 4, 2, 3, 4)),
        ("two-steps", labelling(1, 19, 7, 9, (28, 36, 23, 41))),
        ("one-step-pair", labelling(2, 5, 8, 6, (31, 17, 31, 17))),
        ("down", labelling(1, 7, 20, 30, (10, 15, 7, 5))),
        ("corners", labelling(1, 11, 5, 8, (17, 29, 11, 13), align_corners=True)),
        ("one-pixel", labelling(1, 3, 1, 1, (4, 5, 6, 7))),
        ("one-class", labelling(1, 1, 3, 3, (5, 5, 5, 5))),
        ("empty-batch", labelling(0, 4, 3, 3, (5, 5, 7, 7))),
        ("three-levels", attention(2, 3, 20, 4, (2, 3, 5, 7, 4, 6))),
        ("one-channel", attention(1, 2, 1, 3, (3, 4))),
        ("one-pixel-levels", attention(1, 8, 32, 4, (1, 1, 1, 9, 13, 1))),
        ("many-channels", attention(1, 1, 70, 5, (4, 5, 3, 2))),
        ("many-places", attention(1, 2, 8, 128, (3, 3, 1, 2))),
        ("empty-batch", attention(0, 2, 4, 4, (2, 3, 1, 1))),
        ("cropped-down", query_labelling(2, 20, 7, 6, 9, (24, 36, 21, 33, 10, 13))),
        ("cropped-up", query_labelling(1, 9, 13, 4, 6, (16, 24, 15, 22, 37, 61))),
        ("as-it-is", query_labelling(1, 7, 5, 5, 35, (20, 140, 20, 140, 20, 140))),
        ("rows-alone", query_labelling(1, 3, 4, 3, 5, (12, 20, 9, 17, 23, 17))),
        ("masks-enlarged-least", query_labelling(1, 4, 6, 9, 30, (9, 31, 9, 31, 9, 16))),
        ("one-pixel", query_labelling(1, 2, 3, 1, 1, (4, 5, 1, 1, 6, 7))),
        ("one-class", query_labelling(1, 1, 1, 2, 3, (8, 12, 5, 7, 3, 4))),
        ("empty-batch", query_labelling(0, 4, 3, 2, 2, (8, 8, 7, 7, 9, 9))),
    ]
]


GOLDENS = Path(__file__).resolve().parents[1] / "data" / "segnext" / "goldens"


def golden_calls() -> list[Any]:
    """Every golden of a single operator, as (operator, its input arrays, its attributes, its output)."""
    calls = []
    for path in sorted(GOLDENS.glob("*.npz")):
        with np.load(path) as arrays:
            meta = json.loads(str(arrays["meta"]))
            if path.stem.startswith("carafe_"):
                names = ("x", "mask")
                keys = {"kernel_size": "kernel_size", "group_size": "group", "scale_factor": "scale"}
                operator = "Carafe"
            elif path.stem.startswith("similarity_"):
                names, keys, operator = ("x",), {"kernel_size": "k", "dilation": "dilation"}, "LocalSimilarity"
            elif path.stem.startswith("sampler_rawsample_"):
                names, keys, operator = ("x", "offset"), {"groups": "groups"}, "OffsetResample"
            else:
                continue
            inputs = [torch.from_numpy(arrays[name]) for name in names]
            attributes = {name: meta[key] for name, key in keys.items()}
            calls.append(pytest.param(operator, inputs, attributes, arrays["out"], id=path.stem))
    return calls


def assert_matches_golden(actual: torch.Tensor, expected: np.ndarray) -> None:
    """Fails if any value is off by more than 5e-5 standard deviations, a seventh of which fp32 itself may take up."""
    assert tuple(actual.shape) == expected.shape
    assert np.abs(actual.double().numpy() - expected).max() <= 5e-5 * expected.std()
