# SPDX-License-Identifier: Apache-2.0
"""What an object of a pickle becomes that is no plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freqfusion.errors import CheckpointError


class Inert:
    """Stands for an object that is not rebuilt; it keeps what would have become its state, and does nothing.

    Args:
        name: What the pickle calls the object's class or function.

    Attributes:
        state: The state it was to get, if any.
        items: The items it was to hold, if it is a kind of dictionary.
    """

    __slots__ = ("items", "name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None
        self.items: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{self.name}, not rebuilt>"


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Takes dictionaries, and dictionaries of other libraries' classes, which are not rebuilt, as what they hold."""
    if isinstance(value, Mapping):
        return value
    return value.items if isinstance(value, Inert) and value.items else None


def module_entries(value: Any) -> dict[str, Any]:
    """Collects the parameters and buffers of a whole pickled ``torch.nn.Module``, which is not rebuilt.

    Returns:
        Entries by name, as the module's ``state_dict`` would have them; none if ``value`` is no module.

    Raises:
        CheckpointError: If it holds itself, or the same modules over and over.
    """
    entries: dict[str, Any] = {}
    left = [("", value)]
    for _ in range(_MOST_MODULES):
        if not left:
            return entries
        prefix, module = left.pop()
        state = module.state if isinstance(module, Inert) and isinstance(module.state, Mapping) else {}
        passing = state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            for name, entry in (as_mapping(state.get(kind)) or {}).items():
                if entry is not None and not (kind == "_buffers" and isinstance(passing, set) and name in passing):
                    entries[f"{prefix}{name}"] = entry
        inner = list((as_mapping(state.get("_modules")) or {}).items())
        left += [(f"{prefix}{name}.", child) for name, child in reversed(inner)]
    raise CheckpointError(f"it holds a pickled module of more than {_MOST_MODULES} modules; save its state_dict()")


_MOST_MODULES = 100_000  # a pickle can hold the same modules over and over
