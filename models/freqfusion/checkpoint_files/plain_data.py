# SPDX-License-Identifier: Apache-2.0
"""What a pickle may name and get: constructors of plain data, none of which runs anything else or reserves memory.

Reserving is the kind: what is made of a few bytes is a view of the file, and a size that the file only names is none.
"""

from __future__ import annotations

import collections
import functools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from freqfusion.checkpoint_files.placeholders import Inert
from freqfusion.errors import CheckpointError

# Functions that run commands: no file of weights has a use for one, so it is refused, not only left alone.
_COMMANDS = {
    "builtins": r"eval|exec|compile|open|input|breakpoint|__import__",
    "_io": r"open\w*",
    "io": r"open\w*",
    "os": r"system|popen|startfile|exec\w+|spawn\w+|posix_spawnp?|fork\w*",
    "posix": r"system|exec\w+|posix_spawnp?|fork\w*",
    "nt": r"system|startfile|exec\w+|spawn\w+",
    "subprocess": r"Popen|run|call|check_\w+|get\w+output",
    "pty": r"spawn",
    "runpy": r"\w+",
    "webbrowser": r"open\w*",
}
_RENAMED = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}
_RENAMED |= {"numpy.core.numeric": "numpy._core.numeric"}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
    "UntypedStorage": torch.uint8,
    "_UntypedStorage": torch.uint8,
}
_DTYPE_NAME = re.compile(r"[|<>=]?[?biufcSUMmVO]\d*")


@dataclass(frozen=True)
class Constructor:
    """A global that may be called: the pickle's name for it, and what is called instead."""

    name: str
    build: Callable[..., Any]


@dataclass(frozen=True)
class StorageType:
    """A class of storages, which a pickle names but never calls."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The memory of tensors: ``data`` ``(bytes,)`` uint8, holding values of ``dtype``."""

    data: Tensor
    dtype: torch.dtype

    def tensor(
        self, offset: int, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        """Returns the tensor that lies there, sharing the memory.

        Raises:
            CheckpointError: If it is not all inside.
        """
        try:
            values = self.data.view(dtype or self.dtype)
            return values.as_strided(tuple(size), tuple(stride), values.storage_offset() + offset)
        except (RuntimeError, TypeError) as e:
            raise CheckpointError(
                f"a tensor of size {tuple(size)}, stride {tuple(stride)} at {offset} does not lie in its storage of "
                f"{self.data.numel()} bytes; the file is damaged, fetch it again"
            ) from e


class Buildable:
    """A thing that is constructed empty and then given its state."""

    def build(self, state: Any) -> None:
        """Takes the state."""
        raise NotImplementedError


class NumpyType(Buildable):
    """A numpy dtype: its name, and ``>`` where its bytes are swapped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.order: Literal["<", ">", "="] = "="

    def build(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]


class Array(Buildable):
    """A numpy array, whose memory is the pickle's own."""

    def __init__(self) -> None:
        self.dtype: Any = None
        self.shape: tuple[int, ...] = ()
        self.is_fortran = False
        self.data: Any = b""
        self._values: Any = None  # read once, however many names it has: bytes of another order are copied

    def build(self, state: Any) -> None:
        match state:
            case (_, tuple() as shape, NumpyType() as dtype, is_fortran, data) if all(
                isinstance(extent, int) and extent >= 0 for extent in shape
            ):
                self.shape, self.dtype, self.is_fortran, self.data = shape, dtype, bool(is_fortran), data
                self._values = None

    def values(self) -> Any:
        """The numpy array; None of objects and of types that are not numpy's own.

        Raises:
            CheckpointError: If there are more or fewer bytes than the shape says.
        """
        if not isinstance(self.dtype, NumpyType) or "O" in self.dtype.name:
            return None
        if self._values is None:
            self._values = self._read()
        return self._values

    def _read(self) -> Any:
        import numpy as np

        data = self.data.encode("latin-1", "replace") if isinstance(self.data, str) else self.data
        if not isinstance(data, bytes | bytearray):
            return None
        try:
            dtype = np.dtype(self.dtype.name).newbyteorder(self.dtype.order)
        except TypeError:  # such as i3
            return None
        if not dtype.itemsize:  # of texts without a character, for each of which numpy makes room all the same
            return None
        if math.prod(self.shape) * dtype.itemsize != len(data):
            raise CheckpointError(f"an array of shape {self.shape} and type {dtype} has {len(data)} bytes")
        if not data:
            return np.empty(self.shape, dtype)
        values = np.frombuffer(data, dtype).reshape(self.shape, order="F" if self.is_fortran else "C")
        return values.astype(dtype.newbyteorder("=")) if not dtype.isnative else values

    def tolist(self) -> list[Any]:
        """Its values as a list."""
        values = self.values()
        found = (list(self.data) if isinstance(self.data, list | tuple) else []) if values is None else values.tolist()
        return found if isinstance(found, list) else [found]

    def tensor(self) -> Tensor | None:
        """The tensor that shares its memory, None if torch has no such type."""
        values = self.values()
        if values is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small arrays lie in bytes, which nobody else holds
            try:
                return torch.from_numpy(values)
            except TypeError:
                return None


class EmptyTensor(Buildable):
    """A tensor by its class, as PyTorch 0.1 wrote it: empty, then put on a storage."""

    def __init__(self) -> None:
        self.tensor: Any = None

    def build(self, state: Any) -> None:
        match state:
            case (Storage() as storage, offset, size, stride):
                self.tensor = storage.tensor(offset, size, stride)


_MOST_BITS = 10_000  # of a number that names something: Python writes none of more than 4300 digits
_SCALARS = str | int | float | complex | bytes | torch.dtype | torch.device | None


def as_key(value: Any) -> Any:
    """Returns ``value``, or an :class:`Inert` for what is no usual key: hashing nested tuples can take for ever."""
    if isinstance(value, tuple) and len(value) <= 1000 and all(map(_is_short, value)):
        return value
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return Inert("int")
    return value if isinstance(value, _SCALARS | Inert | frozenset) else Inert(type(value).__name__)


def _is_short(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) <= 100 and all(isinstance(item, _SCALARS | Inert) for item in value)
    return isinstance(value, _SCALARS | Inert)


def find_global(module: Any, name: Any) -> Any:
    """Returns what stands for a global: a constant, a :class:`Constructor`, or an :class:`Inert`.

    Raises:
        CheckpointError: If it is a function that runs commands.
    """
    module = _RENAMED.get(module, module)
    if re.fullmatch(_COMMANDS.get(module, r"(?!)"), name):
        raise CheckpointError(
            f"the pickle asks for {module}.{name}, which is not plain data. Nothing was run. "
            "Convert the file to safetensors where you trust it, or get it from its author again"
        )
    path = f"{module}.{name}"
    if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
        return StorageType(_STORAGES[name])
    return _constants().get(path) or (Constructor(path, _CALLS[path]) if path in _CALLS else Inert(path))


def construct(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Calls a :class:`Constructor`; of anything else, and where that fails, it makes an :class:`Inert`.

    Raises:
        CheckpointError: If a tensor does not lie in its storage.
    """
    if not isinstance(function, Constructor):
        return Inert(getattr(function, "name", type(function).__name__))
    try:
        return function.build(*arguments)
    except CheckpointError:
        raise
    except Exception:  # arguments that are placeholders, or a device that this PyTorch does not know
        return Inert(function.name)


@functools.cache
def _constants() -> dict[str, Any]:
    kinds = (torch.dtype, torch.layout, torch.qscheme, torch.memory_format)
    return {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, kinds)}


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    if encoding.replace("-", "").lower() not in ("latin1", "utf8", "ascii"):
        raise ValueError(encoding)
    return text.encode(encoding)


def _bytes(kind: Any) -> Callable[..., Any]:
    def build(content: Any = b"", encoding: str | None = None) -> Any:
        if isinstance(content, int):  # so many zeros
            raise ValueError(content)
        return kind(content if encoding is None else _encode(content, encoding))

    return build


def _members(kind: Any) -> Callable[..., Any]:
    return lambda items=(): kind(map(as_key, items))


def _dictionary(kind: Any) -> Callable[..., Any]:
    def build(*arguments: Any) -> Any:
        items = arguments[-1] if arguments and isinstance(arguments[-1], list | dict) else {}
        pairs = items.items() if isinstance(items, dict) else items
        return kind({as_key(key): value for key, value in pairs})

    return build


def _size(numbers: Sequence[int] = ()) -> torch.Size:
    return torch.Size(numbers)


def _device(*arguments: Any) -> torch.device:
    return torch.device(*arguments)


def _tensor(
    storage: Storage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    return _tensor_of_type(storage, offset, size, stride, requires_grad, hooks, storage.dtype, metadata)


def _tensor_of_type(
    storage: Storage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: Any,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Any = None,
) -> Tensor:
    tensor = storage.tensor(offset, size, stride, dtype)
    bits = metadata if isinstance(metadata, dict) else {}
    if bits.get("conj"):  # still to be done when the tensor was saved
        tensor = tensor.conj()
    return torch._neg_view(tensor) if bits.get("neg") else tensor


def _same(data: Any, *_: Any) -> Any:
    """A parameter: the tensor it is made of."""
    return data


def _from_device(data: Any, *_: Any) -> Any:
    """A tensor of a device that is not here: the one it was copied to, in that one's type.

    Converting it to the other type would make a copy for each of the names that a few bytes can give it.
    """
    return data.tensor() if isinstance(data, Array) else data


def _without_class(function: Any, kind: Any, arguments: tuple[Any, ...], *_: Any) -> Any:
    """A tensor of a class of its own, or with attributes: the plain tensor."""
    return construct(function, arguments)


def _sparse(layout: torch.layout, data: tuple[Any, ...]) -> Tensor:
    if layout == torch.sparse_coo:
        indices, values, size, *coalesced = data
        return torch.sparse_coo_tensor(
            indices, values, size, check_invariants=True, is_coalesced=bool(coalesced and coalesced[0])
        )
    compressed, plain, values, size = data
    return torch.sparse_compressed_tensor(compressed, plain, values, size, layout=layout, check_invariants=True)


def _quantized(storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> Any:
    plain = torch.int32 if storage.dtype == torch.qint32 else torch.uint8
    # torch reserves memory for the size before it looks at the storage, and a stride of 0 makes that any size.
    if storage.tensor(offset, size, stride, plain).numel() > storage.data.numel():
        raise CheckpointError(
            f"a quantised tensor of size {tuple(size)} has more elements than its storage of {storage.data.numel()} "
            "bytes; the file is damaged, fetch it again"
        )
    typed = torch.storage.TypedStorage(wrap_storage=storage.data.untyped_storage(), dtype=storage.dtype, _internal=True)
    return torch._utils._rebuild_qtensor(typed, offset, size, stride, *rest)


def _without_values(dtype: torch.dtype, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return torch.empty_strided(tuple(size), tuple(stride), dtype=dtype, device="meta")


def _empty_array(kind: Any, shape: Any, *_: Any) -> Array:
    return Array()


def _array(data: Any, dtype: Any, shape: Any, order: str = "C") -> Array:
    array = Array()
    array.build((1, tuple(shape), dtype, order == "F", data))
    return array


def _numpy_type(name: str, *_: Any) -> NumpyType:
    if not _DTYPE_NAME.fullmatch(name):
        raise ValueError(name)
    return NumpyType(name)


def _scalar(dtype: NumpyType, data: Any = b"") -> Any:
    if "O" in dtype.name:
        return data
    return _array(data, dtype, ()).tolist()[0]


_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes(bytes),
    "builtins.bytearray": _bytes(bytearray),
    "builtins.complex": complex,
    "builtins.dict": _dictionary(dict),
    "builtins.frozenset": _members(frozenset),
    "builtins.set": _members(set),
    "builtins.slice": slice,
    "collections.Counter": _dictionary(collections.Counter),
    "collections.OrderedDict": _dictionary(collections.OrderedDict),
    "collections.defaultdict": _dictionary(dict),  # its factory is not called
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array,
    "numpy.dtype": _numpy_type,
    "torch.Size": _size,
    "torch.Tensor": lambda: EmptyTensor(),
    "torch._tensor.Tensor": lambda: EmptyTensor(),
    "torch._tensor._rebuild_from_type": _without_class,
    "torch._tensor._rebuild_from_type_v2": _without_class,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_device,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_device,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_values,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch.device": _device,
    "torch.nn.parameter.Buffer": _same,
    "torch.nn.parameter.Parameter": _same,
    "torch.serialization._get_layout": lambda name: _constants()[name],
}
_CALLS |= {f"torch.{name.removesuffix('Storage')}Tensor": lambda: EmptyTensor() for name in _STORAGES}
