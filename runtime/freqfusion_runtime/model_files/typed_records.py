# SPDX-License-Identifier: Apache-2.0
"""Turns JSON that was read into dataclasses, every value held against its field's type."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar

from freqfusion_runtime.errors import FreqFusionError

_Record = TypeVar("_Record")
_NAMED = 10  # keys in a message, each with so many characters:
_LONGEST = 60
_COUNTED = 40  # characters of a name in the place that a message gives


class RecordError(FreqFusionError, ValueError):
    """A value is missing, unknown, or of another type than its field; the message is a clause without a full stop."""


def read_record(kind: type[_Record], value: Any, where: str, *, defaults: bool = False) -> _Record:
    """Builds a dataclass of what JSON holds.

    Args:
        kind: The dataclass, of plain types, tuples, dictionaries, unions, ``Literal`` and dataclasses of such.
        value: As ``json`` gives it.
        where: What to call it in an error.
        defaults: Whether a missing key may have its field's default. Otherwise only one may whose field says so with
            metadata: a record is written whole, and a missing key means that it is damaged.

    Raises:
        RecordError: If it has another shape. What the dataclass itself raises passes as it is.
    """
    if not isinstance(value, dict):
        raise RecordError(f"{where}: must be an object, got {_short(value)}")
    hints = typing.get_type_hints(kind)
    own = fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in own]
    optional = {f.name for f in own if f.metadata or (defaults and _has_default(f))}
    missing, unknown = sorted(set(names) - optional - set(value)), sorted(set(value) - set(names))
    if missing or unknown:
        raise RecordError(f"{where}: missing keys: {_listed(missing)}; unknown keys: {_listed(unknown)}")
    read = {name: _read(hints[name], value[name], f"{where}.{name}", defaults) for name in names if name in value}
    return kind(**read)


def _read(kind: Any, value: Any, where: str, defaults: bool) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return read_record(kind, value, where, defaults=defaults)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_read(part, item, f"{where}[{i}]", defaults) for i, (part, item) in pairs)
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"{where}.{key[:_COUNTED]}", defaults) for key, item in value.items()}
    elif origin is Literal:
        if value in arguments:
            return value
        raise RecordError(f"{where}: must be one of {', '.join(arguments)}, got {_short(value)}")
    elif origin in (types.UnionType, typing.Union):
        part = next((part for part in arguments if _could_be(part, value)), None)
        if part is not None:
            return _read(part, value, where, defaults)
    elif kind is Any:
        return value
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", str(kind)) if not arguments else str(kind).replace("typing.", "")
    raise RecordError(f"{where}: must be {wanted}, got {_short(value)}")


def _could_be(kind: Any, value: Any) -> bool:
    """Whether a part of a union is the one that a value belongs to."""
    if isinstance(value, list):
        return typing.get_origin(kind) is tuple
    if isinstance(value, dict):
        return typing.get_origin(kind) in (dict, Mapping) or is_dataclass(kind)
    return type(value) is kind or (kind is float and type(value) is int)


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _short(value: Any) -> str:
    return f"{value!r:.{_LONGEST}}"


def _listed(keys: Iterable[str]) -> str:
    words = [key[:_LONGEST] for key in keys]
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return (", ".join(words[:_NAMED]) or "none") + more
