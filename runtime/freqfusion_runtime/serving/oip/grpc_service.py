# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over gRPC, in the event loop of the HTTP server.

Messages are those of ``tritonclient``: another copy generated from the same file could not be loaded beside them in one
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb

from freqfusion_runtime.serving.http.guard import check_key
from freqfusion_runtime.serving.http.requests import INLINE_BYTES, Record, new_record
from freqfusion_runtime.serving.oip.grpc_messages import parsing_bytes, read_call, read_request, write_answer
from freqfusion_runtime.serving.oip.left_out import grpc_refusal
from freqfusion_runtime.serving.operation.errors import OverloadedError, ServingError, SlowClientError, TooLargeError
from freqfusion_runtime.serving.operation.listening import ListenError
from freqfusion_runtime.serving.scheduling import tensors
from freqfusion_runtime.serving.scheduling.inference import EXTENSIONS, SERVER_NAME, counted, infer
from freqfusion_runtime.serving.scheduling.service import Service, release
from freqfusion_runtime.serving.scheduling.tensors import InferCall

_SERVICE = "GRPCInferenceService"
_MAX_ID = 256
_MOST_ARRIVING = 64  # messages at one time
_ARRIVAL_S = 20.0  # for one of them, since others may wait for its place
_OPEN = ("ServerLive", "ServerReady")  # as their HTTP routes, without a key

Handler = Callable[[Any, Record, float], Awaitable[Any]]


class InferenceService:
    """Every call of the protocol that this server has; those it leaves out are refused with a reason.

    Messages come as bytes, one after the other and only when asked for, so that each is counted before it is read, and
    long ones are read in a thread.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        # Of a message that is still arriving gRPC tells nothing, so those of calls and those of streams may each be a
        # quarter of all memory at most.
        places = settings.max_memory_bytes // (4 * max(1, settings.max_body_bytes))
        self._places = min(_MOST_ARRIVING, max(2, places))
        self._arriving, self._streams = asyncio.Semaphore(self._places), 0
        self._handlers: dict[str, Handler] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
        }

    def handlers(self) -> Any:
        """All methods of the protocol, for a server.

        They are called as if each took a stream: on the wire that is the same, and a method that takes one message gets
        it however long it is, without being asked.
        """
        found: dict[str, Any] = {}
        for method in pb.DESCRIPTOR.services_by_name[_SERVICE].methods:
            if method.name == "ModelStreamInfer":
                found[method.name] = grpc.stream_stream_rpc_method_handler(self._stream, None, _serialized)
                continue
            handler = self._handlers.get(method.name) or self._refusing(method.name)
            answer = self._answering(method.name, getattr(pb, method.input_type.name), handler)
            found[method.name] = grpc.stream_unary_rpc_method_handler(answer, None, _serialized)
        return grpc.method_handlers_generic_handler(f"inference.{_SERVICE}", found)

    async def _stream(self, messages: Any, context: Any) -> AsyncIterator[Any]:
        """Runs the requests of a stream one after the other; an error is a message, and the stream goes on."""
        try:
            self._check_key(context)
            if self._streams >= self._places:
                raise OverloadedError(
                    f"{self._streams} streams are open, which is the limit. Try again, or start the server with a "
                    "larger --max-memory-mb or a smaller --max-body-mb."
                )
        except ServingError as e:
            await context.abort(grpc.StatusCode[e.grpc_status], str(e))
        self._streams += 1
        try:
            # A client may leave while it is being answered; the request ends then, not when somebody tidies up.
            async with contextlib.aclosing(self._responses(context)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams -= 1

    async def _responses(self, context: Any) -> AsyncGenerator[Any, None]:
        while (message := await context.read()) is not grpc.aio.EOF:
            record, request_id = self._new_record(), ""
            try:
                record.received_bytes = len(message)
                record.holding.add(len(message))
                call_deadline = self._deadline(record, context)
                request = await self._read(message, pb.ModelInferRequest, record, call_deadline)
                del message
                request_id = request.id[:_MAX_ID]
                response = await self._infer(request, record, call_deadline)
                yield pb.ModelStreamInferResponse(infer_response=response)
            except ServingError as e:
                record.cause, record.error = e.cause, str(e)
                failed = pb.ModelInferResponse(id=request_id)
                yield pb.ModelStreamInferResponse(error_message=str(e), infer_response=failed)
            finally:
                record.holding.release()
                self._report("ModelStreamInfer", record, "OK" if not record.cause else record.cause)

    def _answering(self, name: str, kind: Any, handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(messages: Any, context: Any) -> Any:
            return await self._answer(name, kind, context, handler)

        return answer

    async def _answer(self, name: str, kind: Any, context: Any, handler: Handler) -> Any:
        record = self._new_record()
        status = "CANCELLED"
        self._service.metrics.in_flight.inc()
        try:
            request = None
            deadline = self._deadline(record, context)
            if name not in _OPEN:  # those say nothing, and are answered whatever else arrives
                self._check_key(context)
                message = await self._arrived(context, deadline)
                record.received_bytes = len(message)
                if handler != self._infer and len(message) > INLINE_BYTES:
                    raise TooLargeError(
                        f"the message has {len(message)} bytes, {name} takes {INLINE_BYTES}. Send less."
                    )
                record.holding.add(len(message))
                request = await self._read(message, kind, record, deadline)
                del message
            response = await handler(request, record, deadline)
            status = "OK"
            return response
        except ServingError as e:
            status, record.cause, record.error = e.grpc_status, e.cause, str(e)
        except asyncio.CancelledError:
            record.cause = "client_gone"
            raise
        except Exception as e:
            status, record.cause, record.error = "INTERNAL", "internal", f"{type(e).__name__}: {e}"
            self._service.log.event(
                "unexpected_error", level="error", request_id=record.request_id, traceback=traceback.format_exc()
            )
        finally:
            record.holding.release()
            self._service.metrics.in_flight.dec()
            self._report(name, record, status)
        reason = "an unexpected error, which is in the server's log." if record.cause == "internal" else record.error
        return await context.abort(grpc.StatusCode[status], reason)

    async def _arrived(self, context: Any, deadline: float) -> bytes:
        """Takes the one message of a call as it arrives, when there is a place for that.

        Raises:
            SlowClientError: If it does not come in time.
            OverloadedError: If no place is free before the deadline.
        """
        within_s = min(self._service.settings.body_timeout_s, _ARRIVAL_S)
        try:
            await asyncio.wait_for(self._arriving.acquire(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError as e:
            raise OverloadedError(f"{self._places} messages are arriving, which is the limit. Try again.") from e
        try:
            message = await asyncio.wait_for(context.read(), within_s)
        except asyncio.TimeoutError as e:
            raise SlowClientError(f"the message did not arrive within {within_s:g} s. Send it faster.") from e
        finally:
            self._arriving.release()
        return b"" if message is grpc.aio.EOF else bytes(message)

    async def _read(self, message: bytes, kind: Any, record: Record, deadline: float) -> Any:
        def read() -> Any:
            if kind is pb.ModelInferRequest:
                record.holding.add(parsing_bytes(message))
            return read_request(message, kind)

        if len(message) <= INLINE_BYTES:
            return read()
        return await self._service.in_thread(self._service.readers, read, record.holding, deadline)

    def _new_record(self) -> Record:
        return new_record(secrets.token_hex(8), self._service.memory)

    def _deadline(self, record: Record, context: Any) -> float:
        remaining = context.time_remaining()
        limit_s = self._service.settings.deadline_ms / 1e3
        return record.started + (limit_s if remaining is None else max(0.0, min(remaining, limit_s)))

    def _check_key(self, context: Any) -> None:
        metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        check_key(self._service.settings.api_key, metadata)

    def _report(self, name: str, record: Record, status: str) -> None:
        metrics = self._service.metrics
        seconds = time.monotonic() - record.started
        metrics.requests.labels("grpc", name, status).inc()
        metrics.latency.labels("grpc", name).observe(seconds)
        if record.cause:
            metrics.errors.labels(record.cause).inc()
        for stage, ms in record.stages.ms.items():
            metrics.stages.labels(record.model, stage).observe(ms / 1e3)
        facts: dict[str, Any] = {"model": record.model} if record.model else {}
        if record.cause:
            facts |= {"cause": record.cause, "error": record.error}
        stages = {stage: round(ms, 3) for stage, ms in record.stages.ms.items()}
        self._service.log.event(
            "request",
            level="error" if status == "INTERNAL" else "info",
            request_id=record.request_id,
            method=name,
            status=status,
            ms=round(seconds * 1e3, 3),
            stages_ms=stages,
            **facts,
        )

    def _refusing(self, name: str) -> Handler:
        async def refuse(request: Any, record: Record, deadline: float) -> Any:
            raise grpc_refusal(name, request)

        return refuse

    async def _live(self, request: Any, record: Record, deadline: float) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: Any, record: Record, deadline: float) -> Any:
        return pb.ServerReadyResponse(ready=self._service.is_ready)

    async def _model_ready(self, request: Any, record: Record, deadline: float) -> Any:
        slot = self._service.registry.slot(request.name, request.version)
        return pb.ModelReadyResponse(ready=slot.model is not None)

    async def _server_metadata(self, request: Any, record: Record, deadline: float) -> Any:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=release(), extensions=EXTENSIONS)

    async def _model_metadata(self, request: Any, record: Record, deadline: float) -> Any:
        registry = self._service.registry
        facts = tensors.metadata(registry.model(request.name, request.version), registry.versions(request.name))
        return json_format.ParseDict(facts, pb.ModelMetadataResponse())

    async def _model_config(self, request: Any, record: Record, deadline: float) -> Any:
        settings = self._service.settings
        model = self._service.registry.model(request.name, request.version)
        facts = tensors.configuration(model, settings.max_batch, settings.max_delay_ms)
        return json_format.ParseDict({"config": facts}, pb.ModelConfigResponse())

    async def _model_statistics(self, request: Any, record: Record, deadline: float) -> Any:
        registry = self._service.registry
        if request.name:
            versions = [request.version] if request.version else registry.versions(request.name) or [""]
            slots = [registry.slot(request.name, version) for version in versions]
        else:
            slots = list(registry.slots)
        facts = {"model_stats": [self._service.statistics.of(slot) for slot in slots]}
        return json_format.ParseDict(facts, pb.ModelStatisticsResponse())

    async def _index(self, request: Any, record: Record, deadline: float) -> Any:
        models = [
            {"name": s.source.name, "version": s.source.version, "state": s.state, "reason": s.told_problem}
            for s in self._service.registry.slots
            if s.state == "READY" or not request.ready
        ]
        return json_format.ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def _infer(self, request: Any, record: Record, deadline: float) -> Any:
        service = self._service
        model = service.registry.model(request.model_name, request.model_version)
        record.model = model.source.name
        service.scheduler.check_room(model, deadline)
        charge = record.holding.add

        def read() -> InferCall:
            return record.stages.timed("decode", lambda: read_call(request, model, charge))

        with counted(service, model, record.stages):
            if record.received_bytes > INLINE_BYTES:
                call = await service.in_thread(service.readers, read, record.holding, deadline)
            else:
                call = read()
            outputs = await infer(service, model, call, deadline, record.stages, record.holding)
            return record.stages.timed("encode", lambda: write_answer(call, outputs, model, charge))


def _serialized(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


async def start_grpc(service: Service, address: str) -> tuple[Any, int]:
    """Starts the gRPC server.

    Returns:
        The server, and the port it listens on.

    Raises:
        ListenError: If the address cannot be had.
    """
    settings = service.settings
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_connections,
        options=[
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", int(settings.max_header_kb * 1024)),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", round(settings.keep_alive_s * 1e3)),
            ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_s * 1e3)),
            ("grpc.keepalive_timeout_ms", round(settings.write_timeout_s * 1e3)),
        ],
    )
    server.add_generic_rpc_handlers((InferenceService(service).handlers(),))
    try:
        if settings.tls_certificate and settings.tls_key:
            pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as e:
        raise ListenError(address, str(e)) from e
    await server.start()
    return server, port
