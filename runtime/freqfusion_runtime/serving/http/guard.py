# SPDX-License-Identifier: Apache-2.0
"""The outermost layer of the HTTP application: request ids, API key, answers to errors, log lines and numbers."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import traceback
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freqfusion_runtime.serving.http.origins import Origins
from freqfusion_runtime.serving.http.requests import Record, new_record, record_of
from freqfusion_runtime.serving.operation.errors import OverloadedError, ServingError, UnauthorizedError
from freqfusion_runtime.serving.scheduling.service import Service

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHORT_BODY = 256 * 1024
_GONE = 499  # nginx's number for a client that left before its answer
# Pages of other sites get nothing of an answer, not even as a picture they show.
_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff"}
# What monitors and people without a key may see: nothing of it costs, nothing of it holds data of clients.
_GUARDED = ("/v1/", "/v2/models", "/v2/repository")


class Guard:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, service: Service, origins: Origins) -> None:
        self.app, self.service, self._origins = app, service, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        record = scope["freqfusion.record"] = new_record(request_id, self.service.memory)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = record.request_id
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
                if self.service.is_draining or (status >= 400 and _may_be_long(status, headers)):
                    # A refused body may never end; and a stopping server wants its clients to go elsewhere.
                    answer["Connection"] = "close"
            await send(message)

        self.service.metrics.in_flight.inc()
        try:
            self._origins.check(scope["method"], headers)
            self._check_key(scope["path"], headers)
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status, record.cause = _GONE, "client_gone"
        except ServingError as e:
            await error_response(e, record)(scope, receive, sending)
        except Exception as e:
            record.cause, record.error = "internal", f"{type(e).__name__}: {e}"
            self.service.log.event(
                "unexpected_error", level="error", request_id=record.request_id, traceback=traceback.format_exc()
            )
            if not status:
                await _json_error(500, "an unexpected error, which is in the server's log.")(scope, receive, sending)
        finally:
            record.holding.release()
            self._report(scope, record, status)

    def _check_key(self, path: str, headers: Headers) -> None:
        if path.startswith(_GUARDED):
            check_key(self.service.settings.api_key, headers)

    def _report(self, scope: Scope, record: Record, status: int) -> None:
        metrics = self.service.metrics
        route = getattr(scope.get("route"), "path", "other")
        seconds = time.monotonic() - record.started
        metrics.in_flight.dec()
        metrics.requests.labels("http", route, str(status)).inc()
        metrics.latency.labels("http", route).observe(seconds)
        if record.cause or status >= 400:
            metrics.errors.labels(record.cause or f"http_{status}").inc()
        for stage, ms in record.stages.ms.items():
            metrics.stages.labels(record.model, stage).observe(ms / 1e3)
        facts: dict[str, Any] = {
            "request_id": record.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1e3, 3),
        }
        if record.model:
            facts["model"] = record.model
            facts["stages_ms"] = {stage: round(ms, 3) for stage, ms in record.stages.ms.items()}
        if record.received_bytes:
            facts["received_bytes"] = record.received_bytes
        if record.cause:
            facts["cause"], facts["error"] = record.cause, record.error
        self.service.log.event("request", level="error" if status >= 500 else "info", **facts)


def check_key(wanted: str | None, given: Mapping[str, str]) -> None:
    """Compares a client's key without telling by its time how much of it was right.

    Args:
        wanted: The server's key, None for none.
        given: Headers or gRPC metadata, by lower-case name.

    Raises:
        UnauthorizedError: If the key is missing or another one.
    """
    if wanted is None:
        return
    scheme, _, token = given.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else given.get("x-api-key", "")
    if not hmac.compare_digest(key.encode(), wanted.encode()):
        raise UnauthorizedError


def add_error_answers(app: FastAPI) -> None:
    """Makes every error body ``{"error": "..."}``, which is what clients of the protocol read."""

    async def serving(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServingError)
        return error_response(error, record_of(request))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        record_of(request).cause = f"http_{error.status_code}"
        message = f"{request.method} {request.url.path[:200]}: {error.detail}. The routes are listed in /openapi.json."
        return _json_error(error.status_code, message, error.headers)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        record = record_of(request)
        first = error.errors()[0]
        place = " ".join(str(part) for part in first["loc"])
        record.cause = "bad_request"
        record.error = f"{place}: {first['msg']}, got {str(first.get('input'))[:60]!r}. Correct it."
        return _json_error(400, record.error)

    app.add_exception_handler(ServingError, serving)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def error_response(error: ServingError, record: Record) -> Response:
    """Words an error for a client."""
    record.cause, record.error = error.cause, str(error)
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return _json_error(error.http_status, str(error), headers)


def _json_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _may_be_long(status: int, headers: Headers) -> bool:
    """Whether the rest of a refused body is not worth reading; a short one is, since its connection is then kept."""
    length = headers.get("content-length", "0")
    return status in (408, 413) or "transfer-encoding" in headers or len(length) > 6 or int(length) > _SHORT_BODY
