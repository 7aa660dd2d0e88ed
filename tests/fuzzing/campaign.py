# SPDX-License-Identifier: Apache-2.0
"""Gives an entry point very many inputs, in a process of its own that is watched."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from fuzzing.entry_points import ENTRY_POINTS, open_point

HANG_S = 10.0
MOST_GROWTH_MB = 150  # what allocators keep of inputs of some 100 KB; a leak of one input a case is a gigabyte
_SETTLED = 0.2  # of the cases, before growth is counted: imports, caches and allocators' pools come first
_START_S = 120.0  # imports, and a server's start and end
_NAMED = 5


class EntryPoint(Protocol):
    """What takes inputs from strangers."""

    def make(self, rng: random.Random) -> Any:
        """Makes an input."""

    def give(self, case: Any) -> bool:
        """Gives it an input: True if it was taken, False if it was refused with a sentence; anything else is raised."""

    def resident_mb(self) -> float:
        """Memory of the process that takes the inputs."""

    def close(self) -> None:
        """Ends what it started."""


@dataclass
class Outcome:
    """What became of a campaign.

    Attributes:
        cases: Inputs given.
        taken, refused: How many were answered, and how many refused with a sentence.
        faults: What else happened: the case's number and the traceback, crash or hang, the first few.
        fault_count: How many such cases there were.
        slowest_s: Longest time of one case.
        growth_mb: Memory kept since a fifth of the cases was done.
        seconds: Of all.
    """

    entry_point: str
    seed: int
    cases: int
    taken: int = 0
    refused: int = 0
    fault_count: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    growth_mb: float = 0.0
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether nothing crashed, hung, grew, or ended otherwise than with an answer or a sentence."""
        return not self.fault_count and self.growth_mb <= MOST_GROWTH_MB

    def add_fault(self, case: int, what: str) -> None:
        """Counts a fault, and keeps the first few."""
        self.fault_count += 1
        if len(self.faults) < _NAMED:
            self.faults.append((case, what))

    def facts(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {**asdict(self), "is_right": self.is_right}


def run(name: str, cases: int, seed: int, place: str | None = None, hang_s: float = HANG_S) -> Outcome:
    """Gives an entry point ``cases`` inputs; a case is made of the seed and its number alone.

    What does not come back within ``hang_s`` is ended and counted, and so is a process that dies; the rest follows.

    Args:
        name: Of the entry point.
        cases: How many inputs.
        seed: Of all of them.
        place: Module and class of one that is not listed.
        hang_s: How long a case may take.
    """
    place = place or ENTRY_POINTS[name]
    outcome = Outcome(name, seed, cases)
    context = multiprocessing.get_context("spawn")
    start, first = time.monotonic(), 0
    while first < cases:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_give_all, args=(place, name, seed, first, cases, sender))
        process.start()
        sender.close()
        first = _listen(process, receiver, outcome, first, hang_s)
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _listen(process: Any, receiver: Any, outcome: Outcome, first: int, hang_s: float) -> int:
    """Collects what a process says of its cases until it ends; returns the first case that is left."""
    current, began, is_ready = first, time.monotonic(), False
    while True:
        limit = hang_s if is_ready else _START_S
        if not receiver.poll(max(0.0, began + limit - time.monotonic())):
            process.kill()
            process.join()
            outcome.add_fault(current, f"no answer within {limit:g} s")
            return current + 1
        try:
            kind, value = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode == 0:
                return outcome.cases
            outcome.add_fault(current, f"the process ended with status {process.exitcode}")
            return current + 1
        is_ready, began = True, time.monotonic()
        if kind == "begin":
            current = value
        elif kind == "end":
            outcome.taken += value["taken"]
            outcome.refused += not value["taken"] and not value["fault"]
            outcome.slowest_s = max(outcome.slowest_s, round(value["seconds"], 3))
            if value["fault"]:
                outcome.add_fault(current, value["fault"])
        else:
            outcome.growth_mb = max(outcome.growth_mb, round(value, 1))
            is_ready = False  # all cases are done; a server takes its time to end


def _give_all(place: str, name: str, seed: int, first: int, cases: int, sender: Any) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder, contextlib.ExitStack() as stack:
        point: EntryPoint = open_point(place, Path(folder))
        stack.callback(point.close)
        settled = first + int(_SETTLED * (cases - first))
        before = None
        for number in range(first, cases):
            if number == settled:
                before = point.resident_mb()
            sender.send(("begin", number))
            fault, taken, start = "", False, time.monotonic()
            case = point.make(random.Random(f"{name}/{seed}/{number}"))
            try:
                taken = point.give(case)
            except BaseException:
                fault = traceback.format_exc(limit=-6)
            sender.send(("end", {"taken": taken, "fault": fault, "seconds": time.monotonic() - start}))
        sender.send(("growth", 0.0 if before is None else point.resident_mb() - before))
