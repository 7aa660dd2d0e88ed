# SPDX-License-Identifier: Apache-2.0
"""Shapes of what standard ONNX operators make of constants, as far as they follow from the file alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from freqfusion_runtime.model_files.onnx_nodes import message_fields, whole_numbers

Shape: TypeAlias = tuple[int, ...]

_MOST_VALUES = 64  # a shape has no more; the values of larger tensors are not read

# Field numbers and types of TensorProto.
_DIMS, _TYPE, _INT32_DATA, _INT64_DATA, _NAME, _RAW_DATA, _LOCATION = 1, 2, 5, 7, 8, 9, 14
_INTEGERS = {6: "i", 7: "q"}  # TensorProto.INT32 and INT64, as struct has them

# Whose result has the shape that their operands have together.
_ELEMENTWISE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Min",
        "Max",
        "Sum",
        "Mean",
        "And",
        "Or",
        "Xor",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "Where",
        "PRelu",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
    ]
)
# Whose result has the shape of their first operand.
_SAME_SHAPE = frozenset(
    [
        "Identity",
        "Cast",
        "Neg",
        "Abs",
        "Sqrt",
        "Exp",
        "Log",
        "Not",
        "Relu",
        "Sigmoid",
        "Tanh",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Clip",
        "Softmax",
        "Erf",
        "CumSum",
    ]
)
_SAME_VALUES = frozenset({"Identity", "Cast", "Unsqueeze", "Squeeze"})
_ARITHMETIC = {"Add": int.__add__, "Sub": int.__sub__, "Mul": int.__mul__}


@dataclass(frozen=True)
class Constant:
    """A tensor that the file alone decides.

    Args:
        shape: Its own.
        values: Row by row, of a short one of whole numbers; None of others.
    """

    shape: Shape
    values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: its name, what is known of it, and whether its bytes lie in another file."""

    name: bytes
    constant: Constant
    is_external: bool


def element_count(shape: Shape) -> int:
    """How many elements a shape has; a negative side, which no engine takes, counts as none."""
    return math.prod(max(0, side) for side in shape)


def read_tensor(message: memoryview) -> Tensor:
    """Reads what a TensorProto says of itself, and its values where they can be a shape.

    Raises:
        IndexError, ValueError: If it is damaged.
    """
    name, kind, raw, is_external = b"", 0, None, False
    dimensions, values = list[int](), list[int]()
    for number, part in message_fields(message):
        if number == _DIMS:
            dimensions += whole_numbers(part)
            if len(dimensions) > _MOST_VALUES:
                raise ValueError(f"it has a tensor of more than {_MOST_VALUES} dimensions")
        elif number in (_INT32_DATA, _INT64_DATA):
            if isinstance(part, int) or len(part) <= 10 * _MOST_VALUES:
                values += whole_numbers(part)
        elif isinstance(part, int):
            kind = part if number == _TYPE else kind
            is_external = is_external or (number == _LOCATION and part == 1)
        elif number == _NAME:
            name = bytes(part)
        elif number == _RAW_DATA and len(part) <= 8 * _MOST_VALUES:
            raw = bytes(part)
    if raw and kind in _INTEGERS and len(raw) % struct.calcsize(_INTEGERS[kind]) == 0:
        code = _INTEGERS[kind]
        values = list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))
    shape = tuple(dimensions)
    is_known = kind in _INTEGERS and len(values) == element_count(shape) <= _MOST_VALUES
    return Tensor(name, Constant(shape, tuple(values) if is_known else None), is_external)


def output_of(
    operator: str, inputs: Sequence[Constant | None], attributes: Mapping[bytes, Constant]
) -> Constant | None:
    """What is known of a standard operator's first output.

    Args:
        operator: Its name.
        inputs: What is known of each input, None of one that the file alone does not decide.
        attributes: Whole numbers and tensors among its attributes.

    Returns:
        None where nothing is known. Where only some of the inputs are, the shape may be smaller than the real one.
    """
    if operator == "Constant":
        return next((attributes[name] for name in (b"value", b"value_int", b"value_ints") if name in attributes), None)
    shape = _shape_of(operator, inputs, attributes)
    return None if shape is None else Constant(shape, _values_of(operator, inputs))


def _shape_of(operator: str, inputs: Sequence[Constant | None], attributes: Mapping[bytes, Constant]) -> Shape | None:
    first, second = (inputs[place] if place < len(inputs) else None for place in (0, 1))
    values = [None if known is None else known.values for known in inputs]
    if operator == "ConstantOfShape":
        return values[0] if values else None
    if operator in ("RandomNormal", "RandomUniform"):
        return attributes[b"shape"].values if b"shape" in attributes else None
    if operator == "Range" and len(values) == 3 and all(known is not None and len(known) == 1 for known in values):
        (start,), (limit,), (step,) = (known for known in values if known is not None)
        return (max(0, -(-(limit - start) // step)),) if step else None
    if operator == "Expand" and second is not None and second.values is not None:
        return _together([() if first is None else first.shape, second.values])
    if operator == "Tile" and second is not None and second.values is not None:
        times = second.values
        sides = first.shape if first is not None and len(first.shape) == len(times) else (1,) * len(times)
        return tuple(side * count for side, count in zip(sides, times, strict=True))
    if operator == "Pad" and second is not None and second.values is not None:
        half = len(second.values) // 2
        sides = first.shape if first is not None and len(first.shape) == half else (1,) * half
        return tuple(side + sum(second.values[axis::half]) for axis, side in enumerate(sides))
    if operator == "Resize" and len(values) == 4 and values[3] is not None:
        return values[3]
    if operator == "OneHot" and first is not None and second is not None and second.values is not None:
        return (*first.shape, *second.values[:1])
    if first is None:
        return None
    if operator in _ELEMENTWISE:
        return None if None in inputs else _together([known.shape for known in inputs if known is not None])
    if operator == "MatMul" and second is not None and min(len(first.shape), len(second.shape)) >= 2:
        return (*_together([first.shape[:-2], second.shape[:-2]]), first.shape[-2], second.shape[-1])
    if operator in _SAME_SHAPE:
        return first.shape
    if operator in _SAME_VALUES and first.values is not None:
        return (len(first.values),)
    if operator == "Reshape" and second is not None and second.values is not None and min(second.values, default=1) > 0:
        return second.values
    if operator == "Shape":
        return (len(first.shape),)
    if operator == "Concat" and None not in values:
        return (sum(len(known) for known in values if known is not None),)
    return None


def _values_of(operator: str, inputs: Sequence[Constant | None]) -> tuple[int, ...] | None:
    """The values of what shapes are made of: enough for ``Concat(Shape(x), [1])`` and the like."""
    if not inputs or inputs[0] is None:
        return None
    if operator == "Shape":
        return inputs[0].shape
    known = [constant.values for constant in inputs if constant is not None and constant.values is not None]
    if operator in _SAME_VALUES:
        return inputs[0].values
    if len(known) != len(inputs):
        return None
    if operator == "Concat":
        joined = tuple(value for values in known for value in values)
        return joined if len(joined) <= _MOST_VALUES else None
    if operator in _ARITHMETIC and len(known) == 2:
        length = max(map(len, known))
        if {len(values) for values in known} <= {1, length}:
            one, other = (values * (length // len(values)) for values in known)
            results = tuple(map(_ARITHMETIC[operator], one, other))
            return results if all(-(1 << 63) <= value < 1 << 63 for value in results) else None
    return None


def _together(shapes: Sequence[Shape]) -> Shape:
    """Broadcasts shapes; sides that do not fit, which no engine takes, give the larger one."""
    longest = max(map(len, shapes), default=0)
    filled = [(1,) * (longest - len(shape)) + shape for shape in shapes]
    return tuple(max(sides) for sides in zip(*filled, strict=True))
