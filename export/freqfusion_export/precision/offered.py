# SPDX-License-Identifier: Apache-2.0
"""The precisions there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from freqfusion_export.errors import ExportError
from freqfusion_export.precision.assignment import HALF_TYPES
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.eight_bits import EIGHT_BITS, EightBits, Options
from freqfusion_export.precision.fp32 import Fp32
from freqfusion_export.precision.half import HalfPrecision
from freqfusion_export.precision.protocol import Precision
from freqfusion_export.precision.sensitivity import GroupLoss


def precision_of(
    name: str,
    keep_fp32: Sequence[str],
    calibration: Calibration | None,
    eight_bits: Options,
    on_sensitivity: Callable[[Sequence[GroupLoss]], None],
) -> Precision:
    """Returns the precision of a name; arguments as ``freqfusion_export.export`` takes them.

    Raises:
        ExportError: If there is none.
    """
    asked = keep_fp32, calibration
    offered: dict[str, Precision] = {
        "fp32": Fp32("fp32", *asked),
        **{half: HalfPrecision(half, *asked) for half in HALF_TYPES},
        **{bits: EightBits(bits, *asked, eight_bits, on_sensitivity) for bits in EIGHT_BITS},
    }
    if name not in offered:
        raise ExportError(f"precision must be one of {', '.join(offered)}, got {name!r}")
    return offered[name]
