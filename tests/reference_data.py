# SPDX-License-Identifier: Apache-2.0
"""The official reference data: goldens, key lists, and models filled as the references were."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SEGNEXT = Path(__file__).parent / "data" / "segnext"
sys.path.insert(0, str(SEGNEXT))  # weights_spec.py, the public generator of weights and inputs

# fp32 against fp64 differs by up to 7.8e-6 standard deviations of the output (SPEC section 10): a factor of 6 is left.
GOLDEN_TOLERANCE = 5e-5


class Golden(dict[str, np.ndarray]):
    """Arrays of one golden file; ``meta`` is its description."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            super().__init__({name: arrays[name] for name in arrays.files if name != "meta"})
            self.meta: dict[str, Any] = json.loads(str(arrays["meta"]))


def golden(name: str) -> Golden:
    """Reads ``tests/data/segnext/goldens/<name>.npz``."""
    return Golden(SEGNEXT / "goldens" / f"{name}.npz")


def goldens(prefix: str) -> list[str]:
    """Names of the golden files that start with ``prefix``."""
    return sorted(path.stem for path in (SEGNEXT / "goldens").glob(f"{prefix}*.npz"))


def assert_matches_golden(actual: Any, expected: np.ndarray, tolerance: float = GOLDEN_TOLERANCE) -> None:
    """Fails unless the largest error is below ``tolerance`` standard deviations of ``expected``."""
    actual = np.asarray(actual, dtype=np.float64)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / max(float(expected.std()), 1e-12)
    assert error <= tolerance, f"off by {error:.2e} standard deviations, allowed {tolerance:.0e}"


def assert_decided_labels_match_golden(labels: np.ndarray, expected: Golden, error: float) -> float:
    """Fails unless every label is the golden's whose margin between the two best scores exceeds ``error``.

    Args:
        labels: A label map.
        expected: With ``pred`` and ``margin``.
        error: How far apart the errors of two scores may be; in units of the scores.

    Returns:
        The share of pixels that are not decided. Golden and bound fix it, whatever ran.
    """
    decided = expected["margin"] > error
    wrong = (labels != expected["pred"]) & decided
    assert not wrong.any(), f"{wrong.sum()} of {decided.sum()} labels differ where the margin is above {error:.1e}"
    return float(1 - decided.mean())


def filled_model(name: str, seed: int) -> Any:
    """A model with the public generator's weights, and its factorisation bases set to the goldens'."""
    import freqfusion
    import torch
    from weights_spec import fill_state_dict, nmf_bases

    model = freqfusion.create_model(name)
    model.load_state_dict(fill_state_dict(model.state_dict(), seed), strict=True)
    model.decode_head.hamburger.ham.bases.copy_(torch.from_numpy(nmf_bases(256, 16, seed)))
    return model
