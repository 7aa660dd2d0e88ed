# SPDX-License-Identifier: Apache-2.0
"""Tensors of more than 2^31 elements, of which the last rows are compared: those that a 32-bit index cannot reach."""

from __future__ import annotations

import fast_references as references
import torch
from correctness import ROUNDING, SMALLEST, WrongResultError, share_of_allowance, sum_error
from kernels import (
    LAYOUT_NAMES,
    NCHW,
    NHWC,
    CarafeShape,
    DeformableAttentionShape,
    Library,
    LocalSimilarityShape,
    OffsetResampleShape,
    QueryArgmaxShape,
    ResizeArgmaxShape,
)
from torch import Tensor

SIDE = 5800  # 64 * 5800^2 = 2.15e9 > 2^31
CHANNELS = 64
ROWS = 24  # compared; more than any window reaches
NEEDED_BYTES = 14 << 30  # two such tensors of fp16, a mask, and the last rows in float64
DTYPE = torch.float16


def filled(size: tuple[int, int, int, int], layout: int) -> tuple[Tensor, Tensor]:
    """Memory of a tensor with varied small values, and its view ``(N, C, H, W)``. C is a multiple of 8."""
    n, c, h, w = size
    memory = torch.empty(n * c * h * w, dtype=DTYPE, device="cuda")
    for part in memory.split(1 << 28):
        part.normal_()
    view = memory.view(n, c, h, w) if layout == NCHW else memory.view(n, h, w, c).permute(0, 3, 1, 2)
    return memory, view


def compare(name: str, actual: Tensor, expected: Tensor, allowance: Tensor) -> float:
    share = share_of_allowance(actual, expected, allowance + SMALLEST[DTYPE])
    if share > 1:
        raise WrongResultError(f"{name}: beyond 2^31 elements the largest error is {share:.3g} times its allowance")
    return share


def check_carafe(library: Library, layout: int) -> float:
    side = SIDE // 2
    x_memory, x = filled((1, CHANNELS, side, side), layout)
    mask_memory, mask = filled((1, 16, SIDE, SIDE), layout)  # 9 taps; channels last pads them to 16
    if layout == NCHW:
        mask_memory, mask = mask_memory[: 9 * SIDE * SIDE], mask[:, :9]
    out_memory, out = filled((1, CHANNELS, SIDE, SIDE), layout)
    shape = CarafeShape(1, CHANNELS, side, side, 3, 1, 2)
    library.call(
        "carafe", shape, library.form(DTYPE, layout), x_memory.data_ptr(), mask_memory.data_ptr(), out_memory.data_ptr()
    )
    torch.cuda.synchronize()
    x_end, mask_end = x[:, :, -ROWS:, -64:].double(), mask[:, :9, -2 * ROWS :, -128:].double()
    expected = references.carafe(x_end, mask_end, 3, 1, 2)[:, :, 2:, 2:]
    size = references.carafe(x_end.abs(), mask_end.abs(), 3, 1, 2)[:, :, 2:, 2:]
    allowance = 1.001 * ROUNDING[DTYPE] * expected.abs() + sum_error(DTYPE, 3) * size
    return compare("carafe", out[:, :, 2 - 2 * ROWS :, 2 - 128 :], expected, allowance)


def check_similarity(library: Library, layout: int) -> float:
    x_memory, x = filled((1, CHANNELS, SIDE, SIDE), layout)
    out_memory, out = filled((1, 8, SIDE, SIDE), layout)
    shape = LocalSimilarityShape(1, CHANNELS, SIDE, SIDE, 3, 2)
    library.call("local_similarity", shape, library.form(DTYPE, layout), x_memory.data_ptr(), out_memory.data_ptr())
    torch.cuda.synchronize()
    expected = references.local_similarity(x[:, :, -ROWS:, -64:].double(), 3, 2)[:, :, 2:, 2:]
    allowance = 1.001 * ROUNDING[DTYPE] * expected.abs() + 2 * (CHANNELS + 8) * 2.0**-24
    return compare("local_similarity", out[:, :, 2 - ROWS :, 2 - 64 :], expected, allowance)


def check_resample(library: Library, layout: int) -> float:
    x_memory, x = filled((1, CHANNELS, SIDE, SIDE), layout)
    offset_memory, offsets = filled((1, 8, SIDE // 2, SIDE // 2), layout)
    offsets.clamp_(-3, 3)
    out_memory, out = filled((1, CHANNELS, SIDE, SIDE), layout)
    shape = OffsetResampleShape(1, CHANNELS, SIDE // 2, SIDE // 2, 1)
    pointers = (x_memory.data_ptr(), offset_memory.data_ptr(), out_memory.data_ptr())
    library.call("offset_resample", shape, library.form(DTYPE, layout), *pointers)
    torch.cuda.synchronize()
    x_end, offsets_end = x[:, :, -ROWS:, -64:].double(), offsets[:, :, -ROWS // 2 :, -32:].double()
    expected = references.offset_resample(x_end, offsets_end, 1)[:, :, 8:, 8:]
    position = (2 * SIDE + 8) * 2.0**-22  # coordinates of the whole map, in fp32
    allowance = 1.001 * ROUNDING[DTYPE] * expected.abs() + 2 * float(x_end.abs().max()) * position
    return compare("offset_resample", out[:, :, 8 - ROWS :, 8 - 64 :], expected, allowance)


def check_resize(library: Library, layout: int) -> float:
    scores_memory, scores = filled((1, CHANNELS, SIDE, SIDE), layout)
    labels = torch.full((1, SIDE, SIDE), -1, dtype=torch.int32, device="cuda")
    shape = ResizeArgmaxShape(1, CHANNELS, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, False)
    library.call("resize_argmax", shape, library.form(DTYPE, layout), scores_memory.data_ptr(), labels.data_ptr())
    torch.cuda.synchronize()
    end = scores[:, :, -ROWS:].float()
    chosen = end.gather(1, labels[:, None, -ROWS:].long().clamp(0, CHANNELS - 1))
    if not bool((chosen == end.amax(dim=1, keepdim=True)).all()) or int(labels.min()) < 0:
        raise WrongResultError("resize_argmax: beyond 2^31 elements a label is not that of the largest score")
    return 0.0


def check_attention(library: Library, layout: int) -> float:
    """Of one level and one point; nothing for channels last, which the operator does not take."""
    if layout == NHWC:
        return 0.0
    heads, channels, reach = 8, 8, 3
    tokens = SIDE * SIDE
    value_memory, value = filled((1, tokens, heads, channels), layout)
    offset_memory, offsets = filled((1, tokens, heads, 2), layout)
    logits_memory, logits = filled((1, tokens, heads, 1), layout)
    out_memory, out = filled((1, tokens, heads, channels), layout)
    offsets.clamp_(-reach, reach)
    shape = DeformableAttentionShape.of(1, heads, channels, 1, SIDE, SIDE)
    memories = (value_memory, offset_memory, logits_memory, out_memory)
    pointers = [memory.data_ptr() for memory in memories]
    library.call("deformable_attention", shape, library.form(DTYPE, layout), *pointers)
    torch.cuda.synchronize()

    def end(tensor: Tensor) -> Tensor:
        """The last rows' last 64 places, ``(ROWS, 64, heads, ...)``."""
        return tensor[0].unflatten(0, (SIDE, SIDE))[-ROWS:, -64:]

    parts = [end(tensor).flatten(0, 1)[None].double() for tensor in (value, offsets, logits)]
    expected = references.deformable_attention(*parts, (ROWS, 64))[0].unflatten(0, (ROWS, 64))[8:, 8:]
    # As correctness.check_attention derives it, of a level of this side.
    allowance = float(parts[0].abs().max()) * (4 * (SIDE + reach) * 5 * 2.0**-24 + (4 + 64) * 2.0**-24)
    return compare(
        "deformable_attention", end(out)[8:, 8:], expected, 1.001 * ROUNDING[DTYPE] * expected.abs() + allowance
    )


def check_query(library: Library, layout: int) -> float:
    """Without a change of size, so that the last rows' scores are sums at their own places."""
    if layout == NHWC:
        return 0.0
    queries, classes = CHANNELS, 4
    masks_memory, masks = filled((1, queries, SIDE, SIDE), layout)
    logits = torch.randn(1, queries, classes + 1, dtype=DTYPE, device="cuda")
    labels = torch.full((1, SIDE, SIDE), -1, dtype=torch.int32, device="cuda")
    shape = QueryArgmaxShape(1, queries, classes, *[SIDE] * 8)
    pointers = (masks_memory.data_ptr(), logits.data_ptr(), labels.data_ptr())
    library.call("query_argmax", shape, library.form(DTYPE, layout), *pointers)
    torch.cuda.synchronize()
    shares = logits.double().softmax(dim=2)[..., :-1]
    scores = torch.einsum("nqc,nqhw->nchw", shares, masks[:, :, -ROWS:].double().sigmoid())
    chosen = scores.gather(1, labels[:, None, -ROWS:].long().clamp(0, classes - 1))[:, 0]
    # As correctness.check_query derives it, but for places, which are whole numbers here.
    allowance = float(shares.sum(dim=1).max()) * (queries + 64) * 2.0**-24
    if bool((chosen < scores.amax(dim=1) - 2 * allowance).any()) or int(labels.min()) < 0:
        raise WrongResultError("query_argmax: beyond 2^31 elements a label is not that of the largest score")
    return 0.0


def check_large(library: Library) -> list[str]:
    """A sentence per failure, or one that says why nothing was run."""
    free, _ = torch.cuda.mem_get_info()
    if free < NEEDED_BYTES:
        print(f"tensors beyond 2^31 elements: not run, {free >> 30} GiB are free and {NEEDED_BYTES >> 30} needed")
        return []
    failures = []
    for check in (check_carafe, check_similarity, check_resample, check_attention, check_query, check_resize):
        for layout in (NCHW, NHWC):
            try:
                check(library, layout)
            except (WrongResultError, RuntimeError) as error:
                failures.append(f"{LAYOUT_NAMES[layout]} beyond 2^31 elements: {error}")
            torch.cuda.empty_cache()
    return failures
