# SPDX-License-Identifier: Apache-2.0
"""The one place that prints: names and texts of files reach a terminal as what they are, never as commands to it."""

from __future__ import annotations

import sys
from typing import TextIO

from freqfusion_runtime.files import printable


def print_line(text: str = "", stream: TextIO | None = None) -> None:
    """Prints one line at once, on standard output by default.

    Args:
        text: Line breaks at its beginning are blank lines above it; any other, and what a terminal would obey, is
            escaped, and so are characters that the stream's encoding lacks.
        stream: Where to.
    """
    stream = stream or sys.stdout
    line = text.lstrip("\n")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(line).encode(encoding, "backslashreplace").decode(encoding)
    print("\n" * (len(text) - len(line)) + shown, file=stream, flush=True)


def print_error(text: str) -> None:
    """Prints one line on standard error."""
    print_line(text, sys.stderr)
