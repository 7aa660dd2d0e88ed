# SPDX-License-Identifier: Apache-2.0
"""Tells from outside what a config's reader does with each setting: by changing it and reading again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from freqfusion.configs.findings import Setting, Settings
from freqfusion.configs.reader import Config
from freqfusion.configs.settings import settings_of

Fate = Literal["honoured", "refused by name", "told as not understood", "without a trace"]
_OTHERS: tuple[Any, ...] = (True, 3, 0.25, "another", {"type": "Another"}, [1, 2])  # in the place of None


@dataclass(frozen=True)
class Leaf:
    """One setting of a config.

    Attributes:
        keys: Where it is.
        place: The same to read: elements of lists by their type, where they have one.
        value: What it says.
    """

    keys: tuple[str | int, ...]
    place: str
    value: Any


def leaves(value: Any, keys: tuple[str | int, ...] = (), place: str = "") -> Iterator[Leaf]:
    """Lists every setting; a list without dictionaries in it is one, and so is an empty dictionary."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, (*keys, key), f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            name = item.get("type", index) if isinstance(item, Mapping) else index
            yield from leaves(item, (*keys, index), f"{place}.{name}")
    else:
        yield Leaf(keys, place, value)


def others(value: Any) -> Iterator[Any]:
    """Gives other values, of the same kind where it has one."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 2 + 1, value / 2 + 0.01, 7)
    elif isinstance(value, str):
        yield from (f"Another{value}", "another")
    elif isinstance(value, list | tuple) and value:
        first, rest = value[0], list(value[1:])
        for other in list(others(first))[:3]:
            yield type(value)([other, *rest])
        yield type(value)([*value, first])
    elif value is None or value in ({}, [], ()):
        yield from _OTHERS
    else:
        yield None


def changed(config: Mapping[str, Any], leaf: Leaf, value: Any) -> dict[str, Any]:
    """Returns the config with another value; what lies beside the way to it is shared."""
    result: Any = dict(config)
    holder = result
    for key in leaf.keys[:-1]:
        holder[key] = copy.copy(holder[key]) if not isinstance(holder[key], tuple) else list(holder[key])
        holder = holder[key]
    holder[leaf.keys[-1]] = value
    return result


def fate_of(
    config: Mapping[str, Any], leaf: Leaf, weights: Mapping[str, Any], before: Settings, tries: int = 8
) -> Fate:
    """Changes a setting until the outcome changes.

    Args:
        config: Written out.
        leaf: The setting.
        weights: Of the network, for the reader.
        before: What the reader makes of the config.
        tries: How many other values to put in its place until one is noticed.

    Returns:
        ``refused by name`` and ``told as not understood`` if what was said about it changes; ``honoured`` if another
        value builds another network, prepares pictures otherwise or is itself refused or told.
    """
    rows = set(before.table)
    is_in_a_refused_part = _is_in_a_refused_part(config, leaf, before.refused)
    for value in islice(others(leaf.value), tries):
        after = settings_of(Config(changed(config, leaf, value)), weights)
        gone = {setting.origin for setting in rows - set(after.table)}
        if "refused" in gone:
            return "refused by name"
        if "not understood" in gone:
            return "refused by name" if is_in_a_refused_part else "told as not understood"
        if set(after.table) != rows or (after.preprocessing, after.network) != (before.preprocessing, before.network):
            return "honoured"
    return "refused by name" if is_in_a_refused_part else "without a trace"


def _is_in_a_refused_part(config: Mapping[str, Any], leaf: Leaf, refused: tuple[Setting, ...]) -> bool:
    """Tells whether a part around the setting is refused for what it is, so that its options do not matter."""
    names = {setting.name for setting in refused}
    part: Any = config
    name = ""
    for key in leaf.keys[:-1]:
        part = part[key]
        name = f"{name}.{key}" if name else str(key)
        kind = part.get("type") if isinstance(part, Mapping) else None
        transform = f".{kind.rpartition('.')[2]}" if isinstance(kind, str) and isinstance(key, int) else None
        if {name, f"{name}.type"} & names or (transform and any(found.endswith(transform) for found in names)):
            return True
    return False
