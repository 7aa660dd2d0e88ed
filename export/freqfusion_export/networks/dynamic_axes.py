# SPDX-License-Identifier: Apache-2.0
"""Which axes of inputs are free, as users say it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from freqfusion_export.errors import ExportError

_AXIS = re.compile(r"(?P<name>[A-Za-z]\w*)(?:\s*:\s*(?P<multiple>[1-9]\d*)|\s*/\s*(?P<divisor>[1-9]\d*))?")


@dataclass(frozen=True)
class DynamicAxes:
    """Free axes of inputs.

    Attributes:
        names: By input and axis, in the words of a manifest's shapes: ``height``, ``height/2``.
        multiples: What each size is a multiple of, by its name.
    """

    names: Mapping[str, Mapping[int, str]]
    multiples: Mapping[str, int]

    @classmethod
    def read(cls, dynamic: Mapping[str, Mapping[int, str]], given: Mapping[str, Tensor]) -> DynamicAxes:
        """Reads what :func:`freqfusion_export.export` takes.

        Raises:
            ExportError: If an input or an axis is not there, cannot be read, or is not what the example inputs have.
        """
        names: dict[str, dict[int, str]] = {}
        multiples: dict[str, int] = {}
        sizes: dict[str, tuple[int, str]] = {}
        for tensor, axes in dynamic.items():
            if tensor not in given:
                raise ExportError(f"dynamic names the input {tensor!r}, and there are {', '.join(given)}; correct it")
            for axis, text in axes.items():
                if not 0 <= axis < given[tensor].ndim:
                    raise ExportError(
                        f"dynamic names axis {axis} of input {tensor!r}, which has {given[tensor].ndim}, from 0; "
                        "correct it"
                    )
                match = _AXIS.fullmatch(text.strip())
                if match is None:
                    raise ExportError(
                        f"dynamic says {text!r} of axis {axis} of {tensor!r}; write a name, a name and a multiple such "
                        "as 'height: 32', or a part of a named size such as 'height/2'"
                    )
                name, divisor = match["name"], int(match["divisor"] or 1)
                multiples[name] = math.lcm(multiples.get(name, 1), int(match["multiple"] or 1), divisor)
                names.setdefault(tensor, {})[axis] = name if divisor == 1 else f"{name}/{divisor}"
                size = given[tensor].shape[axis] * divisor
                known, place = sizes.setdefault(name, (size, f"axis {axis} of {tensor!r}"))
                if known != size:
                    raise ExportError(
                        f"the size {name} is {known} by {place} of the example inputs and {size} by axis {axis} of "
                        f"{tensor!r}; give examples of one size, or the axes two names"
                    )
        for name, (size, place) in sizes.items():
            if size % multiples[name]:
                raise ExportError(
                    f"the size {name} is to be a multiple of {multiples[name]}, and {place} of the example inputs "
                    f"makes it {size}; give an example of such a size"
                )
        return cls(names, multiples)


def shapes_with_names(given: Mapping[str, Tensor], axes: DynamicAxes) -> dict[str, tuple[int | str, ...]]:
    """The shapes of inputs as manifests have them, by the inputs' names."""
    return {
        name: tuple(axes.names.get(name, {}).get(axis, size) for axis, size in enumerate(tensor.shape))
        for name, tensor in given.items()
    }
