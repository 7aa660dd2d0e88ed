# SPDX-License-Identifier: Apache-2.0
"""What the gate tells people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from freqfusion_runtime.building.ladder import LEVELS, PictureGate, Rung
from freqfusion_runtime.files import finite


def gate_lines(results: Sequence[PictureGate]) -> list[str]:
    """Words the gate: of each level and reference the worst comparison, and where an error grows."""
    lines = []
    for result in results:
        groups: dict[tuple[str, str], list[Rung]] = {}
        for rung in result.rungs:
            groups.setdefault((rung.level, rung.reference), []).append(rung)
        for (level, reference), rungs in sorted(groups.items(), key=lambda item: LEVELS.index(item[0][0])):
            worst = min(rungs, key=lambda rung: (rung.agrees, -rung.measures.get("max_over_std", 0.0)))
            count = f" {len(rungs)}, worst {worst.name}:" if len(rungs) > 1 else f" {worst.name}:"
            lines.append(f"  {result.picture}: {level} against {reference},{count} {_measured(worst)}")
        for reference in dict.fromkeys(rung.reference for rung in result.rungs):
            inside = [r for r in result.rungs if r.reference == reference and r.level in ("layer", "module")]
            lines += _growth_lines(inside, reference)
            own = [r for r in result.rungs if r.reference == reference and r.level in ("network", "task")]
            if inside and all(r.agrees for r in inside) and not all(r.agrees for r in own):
                lines.append(
                    "    values inside agree in an engine built to show them, so look at what is fused in this one, "
                    "or behind the last FreqFusion node"
                )
    if any(rung.level in ("operator", "layer", "module") for result in results for rung in result.rungs):
        lines.append(
            "  operators, layers and modules are those of further engines, built alike to show them; "
            "TensorRT may fuse less there"
        )
    return lines


def _measured(rung: Rung) -> str:
    measured = ", ".join(
        f"{name} {value:.6g}" + (f" (bound {rung.bounds[name]:g})" if name in rung.bounds else "")
        for name, value in rung.measures.items()
    )
    return (measured or rung.note) + ("" if rung.agrees else "  <-- beyond")


def _growth_lines(inside: Sequence[Rung], reference: str) -> list[str]:
    """Words the first value beyond its bound, else the step at which the error grows most, in order of computation."""
    beyond = next((rung for rung in inside if not rung.agrees), None)
    if beyond is not None:
        return [f"    against {reference} the first value beyond its bound is {beyond.level} {beyond.name}"]
    errors = [rung.measures.get("max_over_std", 0.0) for rung in inside]
    steps = [(errors[i] / max(*errors[:i], 1e-12), i) for i in range(1, len(errors)) if errors[i] > 0]
    if not steps:
        return []
    _, place = max(steps)
    before = max(errors[:place])
    return [
        f"    against {reference} the error grows most at {inside[place].level} {inside[place].name}: "
        f"{before:.1e} before, {errors[place]:.1e} there"
    ]


def gate_facts(results: Sequence[PictureGate]) -> list[dict[str, Any]]:
    """The same for JSON, which has no infinities: null."""
    facts: list[dict[str, Any]] = finite(
        [{"picture": r.picture, "agrees": r.agrees, "rungs": [asdict(rung) for rung in r.rungs]} for r in results]
    )
    return facts
