# SPDX-License-Identifier: Apache-2.0
"""The web application, with a way past the framework's layers for the two requests that there are many of.

Thirteen layers between a socket and a route take two thirds of the event loop's time for a request (measured with
py-spy; 0.9 ms of one core of a slow machine). Both ways end in the same functions; what needs a check of its query, and
whatever is documented, goes the framework's way.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from freqfusion_runtime.serving.http.guard import Guard
from freqfusion_runtime.serving.http.origins import Origins
from freqfusion_runtime.serving.http.segment_routes import SegmentQuery, segment_answer
from freqfusion_runtime.serving.oip.routes import infer_answer
from freqfusion_runtime.serving.scheduling.service import Service

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_UNCHECKED = {"model", "version", "classes"}  # fields of a query that may hold any text

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class _Route:
    path: str  # as the framework's routes have it, for the metrics


class Application(FastAPI):
    """FastAPI with shortcuts.

    Args:
        service: The server behind it.
        options: FastAPI's own.
    """

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__(**options)
        self.state.service = service
        self._service, self._origins = service, Origins(service.settings)
        self.add_middleware(Guard, service=service, origins=self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's request."""
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            found = self._shortcut(scope)
            if found is not None:
                scope["route"], handler = found

                async def answer(inner: Scope, receive: Receive, send: Send) -> None:
                    response = await handler(Request(inner, receive, send))
                    await response(inner, receive, send)

                await Guard(answer, self._service, self._origins)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _shortcut(self, scope: Scope) -> tuple[_Route, Handler] | None:
        path, service = scope["path"], self._service
        if path == "/v1/segment":
            fields = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            if fields.keys() <= _UNCHECKED:
                query = SegmentQuery(**fields)
                return _Route(path), lambda request: segment_answer(service, request, query)
        elif match := _INFER.fullmatch(path):
            name, version = match[1], match[2] or ""
            middle = "/versions/{version}" if version else ""
            route = _Route(f"/v2/models/{{model_name}}{middle}/infer")
            return route, lambda request: infer_answer(service, request, name, version)
        return None
