# SPDX-License-Identifier: Apache-2.0
"""The launchers of the CUDA kernels, called through ctypes with tensors of a GPU or of its emulation on the host."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # in the order of freqfusion::DType
NCHW, NHWC = 0, 1  # freqfusion::Layout
LAYOUT_NAMES = ("nchw", "nhwc")
AUTOMATIC, DIRECT, FP32_UNITS, TENSOR_CORES = range(4)  # freqfusion::ReassemblyTactic
TACTIC_NAMES = ("automatic", "direct", "fp32_units", "tensor_cores")
CHANNEL_PITCH = 8


class CarafeShape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("batch", "channels", "height", "width", "kernel_size", "groups", "scale", "padding")
    ]


class AdaptiveFilterShape(ctypes.Structure):
    _fields_ = [("reassembly", CarafeShape), ("mode", ctypes.c_int32)]


class DeformableAttentionShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("batch", "heads", "channels", "levels", "points")),
        ("height", ctypes.c_int32 * 8),
        ("width", ctypes.c_int32 * 8),
    ]

    @classmethod
    def of(cls, batch: int, heads: int, channels: int, points: int, *sizes: int) -> DeformableAttentionShape:
        """With levels of ``sizes``, a height and a width each."""
        rest = [1] * (8 - len(sizes) // 2)
        height, width = ((ctypes.c_int32 * 8)(*sizes[axis::2], *rest) for axis in (0, 1))
        return cls(batch, heads, channels, len(sizes) // 2, points, height, width)


class LocalSimilarityShape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("batch", "channels", "height", "width", "kernel_size", "dilation")]


class OffsetResampleShape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("batch", "channels", "height", "width", "groups")]


class PyramidRoiAlignShape(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("height", ctypes.c_int32 * 4),
        ("width", ctypes.c_int32 * 4),
        ("boxes", ctypes.c_int32),
        ("output_size", ctypes.c_int32),
        ("finest_stride", ctypes.c_int32),
        ("finest_scale", ctypes.c_int32),
    ]


class QueryArgmaxShape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "batch",
            "queries",
            "classes",
            "height",
            "width",
            "padded_height",
            "padded_width",
            "kept_height",
            "kept_width",
            "out_height",
            "out_width",
        )
    ]


class ResizeArgmaxShape(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "batch",
                "classes",
                "height",
                "width",
                "step_height",
                "step_width",
                "out_height",
                "out_width",
            )
        ),
        ("align_corners", ctypes.c_bool),
    ]


class Form(ctypes.Structure):
    """How a call's tensors are stored, and the stream it runs on."""

    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("tactic", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    ]


class KernelError(RuntimeError):
    """A launcher refused a call or the device reported an error."""


class Stored:
    """A tensor in device memory in one of the kernels' layouts, with guarded surroundings.

    Args:
        library: Whose device it is for.
        size: ``(N, C, H, W)``.
        shift: Elements by which the data is moved from a 256-byte boundary.

    The memory of a new one holds NaN throughout (-1 for integers).
    """

    def __init__(self, library: Library, size: Sequence[int], dtype: torch.dtype, layout: int, shift: int = 0) -> None:
        self.size, self.layout = tuple(size), layout
        n, c, h, w = size
        self.pitch = -(-c // CHANNEL_PITCH) * CHANNEL_PITCH if layout == NHWC else c
        self.count = n * self.pitch * h * w
        start = library.guard + shift
        whole = library.allocate(start + self.count + library.guard, dtype)
        self.flat = whole[start : start + self.count]
        self._surroundings = (whole[:start], whole[start + self.count :])

    @property
    def view(self) -> Tensor:
        """``(N, C, H, W)`` over the memory, without the padding."""
        n, c, h, w = self.size
        if self.layout == NCHW:
            return self.flat.view(n, c, h, w)
        return self.flat.view(n, h, w, self.pitch)[..., :c].permute(0, 3, 1, 2)

    @property
    def padding(self) -> Tensor:
        """What each pixel holds beyond its channels."""
        n, c, h, w = self.size
        if self.layout == NCHW:
            return self.flat[:0]
        return self.flat.view(n, h, w, self.pitch)[..., c:]

    @property
    def address(self) -> int:
        return self.flat.data_ptr()

    def is_surrounded(self) -> bool:
        """Whether the memory before and after is as it was."""
        surroundings = torch.cat(self._surroundings)
        return bool((surroundings == -1).all() if not surroundings.is_floating_point() else surroundings.isnan().all())


class Library:
    """A library made from ``plugins/gpu_check/launchers.cpp`` and the device it runs on, ``cuda`` or ``cpu``.

    Args:
        guard: Elements on either side of a tensor that a kernel must not touch. With 0 tensors fill their allocations,
            which is what tools that watch allocations need.
    """

    def __init__(self, path: Path, device: str, guard: int = 64) -> None:
        self.path, self.device, self.guard = path, device, guard
        self._functions = ctypes.CDLL(str(path))
        self._functions.freqfusion_check_reason.restype = ctypes.c_char_p
        self._emulates = device == "cpu"
        if self._emulates:
            self._functions.freqfusion_check_allocate.restype = ctypes.c_void_p
            self._functions.freqfusion_check_allocate.argtypes = [ctypes.c_size_t, ctypes.c_int]
            self._functions.freqfusion_check_release.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def allocate(self, count: int, dtype: torch.dtype) -> Tensor:
        value = float("nan") if dtype.is_floating_point else -1
        return torch.full((count,), value, dtype=dtype, device=self.device)

    def at_page_end(self, tensor: Tensor) -> int:
        """Address of a copy whose last byte lies before memory that may not be touched. Emulation only."""
        size = tensor.numel() * tensor.element_size()
        address = self._functions.freqfusion_check_allocate(size, 0)
        if not address:
            raise MemoryError(f"no guarded memory for {size} bytes")
        ctypes.memmove(address, tensor.data_ptr(), size)
        return int(address)

    def copy_back(self, address: int, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        ctypes.memmove(tensor.data_ptr(), address, size)
        self._functions.freqfusion_check_release(address, size)

    def form(self, dtype: torch.dtype, layout: int, tactic: int = AUTOMATIC) -> Form:
        """Of a call on the current stream."""
        stream = 0 if self._emulates else torch.cuda.current_stream().cuda_stream
        return Form(DTYPES.index(dtype), layout, tactic, 0, stream)

    def has_tactic(self, shape: CarafeShape, form: Form) -> bool:
        return bool(self._functions.freqfusion_check_is_tactic(ctypes.byref(shape), ctypes.byref(form)))

    def status(self, operator: str, shape: ctypes.Structure, form: Form, *pointers: int | ctypes.Array) -> int:
        """The ``cudaError_t`` of one call. Integers are addresses in device memory."""
        function = getattr(self._functions, f"freqfusion_check_{operator}")
        arguments = [ctypes.c_void_p(p) if isinstance(p, int) else p for p in pointers]
        return int(function(ctypes.byref(shape), ctypes.byref(form), *arguments))

    def call(self, operator: str, shape: ctypes.Structure, form: Form, *pointers: int | ctypes.Array) -> None:
        """Runs one operator.

        Raises:
            KernelError: If its launcher does not return success.
        """
        status = self.status(operator, shape, form, *pointers)
        if status != 0:
            reason = self._functions.freqfusion_check_reason(status).decode()
            raise KernelError(f"{operator} returned error {status}: {reason}")


def window_array(window: Sequence[float]) -> ctypes.Array:
    return (ctypes.c_float * len(window))(*window)
