# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a checkpoint and a checked ONNX file."""

from __future__ import annotations


class FreqFusionError(Exception):
    """Root of this package's errors; the message is the fact, then the remedy."""


class ExportError(FreqFusionError):
    """The model cannot be written as asked."""


class VerificationError(ExportError):
    """The written file does not compute what the model does; it was not kept."""
