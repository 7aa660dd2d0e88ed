# SPDX-License-Identifier: Apache-2.0
"""TensorRT's own progress monitor, as one fraction that only grows, and the way to stop a build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from freqfusion_runtime.engines.flavours import Flavour


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """How far a build is.

    TensorRT tells of nested phases, each of a known number of steps. A phase's fraction is that of its finished steps
    plus, for the step at work, the mean of the phases inside it.

    Args:
        report: Called with the whole's fraction in [0, 1] and the name of the innermost phase.
    """

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._best = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Asks TensorRT to give the build up at its next step."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped.is_set()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside ``parent``."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))
            self._tell(name)

    def step(self, name: str, index: int) -> bool:
        """A step has ended; returns whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = index + 1
                self._tell(name)
        return not self._stopped.is_set()

    def finish(self, name: str) -> None:
        """A phase has ended."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None:
                self._tell(name, 1.0 if not self._stopped.is_set() else None)

    def monitor(self, flavour: Flavour) -> Any:
        """Makes the object that the builder calls."""
        progress = self

        class Monitor(flavour.api.IProgressMonitor):  # type: ignore[misc, name-defined]
            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                progress.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                progress.finish(phase_name)

        return Monitor()

    def _tell(self, name: str, fraction: float | None = None) -> None:
        roots = [phase_name for phase_name, phase in self._phases.items() if phase.parent not in self._phases]
        if fraction is None:
            fraction = max((self._fraction(root) for root in roots), default=0.0)
        self._best = max(self._best, min(fraction, 1.0))
        self._report(self._best, name)

    def _fraction(self, name: str) -> float:
        phase = self._phases[name]
        inside = [self._fraction(child) for child, other in self._phases.items() if other.parent == name]
        within = sum(inside) / len(inside) if inside and phase.done < phase.steps else 0.0
        return min((phase.done + within) / phase.steps, 1.0)
