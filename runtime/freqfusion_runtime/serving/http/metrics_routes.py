# SPDX-License-Identifier: Apache-2.0
"""``/metrics`` for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from freqfusion_runtime.serving.operation.metrics import CONTENT_TYPE
from freqfusion_runtime.serving.scheduling.service import Service


def router(service: Service) -> APIRouter:
    """Makes the route."""
    routes = APIRouter(tags=["operation"])

    @routes.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"}},
    )
    async def metrics() -> Response:
        """Gives counters, gauges and histograms in Prometheus' text format."""
        service.update_gauges()
        return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    return routes
