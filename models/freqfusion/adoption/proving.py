# SPDX-License-Identifier: Apache-2.0
"""Which reading of a module computes what the module computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from freqfusion.adoption.forms import RESULTS, Form
from freqfusion.adoption.reading import FUSION, TWO_STAGES, ForeignModuleError, Reading
from freqfusion.adoption.recording import Call, odd_call
from freqfusion.predicted_filters import PADDINGS

# Largest error over the standard deviation of the output that counts as the same. Two orders of fp32 sums differ by
# 3e-6 to 6e-6, the two paddings by tenths; networks in half types round every intermediate map.
SAME = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ROUNDED_INSIDE = 2e-2  # FreqFusion1x and 2x round some maps to fp16 on their way, whatever the network's type


@dataclass(frozen=True)
class Proof:
    """A reading that fits.

    Attributes:
        form: How the module is called; ``None`` for kinds that have one form.
        padding: As it computes.
        choice: What was open.
        error: Largest error over the standard deviation of the original's output; ``None`` if it did not run here.
    """

    form: Form | None
    padding: str
    choice: dict[str, Any] = field(default_factory=dict)
    error: float | None = None

    def build(self, reading: Reading, padding: str | None = None) -> nn.Module:
        """The replacement, with another ``padding`` if given."""
        return reading.build(self.form, padding or self.padding, **self.choice)


def prove(module: nn.Module, reading: Reading, calls: Sequence[Call], padding: str | None, are_tries: bool) -> Proof:
    """Finds the form, padding and open choices with which ours gives what ``module`` gave.

    Args:
        module: The original.
        reading: What it is.
        calls: What it gave.
        padding: What the user says, for where both fit.
        are_tries: Whether ``calls`` are made in several ways, of which the right one is among those it answered.

    Raises:
        ForeignModuleError: If there are none, or if either padding fits and the user says nothing.
    """
    bound = _bound(reading, calls)
    best = Proof(None, "", error=math.inf)
    for choice in reading.choices():
        for proof in _proofs(reading, choice, calls, are_tries):
            best = min(best, proof, key=_error)
        if _error(best) <= bound:
            break
    if not best.padding:
        raise ForeignModuleError(f"is called with {_described(calls[0])}, which no reading of it takes and answers")
    if _error(best) > bound:
        raise ForeignModuleError(
            f"computes something else than its parameters' names say: the nearest of all readings is off by "
            f"{best.error:.2g} standard deviations, expected {bound:.0e}"
        )
    whole = best.build(reading)
    calls = [call for call in calls if _answer(whole, call) is not None]
    other = next(name for name in PADDINGS if name != best.padding)
    if padding is None and compare(Proof(best.form, other, best.choice), reading, calls) <= bound:
        raise ForeignModuleError(
            "computes the same with either padding on these inputs: say padding='zeros' or padding='reflect'"
        )
    return _with_odd_sizes(module, reading, best)


def compare(proof: Proof, reading: Reading, calls: Sequence[Call]) -> float:
    """The largest error of ours; infinite if it does not take these inputs or gives something of another shape."""
    replacement = proof.build(reading)
    return max(_difference(ours, call.result) for call in calls for ours in [_answer(replacement, call)])


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference of any two tensors over the standard deviation of theirs; infinite if they do not fit."""
    if tree_structure(ours) != tree_structure(theirs):
        return math.inf
    worst = 0.0
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        if not isinstance(other, Tensor):
            continue
        if not isinstance(one, Tensor) or one.shape != other.shape:
            return math.inf
        if other.numel():
            a, b = one.double(), other.double()
            spread = float(b.std(correction=0)) or float(b.abs().max()) or 1.0
            share = float((a - b).abs().max()) / spread
            worst = max(worst, share if math.isfinite(share) else math.inf)
    return worst


def _difference(ours: Any, theirs: Any) -> float:
    if ours is None:
        return math.inf
    return difference(
        tuple(ours) if isinstance(ours, list) else ours, tuple(theirs) if isinstance(theirs, list) else theirs
    )


def _answer(replacement: nn.Module, call: Call) -> Any:
    try:
        with torch.no_grad():
            return replacement(*call.arguments, **call.named)
    except (ValueError, RuntimeError, TypeError):
        return None  # sizes that this reading cannot take


def _proofs(reading: Reading, choice: dict[str, Any], calls: Sequence[Call], are_tries: bool) -> Iterator[Proof]:
    """All forms and paddings of one choice, with their errors. A form's result is a function of the same three maps."""
    try:
        reading.build(reading.forms[0] if reading.forms else None, "zeros", **choice)
    except ValueError:
        return  # options that exclude each other
    for padding in PADDINGS:
        if not reading.forms:
            proof = Proof(None, padding, choice)
            yield Proof(None, padding, choice, compare(proof, reading, calls))
            continue
        for inputs in dict.fromkeys(form.inputs for form in reading.forms):
            whole = Proof(Form(inputs, "(taps, hr, lr)"), padding, choice).build(reading)
            maps = [_answer(whole, call) for call in calls]
            usable = [(three, call) for three, call in zip(maps, calls, strict=True) if three is not None]
            if not usable or (len(usable) < len(calls) and not are_tries):
                continue
            for form in reading.forms:
                if form.inputs == inputs:
                    error = max(_fits(form, three, call) for three, call in usable)
                    yield Proof(form, padding, choice, error)


def _fits(form: Form, three: tuple[Tensor, Tensor, Tensor], call: Call) -> float:
    try:
        return _difference(RESULTS[form.result](*three), call.result)
    except RuntimeError:
        return math.inf  # maps that cannot be added


def _with_odd_sizes(module: nn.Module, reading: Reading, proof: Proof) -> Proof:
    """The same, taking maps that are not exactly double if the module does."""
    if reading.kind != FUSION or proof.form is None or proof.choice["resizes"]:
        return proof
    call = odd_call(module, reading, proof.form.inputs)
    if call is None:
        return proof
    resizing = Proof(proof.form, proof.padding, {**proof.choice, "resizes": True}, proof.error)
    bound = _bound(reading, [call])
    if compare(proof, reading, [call]) > bound >= compare(resizing, reading, [call]):
        return resizing
    return proof


def _described(call: Call) -> str:
    count = len(call.arguments) + len(call.named)
    tensors = [leaf for leaf in tree_leaves((call.arguments, call.named)) if isinstance(leaf, Tensor)]
    shapes = ", ".join(" x ".join(map(str, tensor.shape)) for tensor in tensors)
    return f"{count} argument{'s' * (count != 1)}, tensors of {shapes}"


def rounding_bound(result: Any) -> float:
    """How far the same may be off in a result of these types, in standard deviations."""
    types = [leaf.dtype for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return max((SAME.get(dtype, 1e-4) for dtype in types), default=1e-4)


def _bound(reading: Reading, calls: Sequence[Call]) -> float:
    bound = rounding_bound([call.result for call in calls])
    return max(bound, ROUNDED_INSIDE) if reading.kind == TWO_STAGES else bound


def _error(proof: Proof) -> float:
    return math.inf if proof.error is None else proof.error
