# SPDX-License-Identifier: Apache-2.0
"""The gate of `freqfusion evaluate`: ``--max-drop POINTS`` below the first model, and a data set that has an answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from freqfusion_runtime.evaluation.account import Dropped
from freqfusion_runtime.evaluation.errors import EvaluationError


def check_has_opponent(args: argparse.Namespace) -> None:
    """Raises ``EvaluationError`` if a drop is asked for and there is nothing to drop below."""
    if args.max_drop is not None and len(args.models) < 2:
        raise EvaluationError(
            f"--max-drop {args.max_drop:g} compares models with the first, and only {args.models[0]} is named. "
            "Name a second one, or leave the option out."
        )


def nothing_to_score(names: Sequence[str], dropped: Sequence[Dropped]) -> EvaluationError:
    """The error of a data set that has no answer.

    Args:
        names: Scores that nothing counts towards.
        dropped: What might have.
    """
    first = f"{dropped[0].name}: {dropped[0].reason.rstrip('.')}" if dropped else ""
    why = f" {len(dropped)} were dropped, the first: {first}." if dropped else ""
    return EvaluationError(
        f"nothing to score: no object or segment counts towards {' and '.join(names)}.{why} Name annotations that have "
        "some, or take more pictures with --limit."
    )


def too_low(
    models: Sequence[Path], drops: Sequence[float], max_drop: float | None, say: Callable[[str], None]
) -> list[str]:
    """Lists the models that fall too far behind the first, and says so.

    Args:
        models: In the order given.
        drops: Points that each is below the first; what is not a number is too far.
        max_drop: How many are allowed; None for no gate.
        say: Prints a line.
    """
    if max_drop is None:
        return []
    found = [str(model) for model, drop in zip(models, drops, strict=True) if not drop <= max_drop]
    say(f"MORE THAN {max_drop:g} BELOW THE FIRST: {', '.join(found)}" if found else "NONE TOO FAR BELOW")
    return found
