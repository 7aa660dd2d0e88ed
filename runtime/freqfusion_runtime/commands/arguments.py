# SPDX-License-Identifier: Apache-2.0
"""Numbers on the command line, checked while they are parsed."""

from __future__ import annotations

import argparse


def not_negative(text: str) -> int:
    """Reads a whole number that is not negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {value}")
    return value
