# SPDX-License-Identifier: Apache-2.0
"""Writes protobuf's text format, so that a configuration needs no protobuf package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, Union

Value: TypeAlias = Union[str, int, bool, "Name", "Message", Sequence["Value"]]
Message: TypeAlias = dict[str, Value]


class Name(str):
    """A value of an enumeration, which is written without quotes."""

    __slots__ = ()


def to_text(message: Message, indent: str = "") -> str:
    """Writes the fields of a message in their order, each on lines of its own.

    Args:
        message: Field name to value. A list is a repeated field, written one by one; an empty one is left out.
        indent: Put before each line.
    """
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Value, indent: str) -> str:
    if isinstance(value, dict):
        inner = to_text(value, indent + "  ")
        return f"{indent}{name} {{\n{inner}{indent}}}\n" if inner else f"{indent}{name} {{}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(type(item) is int for item in value):
            return f"{indent}{name}: [{', '.join(map(str, value))}]\n"
        return "".join(_field(name, item, indent) for item in value)
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Name)):
        return str(value)
    return '"' + "".join(map(_escaped, value.encode("utf-8"))) + '"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
