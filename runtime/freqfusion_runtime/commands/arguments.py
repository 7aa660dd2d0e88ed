# SPDX-License-Identifier: Apache-2.0
"""Numbers and lists on the command line, checked while they are parsed."""

from __future__ import annotations

import argparse
import math


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


def not_negative_number(text: str) -> float:
    """Reads a number that is finite and not negative."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be finite and not negative, got {value}")
    return value


def share(text: str) -> float:
    """Reads a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {value}")
    return value


def names(text: str) -> list[str]:
    """Reads names separated by commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("must name at least one")
    return found
