# SPDX-License-Identifier: Apache-2.0
"""One inference call of either protocol, from its checked tensors to the model's answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from freqfusion_runtime.serving.operation.stages import Stages
from freqfusion_runtime.serving.scheduling.jobs import Tensors
from freqfusion_runtime.serving.scheduling.memory import Holding
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.service import Service
from freqfusion_runtime.serving.scheduling.tensors import InferCall, check_call

# Name of the service in the metadata answer, and the parts of the protocol it has.
SERVER_NAME = "freqfusion"
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
)


async def infer(
    service: Service, model: LoadedModel, call: InferCall, deadline: float, stages: Stages, holding: Holding
) -> Tensors:
    """Runs a call.

    Args:
        service: The server.
        model: The model.
        call: The parsed request.
        deadline: By ``time.monotonic()``; the call's own time-out may be sooner.
        stages: Filled with the time in the queue and in the network.
        holding: Charged with the outputs.

    Returns:
        All outputs.

    Raises:
        ServingError: As :func:`check_call` and :meth:`Scheduler.infer`.
    """
    check_call(call, model)
    if call.timeout_us is not None:
        deadline = min(deadline, time.monotonic() + call.timeout_us / 1e6)
    outcome = await service.scheduler.infer(model, call.inputs, deadline, holding=holding)
    stages.add("queue", outcome.queue_ms)
    stages.add("inference", outcome.inference_ms)
    return outcome.outputs


@contextmanager
def counted(service: Service, model: LoadedModel, stages: Stages) -> Iterator[None]:
    """Counts the request inside it in the statistics, as a success if nothing is raised."""
    start = time.perf_counter()
    is_success = False
    try:
        yield
        is_success = True
    finally:
        service.statistics.add_request(model, stages, (time.perf_counter() - start) * 1e3, is_success)
