# SPDX-License-Identifier: Apache-2.0
"""Finds the transforms that mm's test programs would run, by name and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freqfusion.configs.reader import Config, Unread

# In the order of authority: tests read the first, pictures of the user's own likewise.
_PLACES = (
    ("data", "test"),
    ("test_dataloader",),
    ("test_pipeline",),
    ("data", "val"),
    ("val_dataloader",),
    ("val_pipeline",),
)
_MAX_WRAPPERS = 20


@dataclass(frozen=True)
class Pipeline:
    """Transforms of one data set.

    Attributes:
        place: Where they were found, such as ``data.test.pipeline``; empty if nowhere.
        transforms: In order; dictionaries, but for what could not be read.
        unread: Places of more authority that could not be read.
    """

    place: str = ""
    transforms: tuple[Any, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()


def find_test_pipeline(config: Config) -> Pipeline:
    """Looks where mm 0.x and 1.x look: the test data's pipeline, through every wrapper around the data set."""
    unread: list[tuple[str, str]] = []
    for place in _PLACES:
        name, found = _descend(config.values, place)
        if isinstance(found, list | tuple):
            return Pipeline(name, tuple(found), tuple(unread))
        if isinstance(found, Unread):
            unread.append((name, str(found)))
    return Pipeline(unread=tuple(unread))


def _descend(values: Mapping[str, Any], place: tuple[str, ...]) -> tuple[str, Any]:
    """Follows a place, then wrappers (``dataset``, ``datasets``), to a pipeline."""
    found: Any = values
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    name = ".".join(place)
    for _ in range(_MAX_WRAPPERS):
        if place[-1].endswith("pipeline") or isinstance(found, Unread):
            return name, found
        if isinstance(found, list | tuple) and found:  # sets joined together, each with a pipeline of its own
            name, found = f"{name}[0]", found[0]
        elif isinstance(found, Mapping):
            inner = next((key for key in ("pipeline", "dataset", "datasets") if found.get(key) is not None), None)
            if inner is None:
                return name, None
            name, found = f"{name}.{inner}", found[inner]
            if inner == "pipeline":
                return name, found
        else:
            return name, None
    return name, None


def type_name(transform: Mapping[str, Any]) -> str:
    """The name of a transform, head or the like, without the package that dumped configs put before it."""
    return str(transform.get("type", "")).rpartition(".")[2]
