# SPDX-License-Identifier: Apache-2.0
"""What the user's own modules compute: on the maps that reach them in the user's network, and on random ones."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from freqfusion.adoption.forms import INPUTS
from freqfusion.adoption.reading import LAYER, PACK, TWO_STAGES, Reading
from freqfusion.errors import AdoptionError

MOST_CALLS = 3  # of one module that are kept: shared ones may be called with maps of several sizes


@dataclass(frozen=True)
class Call:
    """A call of a module and what it gave."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: Any


@dataclass
class Recording:
    """A run of a network.

    Attributes:
        result: What it gave; ``None`` if a module that was watched did not run.
        calls: Of the watched modules, by ``id``.
        failures: Why a watched module did not run.
    """

    result: Any = None
    calls: dict[int, list[Call]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


def as_call(network: nn.Module, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and named arguments.

    Args:
        network: What they are for.
        example_inputs: A tensor, a tuple or list of arguments, or a dictionary of named ones.

    Raises:
        AdoptionError: If they are not what ``forward`` takes or lie on another device.
    """
    named = dict(example_inputs) if isinstance(example_inputs, Mapping) else {}
    if isinstance(example_inputs, Tensor | np.ndarray):
        example_inputs = (example_inputs,)
    if not isinstance(example_inputs, Mapping | tuple | list):
        raise AdoptionError(
            f"example_inputs must be a tensor, a tuple of arguments or a dictionary of named ones, "
            f"got {type(example_inputs).__name__}"
        )
    arguments = () if named else tuple(example_inputs)
    signature = inspect.signature(network.forward)
    try:
        bound = signature.bind(*arguments, **named)
    except TypeError as error:
        raise AdoptionError(
            f"example_inputs do not fit {type(network).__name__}.forward{signature}: {error}. Pass its arguments as a "
            f"tuple, or by name as a dictionary."
        ) from error
    devices = {str(parameter.device) for parameter in network.parameters()}
    for name, value in bound.arguments.items():
        if isinstance(value, np.ndarray):
            raise AdoptionError(f"example input {name} is a numpy array, expected a tensor: torch.from_numpy makes one")
        if isinstance(value, Tensor) and len(devices) == 1 and str(value.device) not in devices:
            raise AdoptionError(
                f"example input {name} lies on {value.device}, the network on {devices.pop()}: move one with .to(...)"
            )
    return arguments, named


def record(network: nn.Module, modules: Iterable[nn.Module], call: tuple[tuple[Any, ...], dict[str, Any]]) -> Recording:
    """Runs ``network`` and keeps the calls of ``modules``.

    Raises:
        AdoptionError: If it does not run, and none of ``modules`` is why.
    """
    recording, running, handles = Recording(), [], []

    def enter(module: nn.Module, *_: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        running.remove(module)
        calls = recording.calls.setdefault(id(module), [])
        if len(calls) < MOST_CALLS:
            calls.append(_kept(Call(arguments, named, result)))

    for module in modules:
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with torch.no_grad():
            recording.result = tree_map(_copied, network(*call[0], **call[1]))
    except Exception as error:
        if not running:
            raise AdoptionError(
                f"the network does not run on example_inputs: {in_a_line(error)}. Pass inputs of the number, type and "
                f"size that it was made for."
            ) from error
        recording.failures[id(running[-1])] = in_a_line(error)
    finally:
        for handle in handles:
            handle.remove()
    return recording


def random_calls(module: nn.Module, reading: Reading) -> tuple[list[Call], str]:
    """Calls ``module`` with random maps, in every way that it may be meant to be called.

    Returns:
        The calls that it answered, and why it did not answer the first of the others.
    """
    calls, reason = [], ""
    for arguments in _random_arguments(module, reading, odd=False):
        call, why = try_call(module, arguments)
        calls += [call] if call else []
        reason = reason or why
    return calls, reason


def odd_call(module: nn.Module, reading: Reading, inputs: str) -> Call | None:
    """A call with a fine map that is not exactly twice the coarse one; ``None`` if ``module`` refuses it."""
    arguments = dict(zip(INPUTS, _random_arguments(module, reading, odd=True), strict=False))
    return try_call(module, arguments[inputs])[0]


def try_call(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Call | None, str]:
    """Calls ``module``; the call, or why there is none."""
    try:
        with torch.no_grad():
            return _kept(Call(arguments, {}, module(*arguments))), ""
    except Exception as error:
        return None, in_a_line(error)


def in_a_line(error: BaseException | None) -> str:
    """An error of a stranger's code, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    text = f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= 160 else f"{text[:157]}..."


def _random_arguments(module: nn.Module, reading: Reading, odd: bool) -> list[tuple[Any, ...]]:
    like = next(module.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    if reading.kind == LAYER:
        k, groups, scale = reading.known.values()
        mask = draw(1, groups * k**2, scale * (k + 2), scale * (k + 3))
        return [(draw(1, 2 * groups, k + 2, k + 3), mask)]
    if reading.kind == PACK:
        k = reading.known["up_kernel"]
        return [(draw(1, reading.channels[0], k + 2, k + 3),)]
    side = max(7, reading.known["lowpass_kernel"])
    lr = draw(1, reading.channels[1], side, side + 2)
    sizes = [(2 * side - odd, 2 * side + 4 - odd)] + [(side, side + 2)] * (reading.kind == TWO_STAGES)
    found: list[tuple[Any, ...]] = []
    for size in sizes:
        hr = draw(1, reading.channels[0], *size)
        found += [(hr, lr), (lr, hr), ([hr, lr],), ([lr, hr],)]  # as INPUTS
    return found


def _kept(call: Call) -> Call:
    return Call(tree_map(_copied, call.arguments), tree_map(_copied, call.named), tree_map(_copied, call.result))


def _copied(value: Any) -> Any:
    """A tensor as it is now: networks go on and add to it in place."""
    return value.detach().clone() if isinstance(value, Tensor) else value
