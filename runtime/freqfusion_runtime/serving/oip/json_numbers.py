# SPDX-License-Identifier: Apache-2.0
"""From the lists of a JSON request to a tensor, without an array of any other size on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.serving.operation.errors import BadRequestError
from freqfusion_runtime.serving.scheduling.tensors import ENCODED_PICTURES, datatype

# Python's types of JSON numbers that a kind of dtype takes; true is no number here, though Python counts it as one.
_TYPES = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}
_POINTER_BYTES = 8


def to_array(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], data: list[Any], charge: Callable[[int], None]
) -> NDArray[Any]:
    """Makes a tensor of numbers, sent as one flat list or as lists in lists.

    Args:
        name: Of the input, for messages.
        dtype: Of the tensor.
        shape: Of the tensor; the numbers must be as many.
        data: As read from JSON.
        charge: Told how many bytes will be taken, before they are.

    Raises:
        BadRequestError: If there are more or fewer numbers than the shape has, or some that the dtype cannot hold.
    """
    count = math.prod(shape)
    values = _flattened(name, shape, data, charge) if data and isinstance(data[0], list) else data
    types = set(map(type, values))
    if str in types:
        raise BadRequestError(f"input {name!r}: data holds texts, which are no {datatype(dtype)}. {ENCODED_PICTURES}")
    if len(values) != count:
        raise BadRequestError(
            f"input {name!r}: shape {list(shape)} has {count} values, got {len(values)}. Correct one of them."
        )
    if not types <= _TYPES[dtype.kind]:
        raise BadRequestError(f"input {name!r}: data holds values that are no {datatype(dtype)}. Convert them.")
    charge(count * (dtype.itemsize + 1))  # and whether each is finite
    if dtype.kind in "iu" and count:
        limits, low, high = np.iinfo(dtype), min(values), max(values)
        if low < limits.min or high > limits.max:
            raise BadRequestError(
                f"input {name!r}: {datatype(dtype)} holds {limits.min} to {limits.max}, data has {low} to {high}. "
                "Convert it."
            )
    try:
        with np.errstate(over="ignore"):
            result = np.fromiter(values, dtype, count)
    except OverflowError:  # a whole number beyond any float
        result = np.full(1, np.inf)
    if dtype.kind == "f" and not np.isfinite(result).all():
        raise BadRequestError(f"input {name!r}: data has numbers too large for {datatype(dtype)}. Scale them.")
    return result.reshape(shape)


def _flattened(name: str, shape: tuple[int, ...], data: list[Any], charge: Callable[[int], None]) -> list[Any]:
    level = data
    for depth in range(1, len(shape)):
        length = math.prod(shape[:depth])
        if len(level) != length or set(map(type, level)) != {list} or set(map(len, level)) != {shape[depth]}:
            raise BadRequestError(
                f"input {name!r}: data is ragged, or nested otherwise than shape {list(shape)}. Send a flat list."
            )
        charge(length * shape[depth] * _POINTER_BYTES)
        level = list(chain.from_iterable(level))
    return level
