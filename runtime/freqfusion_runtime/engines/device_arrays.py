# SPDX-License-Identifier: Apache-2.0
"""Arrays in device memory, exchanged with torch, CuPy and others without a copy.

In: anything with ``__cuda_array_interface__`` or ``__dlpack__``. Out: :class:`DeviceArray`, which has both.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from freqfusion_runtime.errors import InputError

CPU, CUDA = 1, 2  # DLDeviceType
_LEGACY_STREAM = 1  # in both protocols


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    """DLManagedTensor of dlpack.h, the form without versions, which every library reads."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}
_CAPSULE = b"dltensor"
# dlpack's consumer renames a capsule that it takes over, so the name tells whose the tensor is.
_alive: dict[int, tuple[Any, ...]] = {}

_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
# The same two for a capsule that is being destroyed: only its address may be passed on then.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A contiguous array in memory that somebody else owns.

    Attributes:
        pointer: Of its first byte.
        shape: Of the array.
        dtype: numpy's name.
        stream: Handle of the stream that its content is written on; whoever reads it must come after that.
        owner: Kept alive with it.
        device: ``(kind, index)`` as DLPack counts.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    stream: int = 0
    owner: Any = None
    device: tuple[int, int] = (CUDA, 0)

    @property
    def size_bytes(self) -> int:
        """Bytes it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream or _LEGACY_STREAM,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """Hands the array over; makes ``stream``, the reader's, wait for what is being written."""
        if self.device[0] == CUDA and stream != -1 and self.stream:
            from freqfusion_runtime.engines.cuda import order_after

            order_after(stream or _LEGACY_STREAM, self.stream)
        return _capsule(self)


def read_device_array(value: Any, name: str, stream: int) -> DeviceArray | None:
    """Looks at an input: a device array as one of ours, None for what lies on the host.

    Args:
        value: The input.
        name: Its name, for messages.
        stream: On which it will be read; 0 for none.

    Raises:
        InputError: If it is on the device and not contiguous.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(value, interface, name)
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return None
    kind, _ = value.__dlpack_device__()
    return None if int(kind) == CPU else from_dlpack(value, name, stream)


def from_dlpack(value: Any, name: str, stream: int = 0) -> DeviceArray:
    """Takes an array over by DLPack, on the host or a device.

    Raises:
        InputError: If it is not contiguous, or of a type that numpy has no name for.
    """
    kind, _ = value.__dlpack_device__()
    capsule = value.__dlpack__(stream=stream or _LEGACY_STREAM) if int(kind) == CUDA else value.__dlpack__()
    tensor = ctypes.cast(_python.PyCapsule_GetPointer(capsule, _CAPSULE), ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        _check_contiguous(tuple(tensor.strides[i] for i in range(tensor.ndim)), shape, 1, name)
    if tensor.dtype.code not in _KINDS or tensor.dtype.lanes != 1:
        raise InputError(f"input {name!r} has a type that numpy has no name for. Convert it to the model's type.")
    dtype = np.dtype(f"{_KINDS[tensor.dtype.code]}{tensor.dtype.bits // 8}").name
    # The capsule keeps its name: when it is collected, its owner's destructor frees the tensor.
    pointer = int(tensor.data or 0) + int(tensor.byte_offset)
    return DeviceArray(pointer, shape, dtype, 0, (value, capsule), (int(kind), int(tensor.device.index)))


def _from_interface(value: Any, interface: dict[str, Any], name: str) -> DeviceArray:
    shape = tuple(int(side) for side in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    if interface.get("strides") is not None:
        _check_contiguous(tuple(interface["strides"]), shape, dtype.itemsize, name)
    return DeviceArray(int(interface["data"][0]), shape, dtype.name, int(interface.get("stream") or 0), value)


def _check_contiguous(strides: tuple[int, ...], shape: tuple[int, ...], step: int, name: str) -> None:
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != step:
            raise InputError(
                f"input {name!r} of shape {shape} is not contiguous (strides {strides}). "
                "Call .contiguous() (torch) or ascontiguousarray (CuPy) first."
            )
        step *= side


def _capsule(array: DeviceArray) -> Any:
    dtype = np.dtype(array.dtype)
    sides = (ctypes.c_int64 * len(array.shape))(*array.shape)
    tensor = _Tensor(
        array.pointer,
        _Device(*array.device),
        len(array.shape),
        _Type(_CODES[dtype.kind], dtype.itemsize * 8, 1),
        ctypes.cast(sides, ctypes.POINTER(ctypes.c_int64)),
        None,
        0,
    )
    managed = _Managed(tensor, None, _free_managed)
    key = ctypes.addressof(managed)
    _alive[key] = (managed, sides, array)
    return _python.PyCapsule_New(key, _CAPSULE, ctypes.cast(_free_capsule, ctypes.c_void_p))


def _forget(pointer: Any) -> None:
    _alive.pop(ctypes.addressof(pointer.contents), None)


def _collect(capsule: int) -> None:
    """Called when a capsule is collected; frees the tensor if no consumer has taken it."""
    if _is_valid(capsule, _CAPSULE):
        _alive.pop(_pointer_of(capsule, _CAPSULE), None)


_free_managed = _Deleter(_forget)
_free_capsule = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_collect)
