# SPDX-License-Identifier: Apache-2.0
"""The table of test-time settings, for people."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from freqfusion_runtime.model_files.manifest import SettingOrigin, SettingRecord

_WIDEST = 60  # column; one long setting must not make every line as long
_ORIGINS = typing.get_args(SettingOrigin)


def setting_lines(settings: Sequence[SettingRecord]) -> list[str]:
    """Writes a line for each setting: what became of it, its name, what is built, and why; one kind after the other."""
    ordered = sorted(settings, key=lambda setting: _ORIGINS.index(setting.origin))
    rows = [(setting.origin, setting.name, setting.built, _aside(setting)) for setting in ordered]
    longest = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    widths = [*(min(length, _WIDEST) for length in longest), 0]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(line).rstrip() for line in cells]


def _aside(setting: SettingRecord) -> str:
    found = f"the config says {setting.found}" if setting.found and setting.origin not in ("config", "default") else ""
    return "; ".join(part for part in (found, setting.remark) if part)
