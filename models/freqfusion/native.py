# SPDX-License-Identifier: Apache-2.0
"""Runs the operators' native kernels on PyTorch tensors, through a C library that is loaded when it is there.

Every operator here has the arguments of its namesake in ``freqfusion.ops``, trusts that they were checked there, and
returns ``None`` where the PyTorch definition has to do: no library, a dtype without kernel, a device it was not built
for. The environment variable ``FREQFUSION_NATIVE=0`` turns all of it off.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIBRARY = "libfreqfusion_c.so"
ABI_VERSION = 4  # FREQFUSION_ABI_VERSION in plugins/torch/c_abi.h
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int32: 3}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MOST_LEVELS, MOST_PLACES = 8, 256  # kMaxAttentionLevels, kMaxAttentionPlaces in plugins/kernels/deformable_attention.h
MOST_QUERIES = 768  # kMaxQueries in plugins/kernels/query_argmax.h
CHANNEL_PITCH = 8  # kChannelPitch in plugins/kernels/tensor.h

_is_disabled = ContextVar("freqfusion_native_is_disabled", default=False)


@contextmanager
def disabled() -> Iterator[None]:
    """Runs the PyTorch definitions within: what the kernels are compared with."""
    token = _is_disabled.set(True)
    try:
        yield
    finally:
        _is_disabled.reset(token)


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_int64 * 4), ("dtype", ctypes.c_int32))


class _Place(ctypes.Structure):
    _fields_ = (
        ("on_cuda", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("channels_last", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    )


def library_folders() -> list[Path]:
    """Folders that may hold the compiled libraries: the user's, the installed runtime's, a source tree's build."""
    folders = []
    if chosen := os.environ.get("FREQFUSION_LIBRARY_DIR"):
        folders.append(Path(chosen))
    runtime = importlib.util.find_spec("freqfusion_runtime")  # looks it up, does not import it
    if runtime is not None and runtime.origin is not None:
        folders.append(Path(runtime.origin).parent / "lib")
    tree = Path(__file__).resolve().parents[2]
    return [*folders, tree / "runtime" / "freqfusion_runtime" / "lib", tree / "build" / "plugins"]


def find_library() -> Path | None:
    """The first ``libfreqfusion_c.so`` in ``library_folders()``, or ``None``."""
    return next((path for folder in library_folders() if (path := folder / LIBRARY).is_file()), None)


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, loaded once per process; ``None`` without one, and with a warning for one that cannot be used."""
    if os.environ.get("FREQFUSION_NATIVE") == "0":
        return None
    path = find_library()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        found = library.freqfusion_abi_version()
    except (OSError, AttributeError) as error:
        warnings.warn(f"{path} cannot be loaded ({error}); using the PyTorch operators instead", stacklevel=2)
        return None
    if found != ABI_VERSION:
        message = f"{path} has interface {found}, this package needs {ABI_VERSION}; using the PyTorch operators instead"
        warnings.warn(f"{message}. Rebuild it with `make plugins`.", stacklevel=2)
        return None
    for name in (
        "carafe",
        "adaptive_filter",
        "deformable_attention",
        "local_similarity",
        "offset_resample",
        "resize_argmax",
        "pyramid_roi_align",
        "query_argmax",
        "window_products",
    ):
        getattr(library, f"freqfusion_{name}").restype = ctypes.c_char_p
    return library


def is_available(device: torch.device | str = "cpu") -> bool:
    """Whether tensors of one of the supported dtypes on ``device`` take the native kernels."""
    if _is_disabled.get():
        return False
    library, kind = load(), torch.device(device).type
    if library is None:
        return False
    return kind == "cpu" or (kind == "cuda" and bool(library.freqfusion_has_cuda()))


def can_run(tensor: Tensor) -> bool:
    """Whether ``tensor`` can be an operator's input: right dtype, right device, memory of its own."""
    if tensor.dtype not in FLOATS or tensor.is_neg() or tensor.layout != torch.strided:
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter) and is_available(tensor.device)


def carafe(
    features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int = 0
) -> Tensor | None:
    """``freqfusion.ops.carafe`` by the native kernel, or ``None``."""
    if not can_run(features):
        return None
    n, c, h, w = features.shape
    attributes = (kernel_size, groups, scale, int(padding))
    return _run("carafe", (features, mask), (n, c, scale * h, scale * w), features.dtype, *attributes)


def adaptive_filter(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int = 0,
) -> Tensor | None:
    """``freqfusion.ops.adaptive_filter`` by the native kernel, or ``None``."""
    if not can_run(features):
        return None
    n, c, h, w = features.shape
    factors = (ctypes.c_float * len(window))(*window)
    attributes = (factors, ctypes.c_int64(len(window)), kernel_size, groups, scale, int(mode), int(padding))
    return _run("adaptive_filter", (features, logits), (n, c, scale * h, scale * w), features.dtype, *attributes)


def window_products(padded: Tensor, factors: Tensor, kernel_size: int, groups: int) -> Tensor | None:
    """``freqfusion.ops.window_products`` by the native kernel, for fp32 on the CPU, or ``None``."""
    if not can_run(padded) or padded.dtype != torch.float32 or padded.device.type != "cpu":
        return None
    n, _, h, w = factors.shape
    shape = (n, groups * kernel_size**2, h, w)
    return _run("window_products", (padded, factors), shape, torch.float32, kernel_size, groups)


def deformable_attention(value: Tensor, offsets: Tensor, logits: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """``freqfusion.ops.deformable_attention`` by the native kernel, or ``None``."""
    if not can_run(value) or len(sizes) > 2 * MOST_LEVELS or logits.shape[3] > MOST_PLACES:
        return None
    attributes = ((ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_int64(len(sizes)))
    shape, inputs = tuple(value.shape), (value, offsets, logits)
    return _run("deformable_attention", inputs, shape, value.dtype, *attributes, takes_channels_last=False)


def local_similarity(features: Tensor, kernel_size: int, dilation: int) -> Tensor | None:
    """``freqfusion.ops.local_similarity`` by the native kernel, or ``None``."""
    if not can_run(features):
        return None
    n, _, h, w = features.shape
    return _run("local_similarity", (features,), (n, kernel_size**2 - 1, h, w), features.dtype, kernel_size, dilation)


def offset_resample(features: Tensor, offsets: Tensor, groups: int) -> Tensor | None:
    """``freqfusion.ops.offset_resample`` by the native kernel, or ``None``."""
    if not can_run(features):
        return None
    return _run("offset_resample", (features, offsets), tuple(features.shape), features.dtype, groups)


def resize_argmax(scores: Tensor, sizes: Sequence[int], align_corners: bool) -> Tensor | None:
    """``freqfusion.ops.resize_argmax`` by the native kernel, or ``None``."""
    if not can_run(scores):
        return None
    step_height, step_width, height, width = sizes
    shape = (scores.shape[0], 1, height, width)
    labels = _run("resize_argmax", (scores,), shape, torch.int32, step_height, step_width, int(align_corners))
    return labels.squeeze(1)


def pyramid_roi_align(
    map0: Tensor,
    map1: Tensor,
    map2: Tensor,
    map3: Tensor,
    boxes: Tensor,
    output_size: int,
    finest_stride: int,
    finest_scale: int,
) -> Tensor | None:
    """``freqfusion.ops.pyramid_roi_align`` by the native kernel, or ``None``."""
    if not can_run(map0) or boxes.dtype != torch.float32:
        return None
    n, m = boxes.shape[:2]
    inputs = (map0, map1, map2, map3, boxes.unsqueeze(3))
    shape = (n * m, map0.shape[1], output_size, output_size)
    attributes = (output_size, finest_stride, finest_scale)
    return _run("pyramid_roi_align", inputs, shape, map0.dtype, *attributes, takes_channels_last=False)


def query_argmax(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """``freqfusion.ops.query_argmax`` by the native kernel, or ``None``."""
    if not can_run(masks) or not 0 < masks.shape[1] <= MOST_QUERIES:
        return None
    shape, inputs = (masks.shape[0], 1, *sizes[4:]), (masks, classes.unsqueeze(3))
    return _run("query_argmax", inputs, shape, torch.int32, *sizes[:4], takes_channels_last=False).squeeze(1)


def _run(
    name: str,
    inputs: tuple[Tensor, ...],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *attributes: Any,
    takes_channels_last: bool = True,
) -> Tensor:
    """Calls ``freqfusion_<name>`` on ``inputs`` and a new tensor of ``shape``, which it returns.

    Raises:
        ValueError: With the kernel's own reason, if it cannot run these sizes.
    """
    library = load()
    assert library is not None, "callers ask can_run first"
    device = inputs[0].device
    channels_last = takes_channels_last and _is_channels_last(inputs, shape, dtype)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dense = [tensor.detach().contiguous(memory_format=memory_format) for tensor in inputs]
    output = torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
    tensors = [_describe(tensor) for tensor in (*dense, output)]
    on_cuda = device.type == "cuda"
    with torch.cuda.device(device) if on_cuda else nullcontext():
        stream = torch.cuda.current_stream(device).cuda_stream if on_cuda else None
        place = _Place(int(on_cuda), torch.get_num_threads(), int(channels_last), stream)
        reason = getattr(library, f"freqfusion_{name}")(*map(ctypes.byref, tensors), *attributes, ctypes.byref(place))
    if reason is not None:
        raise ValueError(f"{name}: {reason.decode()}")
    return output


def _is_channels_last(inputs: tuple[Tensor, ...], shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether the CUDA kernel can read ``inputs`` as they lie: channels innermost, no padding between pixels."""
    if inputs[0].device.type != "cuda" or dtype == torch.int32:
        return False
    if any(channels % CHANNEL_PITCH for channels in (*(tensor.shape[1] for tensor in inputs), shape[1])):
        return False
    features = inputs[0]
    return features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()


def _describe(tensor: Tensor) -> _Tensor:
    return _Tensor(tensor.data_ptr(), (ctypes.c_int64 * 4)(*tensor.shape), DTYPES[tensor.dtype])
