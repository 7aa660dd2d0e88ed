# SPDX-License-Identifier: Apache-2.0
"""``freqfusion parity --bisect``: which nodes of a half-typed file would have to be in fp32."""

from __future__ import annotations

import glob
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tqdm import tqdm

from freqfusion_export.errors import ExportError
from freqfusion_export.precision.bisection import smallest_sufficient
from freqfusion_export.precision.retyping import Retyping

if TYPE_CHECKING:
    import onnx_ir as ir
    from freqfusion_runtime.agreement.comparison import Comparison

HEADER = f"  {'trial':>5}  {'in fp32 beside the islands':<56} {'max/std':>9} {'labels':>9} {'mIoU':>9}"


@dataclass(frozen=True)
class Trial:
    """One typing that was tried, on the pictures up to the one where it failed, or on all.

    Attributes:
        kept: What was in fp32, in words.
        nodes: How many nodes that is.
        picture: Which picture the numbers are of.
        logit_error: Largest error of the logits over their standard deviation; None if a number is not finite.
        label_agreement: Share of pixels with equal labels; None of a network without labels.
        miou: Between the label maps, over these pictures; likewise.
        suffices: Whether every picture is within tolerance.
    """

    kept: str
    nodes: int
    picture: str
    logit_error: float | None
    label_agreement: float | None
    miou: float | None
    suffices: bool


@dataclass
class Bisection:
    """What was tried and found.

    Attributes:
        trials: In their order.
        stages: Stages that suffice, none of which can be left out; None if not even all of them do.
        nodes: The same for nodes within those stages.
    """

    trials: list[Trial] = field(default_factory=list)
    stages: list[str] | None = None
    nodes: list[str] | None = None

    @property
    def options(self) -> list[str]:
        """Options of `freqfusion export` that keep these nodes."""
        return [f"--keep-fp32 {shlex.quote(glob.escape(name))}" for name in self.nodes or ()]

    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "options": self.options}


def refuse_unless_half(path: Path, precision: str, task: str, operators: Collection[str] = ()) -> None:
    """Raises ``ExportError`` for a file that has nothing to bisect."""
    if "DeformableAttention" in operators and task != "network":
        raise ExportError(
            f"{path} is a Mask2Former, and --bisect judges class scores at each place, where it has queries. "
            "Compare its layers with --layers, and keep stages with `export --keep-fp32`"
        )
    if task not in ("semantic_segmentation", "network"):
        raise ExportError(
            f"{path} is for {task}, and --bisect judges logits, label maps and tensors, which it has not. "
            "Compare its layers with --layers, and keep stages with `export --keep-fp32`"
        )
    if precision not in ("fp16", "bf16"):
        if precision == "fp32":
            reason = "all of it is in fp32 already; `parity --layers` names the first module that is off"
        else:
            reason = (
                "its loss is of scales, not of casts; "
                f"`export --precision {precision}` lists what each group of layers loses"
            )
        raise ExportError(f"{path} is {precision}, and --bisect is for fp16 and bf16: {reason}")


class Judged(Protocol):
    """What a file was compared on: a picture, or a set of inputs."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def comparisons(self) -> list[Comparison]:
        """The arrays that were compared."""

    @property
    def agrees(self) -> bool:
        """Whether all is within tolerance."""

    @property
    def label_agreement(self) -> float | None:
        """Share of pixels with equal labels, where there are labels."""


J = TypeVar("J", bound=Judged)


class Bisectable(Protocol[J]):
    """What compares variants of a file with PyTorch."""

    @property
    def precision(self) -> str:
        """Of the file."""

    @property
    def least_miou(self) -> float:
        """Bound of :meth:`miou_of`."""

    def on_variant(self, model: ir.Model, known: J) -> J:
        """Compares a variant where the file itself was compared before."""

    def miou_of(self, results: Sequence[J]) -> float | None:
        """Mean IoU over all, where there are labels."""


def bisect(parity: Bisectable[J], path: Path, results: Sequence[J], say: Callable[[str], None]) -> Bisection:
    """Looks for the nodes whose casts break parity, and prints what it tries.

    A trial's loss is that of the outputs, and of label maps where there are some, computed with every rounding the
    typing asks for.

    Args:
        parity: Of the file.
        path: The file.
        results: Of its pictures or inputs.
        say: Prints a line.
    """
    retyping = Retyping(path)
    found = Bisection()
    ordered = sorted(results, key=lambda result: result.agrees)  # a trial ends at the first picture that fails
    everything = [name for nodes in retyping.stages.values() for name in nodes]
    say(f"\nbisection over {len(everything)} nodes in {parity.precision}, {len(retyping.stages)} stages")
    say(HEADER)
    with tqdm(desc="bisection", unit="trial", file=sys.stderr, disable=None, leave=False) as progress:

        def suffices(kept: str, names: Collection[str]) -> bool:
            tried = []
            for known in ordered:
                result = parity.on_variant(retyping.keeping(names), known)
                tried.append(result)
                if not result.agrees:
                    break
            miou = parity.miou_of(tried)
            is_within = result.agrees and (miou is None or miou >= parity.least_miou)
            error = max(comparison.max_over_std for comparison in result.comparisons)
            finite = error if error < float("inf") else None
            trial = Trial(kept, len(names), result.name, finite, result.label_agreement, miou, bool(is_within))
            found.trials.append(trial)
            progress.update()
            with progress.external_write_mode(file=sys.stderr):
                say(_row(len(found.trials), trial))
            return trial.suffices

        if not suffices("everything", everything):
            return found

        def stages_suffice(stages: Collection[str]) -> bool:
            names = [name for stage in stages for name in retyping.stages[stage]]
            return suffices(_words(stages, "stages"), names)

        found.stages = smallest_sufficient(list(retyping.stages), stages_suffice)
        candidates = [name for stage in found.stages for name in retyping.stages[stage]]
        if candidates:
            # That nothing at all suffices has been seen not to be so: the empty set is not tried again.
            found.nodes = smallest_sufficient(
                candidates, lambda names: bool(names) and suffices(_words(names, "nodes"), names)
            )
        else:
            found.nodes = []
    return found


def conclude(found: Bisection, say: Callable[[str], None]) -> None:
    """Prints what was found."""
    if found.stages is None or found.nodes is None:
        say(
            "With every node in fp32 it is still beyond its tolerance: the loss is not one of precision between nodes. "
            "Compare the fp32 export with --layers, or look at the weights, which are the file's rounded ones."
        )
    elif not found.nodes:
        say("What comes out is within tolerance; only values inside the network are beyond theirs, see above.")
    else:
        say(f"stages that suffice in fp32: {', '.join(found.stages)}")
        say(f"nodes that suffice, none of which can be left out: {len(found.nodes)}")
        for option in found.options:
            say(f"  {option}")


def _words(names: Collection[str], noun: str) -> str:
    listed = ", ".join(names)
    return listed if names and len(listed) <= 56 else f"{len(names)} {noun}" if names else "nothing more"


def _row(number: int, trial: Trial) -> str:
    error = "not finite" if trial.logit_error is None else f"{trial.logit_error:9.1e}"
    mark = "  suffices" if trial.suffices else ""
    return f"  {number:>5}  {trial.kept:<56} {error:>9} {_share(trial.label_agreement)} {_share(trial.miou)}{mark}"


def _share(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.6f}"
