# SPDX-License-Identifier: Apache-2.0
"""The web application: every route of the server, as one ASGI app that any server or Ray Serve can run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from freqfusion_runtime.serving.http import catalog_routes, metrics_routes, page_routes, segment_routes
from freqfusion_runtime.serving.http.guard import add_error_answers
from freqfusion_runtime.serving.oip import routes as oip_routes
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.process.shortcuts import Application
from freqfusion_runtime.serving.scheduling.registry import ModelSource, parse_source
from freqfusion_runtime.serving.scheduling.service import Service, release


def create_app(models: Sequence[str | os.PathLike[str] | ModelSource], settings: Settings | None = None) -> FastAPI:
    """Builds the application; models are loaded when it starts, and it is ready when they are warm.

    Args:
        models: ``PATH``, ``NAME=PATH`` or ``NAME:VERSION=PATH`` of exported models; the first one is the default.
        settings: Limits and scheduling.

    Returns:
        The application; ``app.state.service`` is the ``Service`` behind it.

    Raises:
        ModelFileError: If no model is named, or two have the same name and version.
    """
    sources = [model if isinstance(model, ModelSource) else parse_source(model) for model in models]
    service = Service(sources, settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # No /docs: FastAPI's page loads its scripts from another host.
    app = Application(
        service,
        title="FreqFusion",
        summary="Labels every pixel of a picture",
        version=release(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    add_error_answers(app)
    app.include_router(segment_routes.router(service))
    app.include_router(oip_routes.router(service))
    app.include_router(catalog_routes.router(service))
    app.include_router(metrics_routes.router(service))
    app.include_router(page_routes.router())
    return app
