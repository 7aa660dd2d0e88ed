# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a data set, or with a model for it."""

from __future__ import annotations

from freqfusion_runtime.errors import FreqFusionError


class DatasetError(FreqFusionError):
    """A data set is missing, empty, or its pictures and labels do not fit together."""


class EvaluationError(FreqFusionError):
    """A model and a data set do not fit together."""
