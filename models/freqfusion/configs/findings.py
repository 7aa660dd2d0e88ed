# SPDX-License-Identifier: Apache-2.0
"""What becomes of each setting of a config: taken, defaulted, overridden, refused, or not understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from freqfusion.configs.reader import Unread

Origin = Literal["config", "default", "override", "refused", "not understood"]


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: What it is called here, or its place in the config.
        origin: ``config``: built as the config says; ``default``: the config does not say, built as the official one
            says; ``override``: built as the user says; ``refused``: the config says what is not built here; ``not
            understood``: the config says what nobody here knows.
        found: What the config says, as text; empty if nothing.
        built: What is built.
        remark: Why, where it needs saying.
    """

    name: str
    origin: Origin
    found: str
    built: str
    remark: str = ""


@dataclass(frozen=True)
class Settings:
    """What a config comes to.

    Attributes:
        table: Every setting that was looked at or found.
        preprocessing: What differs from the official test pipeline: ``long_side``, ``short_side``, ``exact_size``,
            ``size_divisor``, ``size_fit``, ``mean``, ``std``, ``color_order``, ``resizer``.
        network: Arguments for ``create_model``.
    """

    table: tuple[Setting, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> tuple[Setting, ...]:
        """What the config asks for and is not built."""
        return tuple(setting for setting in self.table if setting.origin == "refused")

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Scale of the test pipeline (long side, short side), if the config gives one."""
        sizes = self.preprocessing.get("exact_size") or [
            self.preprocessing[side] for side in ("long_side", "short_side") if side in self.preprocessing
        ]
        return (max(sizes), min(sizes)) if sizes else None


class Findings:
    """Collects settings while a config is read.

    Args:
        is_strict: Whether to refuse what only execution could tell, in place of assuming something.
    """

    def __init__(self, is_strict: bool = False) -> None:
        self.table: list[Setting] = []
        self.is_strict = is_strict

    def take(self, name: str, value: Any, remark: str = "") -> None:
        """Notes a setting that is built as the config says."""
        self.table.append(Setting(name, "config", shown(value), shown(value), remark))

    def default(self, name: str, built: Any, remark: str = "") -> None:
        """Notes a setting of which the config says nothing."""
        self.table.append(Setting(name, "default", "", shown(built), remark))

    def refuse(self, name: str, found: Any, built: Any, remark: str = "") -> None:
        """Notes a setting that is not built as the config says."""
        self.table.append(Setting(name, "refused", shown(found), shown(built), remark))

    def wonder(self, name: str, found: Any, assumed: Any, remark: str = "") -> None:
        """Notes what is not understood, and what is assumed instead."""
        if self.is_strict and _holds_unread(found):
            return self.refuse(name, found, assumed, remark or "only execution could tell")
        self.table.append(Setting(name, "not understood", shown(found), shown(assumed), remark))


def _holds_unread(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else value.values() if isinstance(value, Mapping) else ()
    return isinstance(value, Unread) or any(isinstance(item, Unread) for item in items)


def shown(value: Any) -> str:
    """Writes a value for the table."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, Sequence):
        text = f"({', '.join(map(shown, value))})" if isinstance(value, tuple) else f"[{', '.join(map(shown, value))}]"
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
