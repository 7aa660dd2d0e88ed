# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with models and checkpoints."""

from __future__ import annotations


class FreqFusionError(Exception):
    """Root of this package's errors; the message is the fact, then the remedy."""


class UnknownModelError(FreqFusionError, ValueError):
    """A model name, or a checkpoint's keys, that fit none of the models."""


class CheckpointError(FreqFusionError, ValueError):
    """A checkpoint that cannot be read, or does not fit the model."""


class AdoptionError(FreqFusionError, ValueError):
    """A network whose FreqFusions cannot be looked for or replaced, or inputs that it does not run on."""
