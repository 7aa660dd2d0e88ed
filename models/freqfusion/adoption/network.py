# SPDX-License-Identifier: Apache-2.0
"""``adopt``: our operators in place of every FreqFusion of a network, proven by running both."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from freqfusion.adoption.forms import Form
from freqfusion.adoption.proving import Proof, compare, difference, prove, rounding_bound
from freqfusion.adoption.reading import (
    FUSION,
    LAYER,
    SWITCHES,
    ForeignModuleError,
    Reading,
    is_scripted,
    official_signature,
    read,
)
from freqfusion.adoption.recording import Recording, as_call, in_a_line, random_calls, record
from freqfusion.adoption.replacements import CarafeLayer, CarafeUpsampler
from freqfusion.adoption.report import AdoptedModule, AdoptionReport, LeftModule
from freqfusion.errors import AdoptionError
from freqfusion.predicted_filters import PADDINGS, PredictedFilters

OURS = (PredictedFilters, CarafeLayer, CarafeUpsampler)
# The whole network repeats a module's rounding in every layer that follows.
LAYERS_OF_ROUNDING = 5
FALLBACK = (
    "reflects on this machine; the author's code does so only where mmcv is missing, so say padding='zeros' if it was "
    "trained with mmcv"
)


@dataclass
class _Found:
    """A module of the network that is, or is called, FreqFusion or CARAFE."""

    module: nn.Module
    paths: list[str]
    reading: Reading | None
    obstacle: str = ""


def adopt(
    network: nn.Module, example_inputs: Any = None, *, padding: str | None = None, form: str | None = None
) -> AdoptionReport:
    """Puts our operators in place of every FreqFusion and CARAFE in a network, in the network itself.

    They are found by the names and shapes of their parameters, whatever the class is called. The replacements compute
    with the same convolutions, so that state_dicts, optimizers and shared weights stay as they are, and can be trained
    and exported. Every replacement is proven first: the original and ours are run, on the maps that reach the original
    when the network runs on ``example_inputs``, or on random maps where it is not reached or there are none. So it is
    found out how the original is called and whether it pads with zeros (as with mmcv) or reflects (the author's later
    fallback). Where the original does not run here, the report says that nothing was proven, and nothing is guessed:
    it is replaced on the user's word, or left as it is.

    Args:
        network: In evaluation mode, on any device.
        example_inputs: What its ``forward`` takes: a tensor, a tuple of arguments or a dictionary of named ones.
        padding: ``zeros`` or ``reflect``: how the network was trained, where that is known. It comes before what is
            found by running: a copy that needs mmcv in training may run with its fallback here.
        form: How its FreqFusions are called, such as ``[lr, hr] -> cat(lr, hr)``, where they cannot be run here.

    Returns:
        What was done, and what was left and why. What is left is also warned of.

    Raises:
        AdoptionError: If there is nothing to look at (a network in training mode, compiled by torch.jit or without
            weights, or one without any FreqFusion), if ``example_inputs`` do not fit, or if the adopted network does
            not give what it gave before. The network is then as it was.
    """
    _check_network(network)
    if padding is not None and padding not in PADDINGS:
        raise AdoptionError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    wanted = None if form is None else Form.parse(form)
    found = _find(network)
    recording, call = Recording(), None
    if example_inputs is not None:
        call = as_call(network, example_inputs)
        recording = record(network, [each.module for each in found if each.reading], call)
    adopted, proven = [], []
    for each in found:
        if each.reading is None:
            continue
        try:
            proof, error = _prove(each.module, each.reading, recording, padding, wanted)
        except ForeignModuleError as obstacle:
            each.obstacle = str(obstacle)
            continue
        adopted.append(_describe(each, each.reading, proof, padding, error))
        proven.append((each, proof.build(each.reading), proof.build(each.reading, padding)))
    network_error = None
    if call is not None and recording.result is not None:
        _put(network, [(each, as_found) for each, as_found, _ in proven])
        network_error = difference(_run_again(network, call, proven), recording.result)
        if network_error > max(1e-2, LAYERS_OF_ROUNDING * rounding_bound(recording.result)):
            _put(network, [(each, each.module) for each, *_ in proven])
            raise AdoptionError(
                f"the adopted network is {network_error:.2g} standard deviations from what it gave before, although "
                f"each of its {len(proven)} modules is right alone. Does it draw random numbers, or reach into them?"
            )
    _put(network, [(each, final) for each, _, final in proven])
    left = [LeftModule(tuple(e.paths), type(e.module).__name__, e.obstacle) for e in found if e.obstacle]
    if left:
        names = "; ".join(f"{', '.join(module.paths)} {module.obstacle}" for module in left)
        warnings.warn(f"adopt left {len(left)} of {len(found)} modules in place: {names}", stacklevel=2)
    return AdoptionReport(tuple(adopted), tuple(left), network_error)


def _run_again(network: nn.Module, call: Any, proven: list[tuple[_Found, nn.Module, nn.Module]]) -> Any:
    """What the adopted network gives.

    Raises:
        AdoptionError: If it does not run any more; it is then as it was.
    """
    try:
        return record(network, [], call).result
    except AdoptionError as error:
        _put(network, [(each, each.module) for each, *_ in proven])
        raise AdoptionError(
            f"the network does not run with its modules replaced: {in_a_line(error.__cause__)}. Does its code reach "
            f"into {', '.join(path for each, *_ in proven for path in each.paths)}?"
        ) from error


def _check_network(network: nn.Module) -> None:
    if not isinstance(network, nn.Module):
        raise AdoptionError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    if is_scripted(network):
        raise AdoptionError(
            "the network is compiled by torch.jit, which does not let modules be replaced; adopt it before torch.jit"
        )
    training = [path or "the network" for path, module in network.named_modules() if module.training]
    if training:
        raise AdoptionError(
            f"{training[0]} is in training mode, expected evaluation mode: call network.eval() first. Adopted networks "
            f"can be trained afterwards."
        )
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise AdoptionError(f"{empty[0]} is on the meta device and has no values; load the weights first")


def _find(network: nn.Module) -> list[_Found]:
    """Every FreqFusion and CARAFE, shared ones once, and what is called so."""
    found: dict[int, _Found] = {}
    inside: list[str] = []
    has_ours = False
    for path, module in network.named_modules(remove_duplicate=False):
        if any(path.startswith(outer) for outer in inside):
            continue
        if isinstance(module, OURS):
            has_ours = True
            inside.append(f"{path}.")
            continue
        if id(module) in found:
            found[id(module)].paths.append(path)
            inside += [f"{path}."] * (found[id(module)].reading is not None)
            continue
        reading, obstacle = None, ""
        try:
            reading = read(module)
            if reading is not None:
                _refuse_hooks(module)
        except ForeignModuleError as error:
            reading, obstacle = None, str(error)
        if reading is not None and module is network:
            raise AdoptionError(
                f"the network itself is a {reading.kind}, which cannot be replaced in itself; adopt what it is part "
                f"of, or torch.nn.ModuleList([it])"
            )
        if reading is not None or obstacle:
            found[id(module)] = _Found(module, [path], reading, obstacle)
            inside += [f"{path}."] * (reading is not None)
    if not any(each.reading or each.obstacle for each in found.values()):
        count = sum(1 for _ in network.modules())
        raise AdoptionError(
            "every FreqFusion of the network is ours already: there is nothing to adopt"
            if has_ours
            else f"none of the network's {count} modules is a FreqFusion: none has hr_channel_compressor, "
            f"lr_channel_compressor and content_encoder"
        )
    return list(found.values())


def _refuse_hooks(module: nn.Module) -> None:
    for inner in (module, *(child for name, child in module.named_children() if name == "dysampler")):
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(getattr(inner, kind) for kind in kinds):
            raise ForeignModuleError(
                "has hooks, which a replacement would lose: remove them, adopt, and register them again"
            )
        if "forward" in vars(inner):
            raise ForeignModuleError("has a forward that was put on the object: adopt before that is done")


def _prove(
    module: nn.Module, reading: Reading, recording: Recording, padding: str | None, form: Form | None
) -> tuple[Proof, float | None]:
    """The reading that fits, and its error in the user's network, or else on random maps.

    Raises:
        ForeignModuleError: If there is none, or nothing to tell by.
    """
    if form is not None and reading.forms:
        reading = Reading(reading.kind, reading.channels, reading.known, reading.build, reading.open, (form,))
    calls = recording.calls.get(id(module), [])
    tries, reason = random_calls(module, reading)
    if not calls and not tries:
        return _on_the_users_word(module, reading, padding, form, recording.failures.get(id(module), reason)), None
    proof = prove(module, reading, tries or calls, padding, are_tries=bool(tries))
    if tries and calls:
        error = compare(proof, reading, calls)
        if error > 10 * (proof.error or 0.0) + 1e-3:  # a form that random maps did not tell from another
            proof = prove(module, reading, calls, padding, are_tries=False)
            error = proof.error or 0.0
        return proof, error
    return proof, proof.error


def _on_the_users_word(
    module: nn.Module, reading: Reading, padding: str | None, form: Form | None, reason: str
) -> Proof:
    """What was said, where the module does not run.

    Raises:
        ForeignModuleError: If too little was said.
    """
    if padding is None and reading.kind == LAYER and type(module).__module__.startswith("mmcv."):
        padding = "zeros"  # mmcv's own kernel
    if padding is None:
        raise ForeignModuleError(
            f"does not run here ({reason}), so its padding cannot be found out: say padding='zeros' if it was trained "
            f"with mmcv, else padding='reflect', or adopt where it runs"
        )
    choice = {name: values[0] for name, values in reading.open.items()}
    if not reading.forms:
        return Proof(None, padding, choice)
    if form is None and reading.kind == FUSION and official_signature(module):
        form = Form("hr, lr", "(taps, hr, lr)")
    if form is None:
        raise ForeignModuleError(
            f"does not run here ({reason}), so it cannot be found out how it is called: say, for example, "
            f"form='[hr, lr] -> hr + lr'"
        )
    unknown = [name for name in SWITCHES if name in reading.open and not hasattr(module, name)]
    if unknown:
        raise ForeignModuleError(
            f"does not run here ({reason}) and does not say its {', '.join(unknown)}: adopt where it runs"
        )
    return Proof(form, padding, choice)


def _describe(each: _Found, reading: Reading, proof: Proof, padding: str | None, error: float | None) -> AdoptedModule:
    chosen = padding or proof.padding
    note = ""
    if error is None:
        note = "not proven: does not run here, and padding and form are as you say"
    elif chosen != proof.padding:
        note = f"pads with {chosen} as you say; on this machine it computes with {proof.padding}"
    elif chosen == "reflect" and padding is None:
        note = FALLBACK
    options = {**reading.known, **proof.choice}
    shown = "" if proof.form is None else str(proof.form)
    return AdoptedModule(tuple(each.paths), reading.kind, reading.channels, options, shown, chosen, error, note)


def _put(network: nn.Module, modules: Iterable[tuple[_Found, nn.Module]]) -> None:
    """Puts modules in their places."""
    for each, module in modules:
        for path in each.paths:
            parent, _, name = path.rpartition(".")
            network.get_submodule(parent)._modules[name] = module
