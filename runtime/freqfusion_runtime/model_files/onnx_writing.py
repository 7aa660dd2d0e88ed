# SPDX-License-Identifier: Apache-2.0
"""Writes fields of protobuf messages, for those who change an ONNX file without the onnx package."""

from __future__ import annotations

_BYTES = 2  # protobuf's wire type; that of whole numbers is 0


def field(number: int, content: memoryview | bytes | int) -> bytes:
    """A field of a message: bytes, or a whole number that is not negative."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return b"".join((header(number, len(content)), content))


def header(number: int, length: int) -> bytes:
    """What stands before the bytes of a field, ``length`` of them."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
