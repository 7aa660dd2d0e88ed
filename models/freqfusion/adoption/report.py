# SPDX-License-Identifier: Apache-2.0
"""What ``adopt`` did: a table to print, and the same as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# What is not worth a word in the table.
USUAL = {
    "lowpass_kernel": 5,
    "highpass_kernel": 3,
    "encoder_kernel": 3,
    "encoder_dilation": 1,
    "use_high_pass": True,
    "feature_resample": False,
    "feature_resample_group": 4,
    "feature_resample_norm": True,
    "direction_feat": "sim_concat",
    "hamming_window": True,
    "semi_conv": True,
    "comp_feat_upsample": True,
    "hr_residual": True,
    "resizes": False,
    "upsample_mode": "nearest",
    "align_corners": False,
}


@dataclass(frozen=True)
class AdoptedModule:
    """A module that was replaced.

    Attributes:
        paths: Where it is in the network: several if it is shared.
        kind: ``FreqFusion``, ``FreqFusion1x/2x``, ``CARAFEPack`` or ``CARAFE``.
        channels: Of the maps it takes: the fine one's and the coarse one's.
        options: By their official names, as read from shapes and attributes or found by running.
        form: How it is called and what it gives, ``[hr, lr] -> hr + lr``; empty for kinds that have one form.
        padding: ``zeros`` or ``reflect``, as the replacement computes.
        error: Largest difference from the original over the standard deviation of its output; ``None`` if the original
            did not run here.
        note: What to know of it.
    """

    paths: tuple[str, ...]
    kind: str
    channels: tuple[int, ...]
    options: dict[str, Any]
    form: str
    padding: str
    error: float | None
    note: str = ""


@dataclass(frozen=True)
class LeftModule:
    """A module that was left as it is.

    Attributes:
        paths: Where it is in the network.
        called: Its class.
        obstacle: What stands in the way, and what to do about it where anything can be done.
    """

    paths: tuple[str, ...]
    called: str
    obstacle: str


@dataclass(frozen=True)
class AdoptionReport:
    """What ``freqfusion.adopt`` did; ``print`` shows it as a table.

    Attributes:
        adopted: What was replaced.
        left: What was not, and why.
        network_error: Largest difference of the whole network's outputs from those before, over the standard deviation
            of each; ``None`` without example inputs, or if the network did not run here.
    """

    adopted: tuple[AdoptedModule, ...]
    left: tuple[LeftModule, ...]
    network_error: float | None = None

    def __str__(self) -> str:
        rows = [("path", "module", "channels", "options", "form", "padding", "error / std")]
        for module in self.adopted:
            options = {name: value for name, value in module.options.items() if USUAL.get(name) != value}
            rows.append(
                (
                    ", ".join(module.paths),
                    module.kind,
                    ", ".join(map(str, module.channels)),
                    ", ".join(f"{name}={value}" for name, value in options.items()),
                    module.form,
                    module.padding,
                    "not run here" if module.error is None else f"{module.error:.1e}",
                )
            )
        lines = _table(rows) if self.adopted else []
        for note in dict.fromkeys(module.note for module in self.adopted if module.note):
            paths = [path for module in self.adopted if module.note == note for path in module.paths]
            lines.append(f"{', '.join(paths)}: {note}")
        lines += [f"left: {', '.join(module.paths)}, a {module.called}, {module.obstacle}" for module in self.left]
        if self.network_error is not None:
            lines.append(f"the whole network: {self.network_error:.1e} standard deviations from before")
        return "\n".join(lines)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
