# SPDX-License-Identifier: Apache-2.0
"""The same web application as replicas on Ray Serve: several processes, several machines, one address.

What belongs to one connection (its limit, its time-outs, TLS) is then the business of Ray's proxy; gRPC is not offered.
Limits on bodies and pictures, queue, batching, deadlines and the API key work as ever, in each replica for itself.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from freqfusion_runtime.batch.ray_start import RayError, last_line, running_ray
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.serving.operation.listening import listen
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.process.app import create_app
from freqfusion_runtime.serving.scheduling.registry import ModelSource

APPLICATION = "freqfusion"
_STARTS = 2  # of a replica; a model that cannot be read is not read better the tenth time


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How the application is spread.

    Args:
        min_replicas: Kept even when nobody asks.
        max_replicas: Most; more than ``min_replicas`` switches autoscaling on.
        address: Of a cluster, or ``auto``; None starts Ray on this machine alone, for as long as the server runs.
        cpus: Reserved for one replica; None for its threads, or one.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    address: str | None = None
    cpus: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise RayError(
                f"replicas must be 1 or more and MIN no more than MAX, got {self.min_replicas}:{self.max_replicas}. "
                "Give --ray-replicas N or MIN:MAX."
            )


def parse_replicas(text: str) -> tuple[int, int]:
    """Reads ``N`` or ``MIN:MAX``.

    Raises:
        ValueError: If it is neither.
    """
    low, _, high = text.partition(":")
    return int(low), int(high or low)


def build_application(models: Sequence[ModelSource], settings: Settings, options: RayOptions) -> Any:
    """Describes the deployment for ``serve.run``, or for a Serve configuration file's import path."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig

    def build() -> FastAPI:
        return _app_that_starts_ready(models, settings)

    scaling: dict[str, Any] = {"num_replicas": options.min_replicas}
    if options.max_replicas > options.min_replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=options.min_replicas,
                max_replicas=options.max_replicas,
                initial_replicas=options.min_replicas,
                # One batch at work and one waiting keeps a device busy; what is more waits for another replica.
                target_ongoing_requests=2 * settings.max_batch,
            )
        }
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name="server",
        # The replica's own queue is the limit: it answers 503 with Retry-After, Ray's would only delay.
        max_ongoing_requests=settings.queue + settings.max_batch,
        max_constructor_retry_count=_STARTS,
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={
            "num_cpus": _cpus(settings, options),
            "num_gpus": 1 if settings.backend == "cuda" else 0,
        },
        **scaling,
    )
    return deployment.bind()


def run_on_ray(
    models: Sequence[ModelSource],
    settings: Settings,
    options: RayOptions,
    *,
    on_ready: Callable[[str, int], None] = lambda host, port: None,
) -> None:
    """Serves on Ray until SIGTERM or SIGINT, then lets replicas finish what they have.

    Args:
        models: What to serve; every node must see the files under these paths.
        settings: How.
        options: Where.
        on_ready: Called with the address once every replica has its models.

    Raises:
        FreqFusionError: If a model cannot be opened.
        RayError: If Ray cannot be started, or a replica cannot.
        ListenError: If the port is taken.
    """
    if settings.tls_certificate is not None:
        raise RayError("Ray's proxy does not speak TLS here. Leave --tls-certificate out and put a proxy in front.")
    if options.address is None:
        # What is wrong with a file is said here in its own words; a replica's are in Ray's logs.
        for source in models:
            open_session(source.path, provider=settings.backend, threads=settings.threads, kernels=settings.kernels)
    port = _free_port(settings) if options.address is None else settings.port
    cores = math.ceil(options.max_replicas * _cpus(settings, options))
    with running_ray(options.address, cores), _signals() as stopping:
        from ray import serve
        from ray.exceptions import RayError as RaysOwnError
        from ray.serve.config import HTTPOptions

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(http_options=HTTPOptions(host=settings.host, port=port))
            application = build_application(models, settings, options)
            serve.run(application, name=APPLICATION, route_prefix="/")
        except (RuntimeError, ValueError, TimeoutError, RaysOwnError) as e:
            raise RayError(f"Ray Serve cannot run the server: {_reason(serve, e)} Correct it and start again.") from e
        try:
            on_ready(settings.host, port)
            stopping.wait()
        finally:
            # Replicas finish their requests first. Serve itself goes down with Ray where that is ours, and stays on a
            # cluster, where it may run other applications.
            serve.delete(APPLICATION)


def _app_that_starts_ready(models: Sequence[ModelSource], settings: Settings) -> FastAPI:
    """The application, except that its start ends when the models are loaded: Ray sends requests from then on."""
    app = create_app(models, settings)
    service = app.state.service
    original = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(inner: FastAPI) -> AsyncIterator[None]:
        async with original(inner):
            await service.loading
            if not service.is_ready:
                raise RayError("; ".join(slot.problem for slot in service.registry.slots if slot.problem))
            yield

    app.router.lifespan_context = lifespan
    return app


def _cpus(settings: Settings, options: RayOptions) -> float:
    return options.cpus if options.cpus is not None else max(1, settings.threads)


def _free_port(settings: Settings) -> int:
    with listen(settings.host, settings.port) as opened:
        return int(opened.getsockname()[1])


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Gives an event that SIGTERM and SIGINT set, so that a start-up in progress is not cut in the middle."""
    stopping = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stopping.set()) for number in numbers]
    try:
        yield stopping
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _reason(serve: Any, error: BaseException) -> str:
    """Finds a replica's own words in Serve's status, where the exception only says that it failed."""
    with suppress(Exception):
        for deployment in serve.status().applications[APPLICATION].deployments.values():
            lines = [line for line in deployment.message.splitlines() if "Error: " in line]
            if lines:
                return str(lines[-1]).partition("Error: ")[2].strip()
    return last_line(error)
