# SPDX-License-Identifier: Apache-2.0
"""The table that `freqfusion parity` prints: a line for each pair of arrays compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freqfusion_runtime.agreement.comparison import Comparison

HEADER = f"  {'level':<13} {'what':<44} {'max abs':>9} {'mean abs':>9} {'rel L2':>9} {'1-cosine':>9} {'max/std':>9}"


def row(c: Comparison) -> str:
    """Words one compared array as a line below :data:`HEADER`."""
    mark = "" if c.agrees else "  <-- beyond tolerance"
    numbers = f"{c.max_abs:9.1e} {c.mean_abs:9.1e} {c.rel_l2:9.1e} {max(1 - c.cosine, 0.0):9.1e} {c.max_over_std:9.1e}"
    return f"  {c.level:<13} {c.name:<44} {numbers}{mark}"
