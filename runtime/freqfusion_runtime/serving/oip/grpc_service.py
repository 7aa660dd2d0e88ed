# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over gRPC, in the event loop of the HTTP server.

Messages and the service's base class are those of ``tritonclient``: another copy generated from the same file could not
be loaded beside them in one process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from freqfusion_runtime.serving.http.guard import check_key
from freqfusion_runtime.serving.http.requests import Record, new_record
from freqfusion_runtime.serving.oip.left_out import GRPC_METHODS, classification, grpc_refusal, shared_memory
from freqfusion_runtime.serving.operation.errors import BadRequestError, ServingError
from freqfusion_runtime.serving.operation.listening import ListenError
from freqfusion_runtime.serving.scheduling import tensors
from freqfusion_runtime.serving.scheduling.inference import EXTENSIONS, SERVER_NAME, counted, infer
from freqfusion_runtime.serving.scheduling.memory import Holding
from freqfusion_runtime.serving.scheduling.service import Service, release
from freqfusion_runtime.serving.scheduling.tensors import InferCall, WantedOutput

# Which field of InferTensorContents holds a dtype's values.
_CONTENTS = {
    "BOOL": "bool_contents",
    **{f"INT{bits}": "int_contents" for bits in (8, 16, 32)},
    **{f"UINT{bits}": "uint_contents" for bits in (8, 16, 32)},
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_OPEN = ("ServerLive", "ServerReady")  # as their HTTP routes, without a key

Handler = Callable[[Any, Record, float], Awaitable[Any]]


class InferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Every call of the protocol that this server has; those it leaves out are refused below the class."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Says that the process answers."""
        return await self._answer("ServerLive", request, context, self._live)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Says whether every model can answer and new requests are welcome."""
        return await self._answer("ServerReady", request, context, self._ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Says whether a model can answer."""
        return await self._answer("ModelReady", request, context, self._model_ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Names the server, its version and the extensions it has."""
        return await self._answer("ServerMetadata", request, context, self._server_metadata)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Names a model's inputs and outputs."""
        return await self._answer("ModelMetadata", request, context, self._model_metadata)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        """Describes a model as Triton's configuration does."""
        return await self._answer("ModelConfig", request, context, self._model_config)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Counts and times of one model or all."""
        return await self._answer("ModelStatistics", request, context, self._model_statistics)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """Lists every model and version with its state."""
        return await self._answer("RepositoryIndex", request, context, self._index)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Runs a model on tensors."""
        return await self._answer("ModelInfer", request, context, self._infer)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Runs the requests of a stream one after the other; an error is a message, and the stream goes on."""
        try:
            self._check_key(context)
        except ServingError as e:
            await context.abort(grpc.StatusCode[e.grpc_status], str(e))
        async for request in requests:
            record = self._new_record()
            try:
                response = await self._infer(request, record, self._deadline(record, context))
                yield pb.ModelStreamInferResponse(infer_response=response)
            except ServingError as e:
                record.cause, record.error = e.cause, str(e)
                failed = pb.ModelInferResponse(id=request.id)
                yield pb.ModelStreamInferResponse(error_message=str(e), infer_response=failed)
            finally:
                record.holding.release()
                self._report("ModelStreamInfer", record, "OK" if not record.cause else record.cause)

    async def _answer(self, name: str, request: Any, context: Any, handler: Handler) -> Any:
        record = self._new_record()
        status = "CANCELLED"
        self._service.metrics.in_flight.inc()
        try:
            if name not in _OPEN:
                self._check_key(context)
            record.received_bytes = request.ByteSize() if name == "ModelInfer" else 0
            record.holding.add(record.received_bytes)
            response = await handler(request, record, self._deadline(record, context))
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
        message = "an unexpected error, which is in the server's log." if record.cause == "internal" else record.error
        return await context.abort(grpc.StatusCode[status], message)

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

    async def refuse(self, name: str, request: Any, context: Any) -> Any:
        """Says why a call is left out."""

        async def handler(request: Any, record: Record, deadline: float) -> Any:
            raise grpc_refusal(name, request)

        return await self._answer(name, request, context, handler)

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
            {"name": s.source.name, "version": s.source.version, "state": s.state, "reason": s.problem}
            for s in self._service.registry.slots
            if s.state == "READY" or not request.ready
        ]
        return json_format.ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def _infer(self, request: Any, record: Record, deadline: float) -> Any:
        service = self._service
        model = service.registry.model(request.model_name, request.model_version)
        record.model = model.source.name
        service.scheduler.check_room(model, deadline)
        with counted(service, model, record.stages):
            call = record.stages.timed("decode", lambda: _parse(request, len(model.session.manifest.inputs)))
            outputs = await infer(service, model, call, deadline, record.stages)
            return record.stages.timed("encode", lambda: _response(call, outputs, model, record.holding))


def _left_out(name: str) -> Callable[[InferenceService, Any, Any], Awaitable[Any]]:
    async def method(self: InferenceService, request: Any, context: Any) -> Any:
        return await self.refuse(name, request, context)

    return method


# The base class's own raise NotImplementedError, which an asynchronous server answers with a stranger's words.
for _name in GRPC_METHODS:
    setattr(InferenceService, _name, _left_out(_name))


def _parse(request: Any, count: int) -> InferCall:
    if not 1 <= len(request.inputs) <= count:
        raise BadRequestError(
            f"model {request.model_name!r} takes {count} inputs, got {len(request.inputs)}. Correct inputs."
        )
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(
            f"raw_input_contents must hold the data of all {len(request.inputs)} inputs or be empty, got {len(raw)} "
            "entries. Send one for each input."
        )
    inputs: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in inputs:
            raise BadRequestError(f"input {tensor.name[:40]!r} is there twice. Send it once.")
        if "shared_memory_region" in tensor.parameters:
            raise shared_memory(f"input {tensor.name[:40]!r}")
        dtype = tensors.checked_dtype(tensor.name, tensor.datatype)
        shape = tensors.checked_shape(tensor.name, list(tensor.shape))
        if raw:
            inputs[tensor.name] = tensors.from_bytes(tensor.name, dtype, shape, raw[index])
        else:
            inputs[tensor.name] = _from_contents(tensor, dtype, shape)
    outputs = []
    for output in request.outputs:
        if "shared_memory_region" in output.parameters:
            raise shared_memory(f"output {output.name[:40]!r}")
        if "classification" in output.parameters:
            raise classification(f"output {output.name[:40]!r}")
        outputs.append(WantedOutput(output.name, True))
    timeout = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    if timeout < 0:
        raise BadRequestError(f"timeout must be a number of microseconds, got {timeout}. Correct it.")
    return InferCall(request.id, inputs, outputs, True, timeout or None)


def _from_contents(tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if tensor.datatype not in _CONTENTS:
        raise BadRequestError(f"input {tensor.name[:40]!r}: {tensor.datatype} has no typed contents. Send raw ones.")
    name = _CONTENTS[tensor.datatype]
    values = np.array(getattr(tensor.contents, name))
    expected = int(np.prod([1, *shape], dtype=object))
    if len(values) != expected:
        raise BadRequestError(
            f"input {tensor.name[:40]!r}: shape {list(shape)} has {expected} values, {name} has {len(values)}. "
            "Correct one of them."
        )
    if dtype.kind in "iu" and expected:
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise BadRequestError(
                f"input {tensor.name[:40]!r}: {tensor.datatype} holds {limits.min} to {limits.max}, {name} has "
                f"{values.min()} to {values.max()}. Convert it."
            )
    result: NDArray[Any] = values.astype(dtype).reshape(shape)
    return result


def _response(call: InferCall, outputs: Mapping[str, NDArray[Any]], model: Any, holding: Holding) -> Any:
    response = pb.ModelInferResponse(
        model_name=model.source.name, model_version=model.source.version, id=call.request_id
    )
    for output in call.outputs or [WantedOutput(name) for name in outputs]:
        value = outputs[output.name]
        response.outputs.add(name=output.name, datatype=tensors.datatype(value.dtype), shape=value.shape)
        data = tensors.to_bytes(value)
        holding.add(len(data))
        response.raw_output_contents.append(data)
    return response


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
            ("grpc.keepalive_timeout_ms", round(settings.write_timeout_s * 1e3)),
        ],
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(service), server)
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
