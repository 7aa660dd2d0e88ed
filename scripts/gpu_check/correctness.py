# SPDX-License-Identifier: Apache-2.0
"""Runs every kernel on every size, type, layout and alignment and compares it with the float64 definitions."""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import cases
import fast_references as references
import torch
from kernels import (
    AUTOMATIC,
    DIRECT,
    DTYPES,
    LAYOUT_NAMES,
    NCHW,
    NHWC,
    TACTIC_NAMES,
    AdaptiveFilterShape,
    CarafeShape,
    DeformableAttentionShape,
    KernelError,
    Library,
    LocalSimilarityShape,
    OffsetResampleShape,
    PyramidRoiAlignShape,
    QueryArgmaxShape,
    ResizeArgmaxShape,
    Stored,
    window_array,
)
from torch import Tensor

# Half a unit in the last place of each type, relative: what storing an exact result costs.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST = {torch.float32: 2.0**-140, torch.float16: 2.0**-25, torch.bfloat16: 2.0**-130}  # half a subnormal step
# What is lost where two elements stand for an fp32 weight, relative to it.
SPLIT_ERROR = {torch.float32: 0.0, torch.float16: 2.0**-21, torch.bfloat16: 2.0**-16}


def sum_error(dtype: torch.dtype, kernel_size: int) -> float:
    """Share of sum |w x| that a reassembly may be off by: K*K fp32 additions, exp2 of a rounded argument below 32."""
    return (kernel_size**2 + 64) * 2.0**-24 + SPLIT_ERROR[dtype]


class WrongResultError(AssertionError):
    """A kernel wrote something else than the definition says."""


@dataclass
class Tally:
    """Cases run, and the largest share of its allowance that any error took."""

    count: int = 0
    worst: dict[str, float] = field(default_factory=dict)

    def add(self, operator: str, share: float) -> None:
        self.count += 1
        self.worst[operator] = max(self.worst.get(operator, 0.0), share)


def random_tensor(size: Sequence[int], dtype: torch.dtype, seed: int, device: str) -> Tensor:
    """Normal numbers, rounded to ``dtype``."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(size), generator=generator, device=device, dtype=torch.float32).to(dtype)


def stored(library: Library, values: Tensor, layout: int, shift: int) -> Stored:
    result = Stored(library, values.shape, values.dtype, layout, shift)
    result.view.copy_(values)
    return result


def launch(
    library: Library,
    call: Callable[..., None],
    tensors: Sequence[Stored],
    at_page_end: bool,
) -> None:
    """Calls a launcher with the tensors' addresses, waits, and checks the memory around them.

    ``at_page_end`` (emulation only): with copies that end where memory ends.
    """
    if library.device == "cuda" or not at_page_end:
        call(*(tensor.address for tensor in tensors))
        if library.device == "cuda":
            torch.cuda.synchronize()
    else:
        addresses = [library.at_page_end(tensor.flat) for tensor in tensors]
        call(*addresses)
        for address, tensor in zip(addresses, tensors, strict=True):
            library.copy_back(address, tensor.flat)
    for tensor in tensors:
        if not tensor.is_surrounded():
            raise WrongResultError("memory beside a tensor was written")


def share_of_allowance(actual: Tensor, expected: Tensor, allowance: Tensor) -> float:
    """Largest |error| / allowance; infinity where the result is NaN and the definition is not."""
    if actual.numel() == 0:
        return 0.0
    share = (actual.double() - expected).abs() / allowance
    return float(share.nan_to_num(nan=float("inf")).max())


def check_output(output: Stored, expected: Tensor, allowance: Tensor) -> float:
    if output.padding.numel() and not bool((output.padding == 0).all()):
        raise WrongResultError("the padding of channels-last pixels is not zero")
    share = share_of_allowance(output.view, expected, allowance)
    if share > 1:
        raise WrongResultError(f"the largest error is {share:.3g} times its allowance")
    return share


@dataclass(frozen=True)
class Variant:
    """One way of storing a call's tensors."""

    dtype: torch.dtype
    layout: int
    shift: int
    at_page_end: bool
    tactic: int = AUTOMATIC

    def __str__(self) -> str:
        parts = [str(self.dtype).removeprefix("torch."), LAYOUT_NAMES[self.layout], TACTIC_NAMES[self.tactic]]
        return " ".join(parts + ["unaligned"] * bool(self.shift) + ["at the end of memory"] * self.at_page_end)


def variants(library: Library, has_tactics: bool) -> Iterator[Variant]:
    """All types and layouts, aligned and not; the emulation also with tensors at the end of mapped memory."""
    places = [(0, False), (1, False)] + ([(0, True)] if library.device == "cpu" else [])
    for dtype, layout, (shift, at_end) in itertools.product(DTYPES, (NCHW, NHWC), places):
        for tactic in range(len(TACTIC_NAMES)) if has_tactics else (AUTOMATIC,):
            yield Variant(dtype, layout, shift, at_end, tactic)


def check_reassembly(library: Library, sizes: tuple[int, ...], variant: Variant, mode: int | None) -> float | None:
    """``Carafe``, or for a ``mode`` ``AdaptiveFilter``; None if the variant's kernel is not for these sizes."""
    n, c, h, w, kernel_size, groups, scale, padding = (*sizes, 0)[:8]
    shape = CarafeShape(*sizes)
    form = library.form(variant.dtype, variant.layout, variant.tactic)
    if variant.tactic > DIRECT and not (library.has_tactic(shape, form) and n * c * h * w):
        return None
    x = random_tensor((n, c, h, w), variant.dtype, 1, library.device)
    taps = random_tensor((n, groups * kernel_size**2, scale * h, scale * w), variant.dtype, 2, library.device)
    taps = taps if mode is None else 2 * taps
    window = cases.window_of(kernel_size, is_plain=mode == 1)
    output = Stored(library, (n, c, scale * h, scale * w), variant.dtype, variant.layout, variant.shift)
    tensors = [stored(library, t, variant.layout, variant.shift) for t in (x, taps)] + [output]
    try:
        if mode is None:
            launch(library, lambda *p: library.call("carafe", shape, form, *p), tensors, variant.at_page_end)
        else:
            filter_shape = AdaptiveFilterShape(shape, mode)
            launch(
                library,
                lambda a, b, o: library.call("adaptive_filter", filter_shape, form, a, b, window_array(window), o),
                tensors,
                variant.at_page_end,
            )
    except KernelError:
        if variant.shift and variant.layout == NHWC and variant.tactic > DIRECT:
            return None  # these kernels move 16 bytes at a time and refuse what is not aligned
        raise
    x64, taps64 = x.double(), taps.double()
    weights = taps64 if mode is None else references.normalize_taps(taps64, window, kernel_size)
    filtered = references.carafe(x64, weights, kernel_size, groups, scale, padding)
    size = references.carafe(x64.abs(), weights.abs(), kernel_size, groups, scale, padding)
    if mode:
        filtered, size = mode * x64 - filtered, size + mode * x64.abs()
    allowance = 1.001 * ROUNDING[variant.dtype] * filtered.abs() + sum_error(variant.dtype, kernel_size) * size
    return check_output(output, filtered, allowance + SMALLEST[variant.dtype])


def check_similarity(library: Library, sizes: tuple[int, ...], variant: Variant) -> float:
    n, c, h, w, kernel_size, dilation = sizes
    x = random_tensor((n, c, h, w), variant.dtype, 3, library.device)
    if h > 1:
        x[:, :, 1, 0] = 0  # a vector without direction
    output = Stored(library, (n, kernel_size**2 - 1, h, w), variant.dtype, variant.layout, variant.shift)
    tensors = [stored(library, x, variant.layout, variant.shift), output]
    form = library.form(variant.dtype, variant.layout)
    shape = LocalSimilarityShape(*sizes)
    launch(library, lambda *p: library.call("local_similarity", shape, form, *p), tensors, variant.at_page_end)
    expected = references.local_similarity(x.double(), kernel_size, dilation)
    # A cosine is at most 1; its three fp32 sums of c products are each off by at most c * 2^-24 of that.
    allowance = 1.001 * ROUNDING[variant.dtype] * expected.abs() + 2 * (c + 8) * 2.0**-24
    return check_output(output, expected, allowance + SMALLEST[variant.dtype])


def check_resample(library: Library, sizes: tuple[int, ...], variant: Variant) -> float:
    n, c, h, w, groups = sizes
    x = random_tensor((n, c, 2 * h, 2 * w), variant.dtype, 4, library.device)
    offsets = random_tensor((n, 8 * groups, h, w), variant.dtype, 5, library.device)
    output = Stored(library, x.shape, variant.dtype, variant.layout, variant.shift)
    tensors = [stored(library, t, variant.layout, variant.shift) for t in (x, offsets)] + [output]
    form = library.form(variant.dtype, variant.layout)
    shape = OffsetResampleShape(*sizes)
    launch(library, lambda *p: library.call("offset_resample", shape, form, *p), tensors, variant.at_page_end)
    expected = references.offset_resample(x.double(), offsets.double(), groups)
    # fp32 coordinates are off by up to 2^-23 of themselves, and values change by at most 2 max |x| from pixel to pixel.
    largest = float(x.abs().max()) if x.numel() else 0.0
    position = (2 * max(h, w) + 8) * 2.0**-22
    allowance = 1.001 * ROUNDING[variant.dtype] * expected.abs() + 2 * largest * position
    return check_output(output, expected, allowance + SMALLEST[variant.dtype])


def check_pyramid(library: Library, sizes: tuple[int, ...], variant: Variant) -> float | None:
    """None for channels-last maps, which this operator does not take."""
    if variant.layout == NHWC:
        return None
    n, c, h, w, m, cells = sizes
    maps, boxes = cases.pyramid(sizes, variant.dtype, library.device)
    output = Stored(library, (n * m, c, cells, cells), variant.dtype, NCHW, variant.shift)
    tensors = [stored(library, t, NCHW, variant.shift) for t in (*maps, boxes[..., None])] + [output]
    heights, widths = ((ctypes.c_int32 * 4)(*(x.shape[axis] for x in maps)) for axis in (2, 3))
    attributes = (cells, cases.PYRAMID_STRIDE, cases.PYRAMID_SCALE)
    shape = PyramidRoiAlignShape(n, c, heights, widths, m, *attributes)
    form = library.form(variant.dtype, NCHW)
    launch(library, lambda *p: library.call("pyramid_roi_align", shape, form, *p), tensors, variant.at_page_end)
    expected = references.pyramid_roi_align([x.double() for x in maps], boxes.double(), *attributes)
    # Five roundings put a sample off by 2^-21 of the places that boxes reach, along either axis; values change by at
    # most 2 max |x| from pixel to pixel. A sum has a sample for each pixel and five more a side, at most.
    largest = max((float(x.abs().max()) for x in maps if x.numel()), default=0.0)
    allowance = largest * (2 * 2 * (2 * max(h, w) + 8) * 2.0**-21 + (h + 5) * (w + 5) * 2.0**-24)
    allowance = 1.001 * ROUNDING[variant.dtype] * expected.abs() + allowance
    return check_output(output, expected, allowance + SMALLEST[variant.dtype])


def check_attention(library: Library, sizes: tuple[int, ...], variant: Variant) -> float | None:
    """None for channels-last tensors, which this operator does not take."""
    if variant.layout == NHWC:
        return None
    value, offsets, logits = cases.attention(sizes, variant.dtype, library.device)
    output = Stored(library, value.shape, variant.dtype, NCHW, variant.shift)
    tensors = [stored(library, t, NCHW, variant.shift) for t in (value, offsets, logits)] + [output]
    form = library.form(variant.dtype, NCHW)
    shape = DeformableAttentionShape.of(*sizes)
    launch(library, lambda *p: library.call("deformable_attention", shape, form, *p), tensors, variant.at_page_end)
    expected = references.deformable_attention(value.double(), offsets.double(), logits.double(), sizes[4:])
    # fp32 positions are off by five roundings of the level's side and the offset, and values change by at most twice
    # the largest from pixel to pixel, on two axes; exp by that of its argument; sums by one for each pixel of a place.
    largest = float(value.abs().max()) if value.numel() else 0.0
    position = (max(sizes[4:]) + float(offsets.abs().max() if offsets.numel() else 0.0)) * 5 * 2.0**-24
    sums = (4 * logits.shape[3] + 64) * 2.0**-24
    allowance = 1.001 * ROUNDING[variant.dtype] * expected.abs() + largest * (4 * position + sums)
    return check_output(output, expected, allowance + SMALLEST[variant.dtype])


def check_query(library: Library, sizes: tuple[int, ...], variant: Variant) -> float | None:
    """None for channels-last tensors, which this operator does not take."""
    if variant.layout == NHWC:
        return None
    n, queries, count, h, w = sizes[:5]
    masks = random_tensor((n, queries, h, w), variant.dtype, 9, library.device)
    classes = random_tensor((n, queries, count + 1), variant.dtype, 10, library.device)
    if count > 2:
        classes[:, :, 2] = classes[:, :, 1]  # a tie everywhere, which the lower class must win
    labels = Stored(library, (n, 1, *sizes[9:]), torch.int32, NCHW)
    tensors = [stored(library, t, NCHW, variant.shift) for t in (masks, classes[..., None])] + [labels]
    form = library.form(variant.dtype, NCHW)
    shape = QueryArgmaxShape(*sizes)
    launch(library, lambda *p: library.call("query_argmax", shape, form, *p), tensors, variant.at_page_end)
    scores = references.query_scores(masks.double(), classes.double(), sizes[5:])
    # A score is a sum of shares that are weighed by sigmoids, whose slope is a quarter: see check_resize for positions.
    most = float(classes.double().softmax(dim=2).sum(dim=1).max()) if n else 0.0
    slope = 2 + float(masks.abs().max() if n else 0.0) / 2
    allowance = most * ((max(sizes[3:]) + 8) * 2.0**-22 * slope + (queries + 64) * 2.0**-24)
    return check_labels(labels, scores, allowance)


def check_resize(library: Library, sizes: tuple[int, ...], variant: Variant) -> float:
    n, classes, h, w = sizes[:4]
    steps, align_corners = sizes[4:8], bool(sizes[8])
    scores = random_tensor((n, classes, h, w), variant.dtype, 6, library.device)
    if classes > 2:
        scores[:, 2] = scores[:, 1]  # a tie everywhere, which the lower class must win
    labels = Stored(library, (n, 1, steps[2], steps[3]), torch.int32, NCHW)
    tensors = [stored(library, scores, variant.layout, variant.shift), labels]
    form = library.form(variant.dtype, variant.layout)
    shape = ResizeArgmaxShape(*sizes[:8], align_corners)
    launch(library, lambda *p: library.call("resize_argmax", shape, form, *p), tensors, variant.at_page_end)
    expected = references.resized_scores(scores.double(), steps, align_corners)
    # Two nearly equal scores may change places: coordinates are fp32, scores change by 2 max |score| per pixel.
    largest = float(scores.abs().max()) if scores.numel() else 0.0
    return check_labels(labels, expected, 2 * largest * (max(h, w, *steps) + 8) * 2.0**-22)


def check_labels(labels: Stored, scores: Tensor, allowance: float) -> float:
    """Of each label's score how far it is below the largest; class 2 is class 1 again and must not win."""
    label = labels.view.long()
    if label.numel() == 0:
        return 0.0
    if int(label.min()) < 0 or int(label.max()) >= scores.shape[1] or bool((label == 2).any()):
        raise WrongResultError("a label is none of the classes, or a tie was won by the higher class")
    lost = scores.amax(dim=1, keepdim=True) - scores.gather(1, label)
    share = float(lost.max()) / allowance
    if share > 1:
        raise WrongResultError(f"a label's score is {share:.3g} times the allowance below the largest")
    return share


def check_refusals(library: Library) -> None:
    """Nonsense gives cudaErrorInvalidValue (1) and empty tensors give success, without a launch in either case."""
    form = library.form(torch.float32, NCHW)
    levels = (ctypes.c_int32 * 4)(8, 4, 2, 1)
    refused = [
        ("carafe", CarafeShape(1, 4, 3, 3, 4, 1, 2), 3),
        ("carafe", CarafeShape(1, 4, 3, 3, 5, 3, 2), 3),
        ("carafe", CarafeShape(1, 4, 3, 2, 5, 1, 2, 1), 3),
        ("carafe", CarafeShape(1, 4, 3, 3, 5, 1, 2, 2), 3),
        ("deformable_attention", DeformableAttentionShape.of(1, 2, 4, 200, 3, 3, 1, 1), 4),
        ("local_similarity", LocalSimilarityShape(1, 4, 3, 3, 2, 1), 2),
        ("offset_resample", OffsetResampleShape(1, 4, 3, 3, 0), 3),
        ("pyramid_roi_align", PyramidRoiAlignShape(1, 4, levels, levels, 2, 0, 4, 8), 6),
        ("query_argmax", QueryArgmaxShape(1, 3, 4, 3, 3, 9, 9, 10, 9, 5, 5), 3),
        ("resize_argmax", ResizeArgmaxShape(1, 0, 3, 3, 3, 3, 3, 3, False), 2),
    ]
    for operator, shape, pointers in refused:
        if (status := library.status(operator, shape, form, *[0] * pointers)) != 1:
            raise WrongResultError(f"{operator} returned {status} for a shape that cannot be run, expected 1")
    nonsense = form.__class__(9, NCHW, AUTOMATIC, 0, None)
    if (status := library.status("carafe", CarafeShape(1, 4, 3, 3, 5, 1, 2), nonsense, 0, 0, 0)) != 1:
        raise WrongResultError(f"carafe returned {status} for an unknown element type, expected 1")


def all_checks(
    library: Library, is_small: bool
) -> Iterator[tuple[str, tuple[int, ...], Variant, Callable[[], float | None]]]:
    """Every case: operator, sizes, variant, and what runs it."""

    def both(small: list[tuple[int, ...]], large: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return small if is_small else small + large

    for sizes in both(cases.REASSEMBLY_SMALL, cases.REASSEMBLY_LARGE):
        for variant in variants(library, has_tactics=True):
            yield "carafe", sizes, variant, lambda s=sizes, v=variant: check_reassembly(library, s, v, None)
            for mode in (0, 1, 2) if sizes[6] == 1 else (0,):
                yield (
                    f"adaptive_filter mode {mode}",
                    sizes,
                    variant,
                    lambda s=sizes, v=variant, m=mode: check_reassembly(library, s, v, m),
                )
    for operator, small, large, check in (
        ("deformable_attention", cases.ATTENTION_SMALL, cases.ATTENTION_LARGE, check_attention),
        ("local_similarity", cases.SIMILARITY_SMALL, cases.SIMILARITY_LARGE, check_similarity),
        ("offset_resample", cases.RESAMPLE_SMALL, cases.RESAMPLE_LARGE, check_resample),
        ("pyramid_roi_align", cases.PYRAMID_SMALL, cases.PYRAMID_LARGE, check_pyramid),
        ("query_argmax", cases.QUERY_SMALL, cases.QUERY_LARGE, check_query),
        ("resize_argmax", cases.RESIZE_SMALL, cases.RESIZE_LARGE, check_resize),
    ):
        for sizes in both(small, large):
            for variant in variants(library, has_tactics=False):
                yield operator, sizes, variant, lambda c=check, s=sizes, v=variant: c(library, s, v)


def check_all(library: Library, is_small: bool, deadline: float, every: int = 1) -> tuple[Tally, list[str]]:
    """Runs the checks, of each operator's every ``every``-th, and returns the tally and a sentence per failure."""
    tally, failures = Tally(), []
    check_refusals(library)
    for number, (operator, sizes, variant, check) in enumerate(all_checks(library, is_small)):
        if number % every:
            continue
        if time.monotonic() > deadline:
            failures.append(f"time ran out before {operator} {sizes}: the cases from there on were not checked")
            break
        try:
            share = check()
        except (WrongResultError, KernelError) as error:
            failures.append(f"{operator} {sizes} {variant}: {error}")
            continue
        if share is not None:
            tally.add(operator.split(" ")[0], share)
    return tally, failures
