# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels behind their C functions, at each instruction set this processor has."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from freqfusion import native
from torch import Tensor

LIBRARY = native.find_library()
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
DTYPE_IDS = ["fp32", "fp16", "bf16"]
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SMALLEST = {torch.float32: 0.0, torch.float16: 2.0**-25, torch.bfloat16: 0.0}  # half of the smallest subnormal
LEVELS = ["baseline", "avx2", "avx512"] if platform.machine() in ("x86_64", "AMD64") else ["baseline"]


def has_level(level: str) -> bool:
    """Whether this processor can run the kernels of ``level``."""
    if level == "baseline":
        return True
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    needed = {"avx2": ["avx2", "fma"], "avx512": ["avx512f", "avx512bw", "avx512dq", "avx512vl"]}[level]
    return all(f" {flag}" in flags for flag in needed)


class HostKernels:
    """The library at one instruction set: a copy of the file, since a loaded one has chosen for good."""

    def __init__(self, level: str, folder: Path, threads: int = 2) -> None:
        assert LIBRARY is not None
        copy = shutil.copy(LIBRARY, folder / f"lib_{level}_{threads}.so")
        self.threads = threads
        before = os.environ.get("FREQFUSION_ISA")
        os.environ["FREQFUSION_ISA"] = level
        try:
            self.library = ctypes.CDLL(str(copy))
            self.library.freqfusion_host_level.restype = ctypes.c_char_p
            assert self.library.freqfusion_host_level().decode() == level
        finally:
            del os.environ["FREQFUSION_ISA"]
            if before is not None:
                os.environ["FREQFUSION_ISA"] = before

    def run(self, name: str, inputs: list[Tensor], output: Tensor, *attributes: Any) -> Tensor:
        """Calls ``freqfusion_<name>``; raises ``ValueError`` with the reason it gives."""
        function = getattr(self.library, f"freqfusion_{name}")
        function.restype = ctypes.c_char_p
        tensors = [native._describe(t) for t in (*inputs, output)]
        place = native._Place(0, self.threads, 0, None)
        reason = function(*map(ctypes.byref, tensors), *attributes, ctypes.byref(place))
        if reason is not None:
            raise ValueError(reason.decode())
        return output

    def carafe(self, x: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int = 0) -> Tensor:
        n, c, h, w = x.shape
        output = guarded((n, c, h * scale, w * scale), x.dtype)
        return self.run("carafe", [x, mask], output, kernel_size, groups, scale, padding)

    def adaptive_filter(
        self,
        x: Tensor,
        logits: Tensor,
        window: list[float],
        kernel_size: int,
        groups: int,
        scale: int,
        mode: int,
        padding: int = 0,
    ) -> Tensor:
        n, c, h, w = x.shape
        output = guarded((n, c, h * scale, w * scale), x.dtype)
        factors = (ctypes.c_float * len(window))(*window)
        attributes = (factors, ctypes.c_int64(len(window)), kernel_size, groups, scale, mode, padding)
        return self.run("adaptive_filter", [x, logits], output, *attributes)

    def window_products(self, padded: Tensor, factors: Tensor, kernel_size: int, groups: int) -> Tensor:
        n, _, h, w = factors.shape
        output = guarded((n, groups * kernel_size**2, h, w), torch.float32)
        return self.run("window_products", [padded, factors], output, kernel_size, groups)

    def local_similarity(self, x: Tensor, kernel_size: int, dilation: int) -> Tensor:
        n, _, h, w = x.shape
        return self.run("local_similarity", [x], guarded((n, kernel_size**2 - 1, h, w), x.dtype), kernel_size, dilation)

    def offset_resample(self, x: Tensor, offsets: Tensor, groups: int) -> Tensor:
        return self.run("offset_resample", [x, offsets], guarded(tuple(x.shape), x.dtype), groups)

    def deformable_attention(self, value: Tensor, offsets: Tensor, logits: Tensor, sizes: list[int]) -> Tensor:
        attributes = ((ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_int64(len(sizes)))
        output = guarded(tuple(value.shape), value.dtype)
        return self.run("deformable_attention", [value, offsets, logits], output, *attributes)

    def query_argmax(self, masks: Tensor, classes: Tensor, sizes: list[int]) -> Tensor:
        labels = guarded((masks.shape[0], 1, *sizes[4:]), torch.int32)
        return self.run("query_argmax", [masks, classes.unsqueeze(3)], labels, *sizes[:4]).squeeze(1)

    def resize_argmax(self, scores: Tensor, sizes: list[int], align_corners: bool) -> Tensor:
        labels = guarded((scores.shape[0], 1, *sizes[2:]), torch.int32)
        return self.run("resize_argmax", [scores], labels, *sizes[:2], int(align_corners)).squeeze(1)


def guarded(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An output filled with values that no kernel writes, so that one left out is seen."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else -7, dtype=dtype)
