# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over HTTP, with Triton's extensions that its clients use."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from freqfusion_runtime.serving.http.answers import Answer
from freqfusion_runtime.serving.http.api_schema import ERRORS
from freqfusion_runtime.serving.http.requests import (
    FORM_TYPE,
    INLINE_BYTES,
    content_type,
    deadline_of,
    read_body,
    record_of,
    while_connected,
)
from freqfusion_runtime.serving.oip import schema as schema
from freqfusion_runtime.serving.oip.json_body import HEADER_LENGTH, parse, parse_index_request, parse_raw, write
from freqfusion_runtime.serving.oip.left_out import HTTP_ROUTES, loading
from freqfusion_runtime.serving.operation.errors import LeftOutError, UnsupportedMediaError
from freqfusion_runtime.serving.scheduling import tensors
from freqfusion_runtime.serving.scheduling.inference import EXTENSIONS, SERVER_NAME, counted, infer
from freqfusion_runtime.serving.scheduling.pipeline import decode
from freqfusion_runtime.serving.scheduling.registry import Slot
from freqfusion_runtime.serving.scheduling.service import Service, release

_SHAPE_HEADER = "X-Tensor-Shape"
_COMPRESSION_LEVEL = 1


def router(service: Service) -> APIRouter:
    """Makes all routes below ``/v2``."""
    routes = APIRouter(prefix="/v2")
    _add_server_routes(routes, service)
    _add_model_routes(routes, service)
    _add_infer_routes(routes, service)
    for path, reason in HTTP_ROUTES.items():
        routes.add_api_route(path, _refusing(reason), methods=["GET", "POST"], include_in_schema=False)
    return routes


def _refusing(reason: str) -> Callable[[], Awaitable[Response]]:
    async def refuse() -> Response:
        raise LeftOutError(reason)

    return refuse


def _add_server_routes(routes: APIRouter, service: Service) -> None:
    @routes.get("", operation_id="server_metadata", tags=["server"], response_model=schema.ServerMetadata)
    async def server_metadata() -> Any:
        """Names the server, its version and the extensions it has."""
        return {"name": SERVER_NAME, "version": release(), "extensions": list(EXTENSIONS)}

    @routes.get("/health/live", operation_id="server_live", tags=["server"], response_model=schema.Live)
    async def live() -> Any:
        """Says that the process answers."""
        return {"live": True}

    @routes.get(
        "/health/ready",
        operation_id="server_ready",
        tags=["server"],
        response_model=schema.Ready,
        responses={503: {"model": schema.Ready, "description": "Not ready: loading or stopping"}},
    )
    async def ready() -> Response:
        """Says whether every model can answer and new requests are welcome; `problems` names what is wrong."""
        problems = {_label(slot): slot.told_problem for slot in service.registry.slots if slot.problem}
        body = {"ready": service.is_ready, "live": True, "draining": service.is_draining, "problems": problems}
        return JSONResponse(body, 200 if service.is_ready else 503)

    @routes.post(
        "/repository/index",
        operation_id="repository_index",
        tags=["server"],
        response_model=list[schema.IndexEntry],
        responses={k: ERRORS[k] for k in (400, 401, 403, 413, 415, 421)},
    )
    async def index(request: Request) -> Any:
        """Lists every model and version with its state."""
        record, deadline = record_of(request), deadline_of(request, service.settings)
        _checked_type(request)
        body = await read_body(request, service, deadline)

        def read() -> bool:
            return parse_index_request(body, service.settings.max_json_bytes, record.holding.add)

        ready_only = await service.in_thread(service.readers, read, record.holding, deadline)
        return [
            {"name": s.source.name, "version": s.source.version, "state": s.state, "reason": s.told_problem}
            for s in service.registry.slots
            if s.state == "READY" or not ready_only
        ]

    @routes.post(
        "/repository/models/{model_name}/{action}",
        operation_id="repository_control",
        tags=["server"],
        responses={k: ERRORS[k] for k in (400, 401, 403, 421)},
        status_code=403,
        response_class=JSONResponse,
    )
    async def control(model_name: str, action: str) -> Response:
        """Refuses to load or unload models: a model is loaded again when its file is replaced."""
        raise loading(action, model_name)


def _add_model_routes(routes: APIRouter, service: Service) -> None:
    registry = service.registry

    @routes.get("/models/stats", operation_id="all_statistics", tags=["models"], response_model=schema.ModelStatistics)
    async def all_statistics() -> Any:
        """Counts and times of every model."""
        return {"model_stats": [service.statistics.of(slot) for slot in registry.slots]}

    for prefix, suffix in (("/models/{model_name}", ""), ("/models/{model_name}/versions/{version}", "_of_version")):
        errors: dict[int | str, dict[str, Any]] = {k: ERRORS[k] for k in (401, 404, 503)}

        @routes.get(
            prefix,
            operation_id="model_metadata" + suffix,
            tags=["models"],
            response_model=schema.ModelMetadata,
            responses=errors,
        )
        async def model_metadata(model_name: str, version: str = "") -> Any:
            """Names a model's inputs and outputs; -1 is any size."""
            return tensors.metadata(registry.model(model_name, version), registry.versions(model_name))

        @routes.get(
            prefix + "/ready",
            operation_id="model_ready" + suffix,
            tags=["models"],
            response_model=schema.ModelReady,
            responses={401: ERRORS[401], 404: ERRORS[404], 503: {"model": schema.ModelReady, "description": "Not yet"}},
        )
        async def model_ready(model_name: str, version: str = "") -> Response:
            """Says whether a model can answer; `problem` tells if its file is not the one being served."""
            slot = registry.slot(model_name, version)
            body = {
                "name": slot.source.name,
                "version": slot.source.version,
                "ready": slot.model is not None,
                "problem": slot.told_problem,
            }
            return JSONResponse(body, 200 if slot.model is not None else 503)

        @routes.get(
            prefix + "/config",
            operation_id="model_configuration" + suffix,
            tags=["models"],
            response_model=schema.ModelConfiguration,
            responses=errors,
        )
        async def model_configuration(model_name: str, version: str = "") -> Any:
            """Describes a model as Triton's configuration does."""
            model = registry.model(model_name, version)
            return tensors.configuration(model, service.settings.max_batch, service.settings.max_delay_ms)

        @routes.get(
            prefix + "/stats",
            operation_id="model_statistics" + suffix,
            tags=["models"],
            response_model=schema.ModelStatistics,
            responses=errors,
        )
        async def model_statistics(model_name: str, version: str = "") -> Any:
            """Counts and times of a model."""
            if version:
                return {"model_stats": [service.statistics.of(registry.slot(model_name, version))]}
            registry.slot(model_name)
            slots = [registry.slot(model_name, each) for each in registry.versions(model_name)]
            return {"model_stats": [service.statistics.of(slot) for slot in slots]}


def _add_infer_routes(routes: APIRouter, service: Service) -> None:
    for prefix, suffix in (("/models/{model_name}", ""), ("/models/{model_name}/versions/{version}", "_of_version")):

        @routes.post(
            prefix + "/infer",
            operation_id="infer" + suffix,
            tags=["models"],
            response_class=Response,
            responses={200: schema.INFER_ANSWER, **{k: ERRORS[k] for k in ERRORS if k != 406}},
            openapi_extra={"requestBody": schema.INFER_BODY, "parameters": schema.INFER_PARAMETERS},
        )
        async def infer_route(request: Request, model_name: str, version: str = "") -> Response:
            """Runs a model on tensors.

            The body is JSON; or JSON followed by bytes that begin where `Inference-Header-Content-Length` says; or,
            with that header 0, the bytes of the only input; or an encoded picture of type `image/*` for a model that
            takes pictures.
            """
            return await infer_answer(service, request, model_name, version)


async def infer_answer(service: Service, request: Request, name: str, version: str) -> Response:
    """Answers an inference request.

    Raises:
        ServingError: If it is refused, or fails.
    """
    record, settings = record_of(request), service.settings
    model = service.registry.model(name, version)
    record.model = model.source.name
    deadline = deadline_of(request, settings)
    service.scheduler.check_room(model, deadline)
    kind = _checked_type(request)
    body = await read_body(request, service, deadline)
    charge = record.holding.add
    with counted(service, model, record.stages):
        header_length = request.headers.get(HEADER_LENGTH)
        is_picture = kind.startswith("image/")
        shape = request.headers.get(_SHAPE_HEADER)

        def read() -> tensors.InferCall:
            if is_picture:
                photo = decode(body, settings.max_image_pixels, record.holding)
                spec = model.session.manifest.inputs[0]
                return tensors.InferCall("", {spec.name: photo[None]}, binary_output=True)
            if header_length == "0":
                return parse_raw(body, shape, model)
            before = record.holding.size
            call = parse(body, header_length, settings.max_json_bytes, model, charge)
            kept = sum(value.nbytes for value in call.inputs.values())
            record.holding.give_back(record.holding.size - before - kept)  # the JSON is gone, its tensors are there
            return call

        # Even a body that is mostly bytes may be JSON to as long a part as its header likes.
        if is_picture or (len(body) > INLINE_BYTES and header_length != "0"):
            timed = functools.partial(record.stages.timed, "decode", read)
            pool = service.workers if is_picture else service.readers
            call = await service.in_thread(pool, timed, record.holding, deadline)
        else:
            call = record.stages.timed("decode", read)
        outputs = await while_connected(request, infer(service, model, call, deadline, record.stages, record.holding))
        encoding = _encoding(request.headers.get("accept-encoding", ""))

        def answer() -> tuple[bytes, int | None]:
            parts, json_length = write(call, outputs, model, charge)
            content = b"".join(parts)
            if encoding is None:
                return content, json_length
            charge(len(content))
            return _compressed(content, encoding), json_length

        size = sum(value.nbytes for value in outputs.values())
        if size > INLINE_BYTES and not (call.binary_output and encoding is None):
            timed_answer = functools.partial(record.stages.timed, "encode", answer)
            content, json_length = await service.in_thread(service.workers, timed_answer, record.holding, deadline)
        else:
            content, json_length = record.stages.timed("encode", answer)
    headers = {"Server-Timing": record.stages.header()}
    if json_length is not None:
        headers[HEADER_LENGTH] = str(json_length)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    media_type = "application/json" if json_length is None else "application/octet-stream"
    return Answer(content, media_type=media_type, headers=headers)


def _checked_type(request: Request) -> str:
    """Refuses the types that any page of the web can make a browser send, since these are no requests of the protocol.

    Raises:
        UnsupportedMediaError: If the body has one of them.
    """
    kind = content_type(request)
    if kind.startswith(("text/", "multipart/")) or kind == FORM_TYPE:
        raise UnsupportedMediaError(
            f"a body of type {kind[:60]!r} is no request of the protocol. Send it as application/json, as "
            "application/octet-stream where bytes follow the JSON, or a picture as image/*."
        )
    return kind


def _encoding(accepted: str) -> str | None:
    """Picks gzip or deflate if the client names it first; label maps shrink thirty-fold at little cost."""
    for word in accepted.lower().split(","):
        name, _, quality = word.strip().partition(";")
        if name.strip() in ("gzip", "deflate") and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip()
    return None


def _compressed(content: bytes, encoding: str) -> bytes:
    stream = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    return stream.compress(content) + stream.flush()


def _label(slot: Slot) -> str:
    return f"{slot.source.name}:{slot.source.version}"
