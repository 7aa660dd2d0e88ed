# SPDX-License-Identifier: Apache-2.0
"""The page at ``/`` and its files, one route each: what is not in the folder at start does not exist."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

FOLDER = Path(__file__).parents[1] / "page"
# The page uses nothing from elsewhere; pictures and downloads are made in the browser as blobs.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    """Makes ``/<file>`` for each file below the page's folder, and ``/`` for its ``index.html``."""
    routes = APIRouter(include_in_schema=False)
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            routes.add_api_route(f"/{path.relative_to(FOLDER).as_posix()}", _sender(path), methods=["GET", "HEAD"])
    routes.add_api_route("/", _sender(FOLDER / "index.html"), methods=["GET", "HEAD"])
    return routes


def _sender(path: Path) -> Callable[[], Awaitable[Response]]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"

    async def send() -> Response:
        return FileResponse(path, media_type=kind, headers=_HEADERS)

    return send
