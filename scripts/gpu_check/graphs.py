# SPDX-License-Identifier: Apache-2.0
"""Captures every launcher in a CUDA graph and replays it: no allocation, no wait, only the given stream."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial

import cases
import torch
from kernels import (
    LAYOUT_NAMES,
    NCHW,
    NHWC,
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


def launches(library: Library, layout: int) -> list[tuple[str, Sequence[Stored], Callable[[], None]]]:
    """Name, tensors (the output last) and call of every operator; each call reads the stream anew."""
    dtype = torch.float16

    def made(*sizes: tuple[int, int, int, int]) -> list[Stored]:
        tensors = [Stored(library, size, dtype, layout) for size in sizes]
        for tensor in tensors[:-1]:
            tensor.view.normal_()
        return tensors

    window = window_array(cases.window_of(5, is_plain=False))
    reassembly = CarafeShape(1, 40, 12, 20, 5, 1, 2)
    carafe = made((1, 40, 12, 20), (1, 25, 24, 40), (1, 40, 24, 40))
    adaptive = made((1, 40, 12, 20), (1, 25, 24, 40), (1, 40, 24, 40))
    similarity = made((1, 40, 12, 20), (1, 8, 12, 20))
    resample = made((1, 40, 24, 40), (1, 32, 12, 20), (1, 40, 24, 40))
    resize = [*made((1, 19, 6, 8), (1, 1, 1, 1))[:1], Stored(library, (1, 1, 45, 61), torch.int32, NCHW)]

    def call(operator: str, shape: object, tensors: Sequence[Stored]) -> None:
        pointers = [t.address for t in tensors]
        if operator == "adaptive_filter":
            library.call(operator, shape, library.form(dtype, layout), *pointers[:2], window, pointers[2])
        else:
            library.call(operator, shape, library.form(dtype, layout), *pointers)

    calls = [
        ("carafe", reassembly, carafe),
        ("adaptive_filter", AdaptiveFilterShape(reassembly, 0), adaptive),
        ("local_similarity", LocalSimilarityShape(1, 40, 12, 20, 3, 2), similarity),
        ("offset_resample", OffsetResampleShape(1, 40, 12, 20, 4), resample),
        ("resize_argmax", ResizeArgmaxShape(1, 19, 6, 8, 48, 64, 45, 61, False), resize),
    ]
    if layout == NCHW:
        sides = (ctypes.c_int32 * 4)(32, 16, 8, 4)
        boxes = Stored(library, (1, 9, 4, 1), torch.float32, NCHW)
        boxes.view.copy_(torch.tensor([8.0, 4.0, 60.0, 90.0]).view(1, 1, 4, 1))
        *maps, out = made(*((1, 8, side, side) for side in sides), (9, 8, 7, 7))
        calls.append(("pyramid_roi_align", PyramidRoiAlignShape(1, 8, sides, sides, 9, 7, 4, 56), [*maps, boxes, out]))
        attention = made((1, 44, 4, 16), (1, 44, 4, 16), (1, 44, 4, 8), (1, 44, 4, 16))
        calls.append(("deformable_attention", DeformableAttentionShape.of(1, 4, 16, 4, 4, 5, 3, 8), attention))
        queries = [
            *made((1, 20, 6, 8), (1, 20, 14, 1), (1, 1, 1, 1))[:2],
            Stored(library, (1, 1, 33, 50), torch.int32, NCHW),
        ]
        calls.append(("query_argmax", QueryArgmaxShape(1, 20, 13, 6, 8, 24, 32, 22, 31, 33, 50), queries))
    return [(name, tensors, partial(call, name, shape, tensors)) for name, shape, tensors in calls]


def check_graphs(library: Library) -> list[str]:
    """A sentence per launcher that cannot be captured, or whose replay differs from a plain call."""
    failures = []
    for layout in (NCHW, NHWC):
        for name, tensors, call in launches(library, layout):
            output = tensors[-1].flat
            call()
            torch.cuda.synchronize()
            wanted = output.clone()
            output.fill_(-1)
            try:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    call()
                torch.cuda.synchronize()
                was_run_early = not bool((output == -1).all())
                graph.replay()
                torch.cuda.synchronize()
            except (KernelError, RuntimeError) as error:
                failures.append(f"{name} {LAYOUT_NAMES[layout]} in a CUDA graph: {error}")
                continue
            if was_run_early:
                failures.append(f"{name} {LAYOUT_NAMES[layout]} ran while it was captured: it used another stream")
            if not torch.equal(output, wanted):
                failures.append(f"{name} {LAYOUT_NAMES[layout]}: a graph's replay differs from a plain call")
    return failures
