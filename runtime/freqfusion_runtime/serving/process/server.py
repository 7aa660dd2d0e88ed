# SPDX-License-Identifier: Apache-2.0
"""The life of a server process: listen, load, serve, and on SIGTERM finish what was accepted and stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn

from freqfusion_runtime.serving.http.connection import connection_class
from freqfusion_runtime.serving.http.tls import server_context, tls_class
from freqfusion_runtime.serving.operation.listening import inherited, listen
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.process.app import create_app
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.scheduling.service import Service


@dataclass(frozen=True)
class Addresses:
    """Where a server listens; ``grpc_port`` is None without gRPC."""

    host: str
    port: int
    grpc_port: int | None


class _HttpServer(uvicorn.Server):
    """uvicorn without its own handling of signals, which stops listening before clients can know."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    models: Sequence[ModelSource],
    settings: Settings,
    *,
    on_listening: Callable[[Addresses], None] = lambda _: None,
    on_ready: Callable[[Service], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT or ``stop``; a second signal ends it at once.

    Args:
        models: What to serve.
        settings: How.
        on_listening: Called when connections are accepted; models are still being loaded then.
        on_ready: Called when every model has been loaded, or could not be.
        stop: Ends the server when it is set.

    Raises:
        ListenError: If an address cannot be had.
        CertificateError: If the files for TLS cannot be used.
        ModelFileError: If no model is named.
    """
    app = create_app(models, settings)
    service: Service = app.state.service
    protocol = _protocol(service)
    socket = inherited() or listen(settings.host, settings.port)
    stopping = stop or asyncio.Event()
    http = _HttpServer(_uvicorn_config(app, service, protocol))
    with _stop_on_signals(stopping, http):
        async with service.running():
            running = asyncio.create_task(http.serve(sockets=[socket]))
            grpc_server, grpc_port = None, None
            try:
                if settings.grpc_port is not None:
                    from freqfusion_runtime.serving.oip.grpc_service import start_grpc

                    host = f"[{settings.host}]" if ":" in settings.host else settings.host
                    grpc_server, grpc_port = await start_grpc(service, f"{host}:{settings.grpc_port}")
                addresses = Addresses(settings.host, socket.getsockname()[1], grpc_port)
                service.log.event("listening", host=addresses.host, port=addresses.port, grpc_port=grpc_port)
                on_listening(addresses)
                await _until_loaded(service, stopping)
                on_ready(service)
                await stopping.wait()
                service.is_draining = True
                service.log.event("draining", delay_s=settings.drain_delay_s)
                await asyncio.wait((running,), timeout=settings.drain_delay_s)
            finally:
                http.should_exit = True
                closing = [running]
                if grpc_server is not None:
                    closing.append(asyncio.ensure_future(grpc_server.stop(settings.drain_timeout_s)))
                await asyncio.gather(*closing)


def _protocol(service: Service) -> type[asyncio.Protocol]:
    settings = service.settings
    connections = connection_class(settings, service.metrics)
    if settings.tls_certificate is None or settings.tls_key is None:
        return connections
    return tls_class(connections, server_context(settings.tls_certificate, settings.tls_key))


def _uvicorn_config(app: object, service: Service, protocol: type[asyncio.Protocol]) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol,
        ws="none",
        lifespan="off",  # the service outlives both protocols, so it is not tied to one of them
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is; a layer less on each request's way
        timeout_keep_alive=round(settings.keep_alive_s),
        timeout_graceful_shutdown=round(settings.drain_timeout_s),
    )


async def _until_loaded(service: Service, stopping: asyncio.Event) -> None:
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait((service.loading, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


@contextlib.contextmanager
def _stop_on_signals(stopping: asyncio.Event, http: uvicorn.Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            http.force_exit = True
        stopping.set()

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def serve_until_stopped(
    models: Sequence[ModelSource],
    settings: Settings,
    *,
    on_listening: Callable[[Addresses], None] = lambda _: None,
    on_ready: Callable[[Service], None] = lambda _: None,
) -> None:
    """Runs :func:`serve` in an event loop of its own, uvloop where it is installed."""
    main = serve(models, settings, on_listening=on_listening, on_ready=on_ready)
    if sys.platform != "win32":
        with contextlib.suppress(ModuleNotFoundError):
            import uvloop

            uvloop.run(main)
            return
    asyncio.run(main)
