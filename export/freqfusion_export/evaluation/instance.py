# SPDX-License-Identifier: Apache-2.0
"""Average precision of boxes and of masks; data set and options as for --task detection."""

from __future__ import annotations

import argparse

from freqfusion_export.evaluation.detection import score


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """Adds nothing: the options are those of the task detection."""


def evaluate(args: argparse.Namespace) -> int:
    """Scores ``args.models``; returns the exit status."""
    return score(args, ("box", "mask"))
