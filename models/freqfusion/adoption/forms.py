# SPDX-License-Identifier: Apache-2.0
"""How people call FreqFusion and what they made it return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freqfusion.errors import AdoptionError

INPUTS = ("hr, lr", "lr, hr", "[hr, lr]", "[lr, hr]")
RESULTS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "(taps, hr, lr)": lambda taps, hr, lr: (taps, hr, lr),
    "(hr, lr)": lambda _, hr, lr: (hr, lr),
    "hr + lr": lambda _, hr, lr: hr + lr,
    "cat(hr, lr)": lambda _, hr, lr: torch.cat((hr, lr), dim=1),
    "cat(lr, hr)": lambda _, hr, lr: torch.cat((lr, hr), dim=1),
}


@dataclass(frozen=True)
class Form:
    """How a module is called, and what it gives.

    Attributes:
        inputs: One of ``INPUTS``: the fine map ``hr`` and the coarse map ``lr``, apart or as a list.
        result: A key of ``RESULTS``.
    """

    inputs: str
    result: str

    def __str__(self) -> str:
        return f"{self.inputs} -> {self.result}"

    @classmethod
    def parse(cls, text: str) -> Form:
        """Reads ``[lr, hr] -> cat(lr, hr)``.

        Raises:
            AdoptionError: If it is no form.
        """
        inputs, _, result = (part.strip() for part in text.partition("->"))
        if inputs not in INPUTS or result not in RESULTS:
            raise AdoptionError(
                f"form must be one of {', '.join(map(repr, INPUTS))}, then '->', then one of "
                f"{', '.join(map(repr, RESULTS))}, got {text!r}"
            )
        return cls(inputs, result)

    def maps(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The fine and the coarse map of a call.

        Raises:
            ValueError: If the call is not of this form.
        """
        if set(named) == {"hr_feat", "lr_feat"} and not arguments:
            return named["hr_feat"], named["lr_feat"]
        if "[" in self.inputs and len(arguments) == 1 and isinstance(arguments[0], list | tuple):
            arguments = tuple(arguments[0])
        elif "[" in self.inputs:
            arguments = ()
        if named or len(arguments) != 2 or not all(isinstance(each, Tensor) for each in arguments):
            raise ValueError(
                f"FreqFusion: this module was adopted as one that is called with {self.inputs}, got "
                f"{len(arguments)} maps and {sorted(named) or 'nothing'} by name. Call it as before, or adopt it again."
            )
        first, second = arguments
        return (first, second) if self.inputs.strip("[").startswith("hr") else (second, first)
