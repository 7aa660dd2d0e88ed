# SPDX-License-Identifier: Apache-2.0
"""Requests on their way through the scheduler, and how some of them run together."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import FreqFusionError, InputError
from freqfusion_runtime.serving.operation.errors import BadRequestError, ModelFailedError, ServingError
from freqfusion_runtime.serving.scheduling.memory import Holding
from freqfusion_runtime.serving.scheduling.registry import LoadedModel

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Outcome:
    """What a run gave; ``batch`` is the number of items that ran together."""

    outputs: Tensors
    queue_ms: float
    inference_ms: float
    batch: int


class Admission:
    """A place among the requests that wait for a model; a context manager that gives it up if it was not used."""

    def __init__(self, give_up: Callable[[], None]) -> None:
        self._give_up = give_up
        self.is_held = True

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_up()


@dataclass(eq=False)
class Job:
    """A request that waits for the device, or runs there."""

    model: LoadedModel
    inputs: Tensors
    items: int
    arrived: float
    deadline: float
    number: int
    admission: Admission
    holding: Holding | None
    future: Future[Outcome] = field(default_factory=Future)

    def run_bytes(self, items: int) -> int:
        """Memory of a run over so many such items."""
        shape = self.inputs[self.model.session.manifest.inputs[0].name].shape
        return self.model.run_bytes((items, *shape[1:]))


def items_of(inputs: Tensors) -> int:
    """How many pictures a request holds."""
    first = next(iter(inputs.values()))
    return int(first.shape[0]) if first.ndim else 1


def joined(outcomes: list[Outcome]) -> Outcome:
    """Makes one of what several turns gave."""
    outputs = {name: np.concatenate([outcome.outputs[name] for outcome in outcomes]) for name in outcomes[0].outputs}
    queue_ms, inference_ms = sum(o.queue_ms for o in outcomes), sum(o.inference_ms for o in outcomes)
    return Outcome(outputs, queue_ms, inference_ms, max(outcome.batch for outcome in outcomes))


def bucket_of(job: Job) -> Any:
    """What must be equal for two requests to run together; pictures are never stretched to make them so."""
    shapes = tuple((name, value.dtype.str, value.shape[1:]) for name, value in sorted(job.inputs.items()))
    return id(job.model), shapes


def run_together(batch: list[Job]) -> list[Tensors]:
    """Runs requests of one bucket as one batch, and gives each its share of the outputs.

    Raises:
        ModelFailedError: If an output has not as many items as the batch; whatever the engine raises passes as it is.
    """
    session = batch[0].model.session
    if len(batch) == 1:
        return [session.run(batch[0].inputs)]
    inputs = {name: np.concatenate([job.inputs[name] for job in batch]) for name in batch[0].inputs}
    outputs = session.run(inputs)
    total = sum(job.items for job in batch)
    for name, value in outputs.items():
        if value.shape[:1] != (total,):
            raise ModelFailedError(f"output {name!r} has shape {value.shape} for a batch of {total}.")
    ends = list(itertools.accumulate(job.items for job in batch))
    return [
        {name: value[end - job.items : end] for name, value in outputs.items()}
        for job, end in zip(batch, ends, strict=True)
    ]


def as_serving_error(model: LoadedModel, error: BaseException) -> ServingError:
    """Words what an engine raised for a client."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, InputError):
        return BadRequestError(str(error))
    reason = str(error) if isinstance(error, FreqFusionError) else f"{type(error).__name__}: {error}"
    return ModelFailedError(f"model {model.source.name!r} failed: {reason}")


def fail(job: Job, error: ServingError) -> None:
    """Ends a request with an error."""
    with contextlib.suppress(Exception):  # cancelled meanwhile
        job.future.set_exception(error)
