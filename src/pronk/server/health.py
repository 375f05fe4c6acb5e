"""For machines that look after the server: does it live, is it ready, what has it done."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from pronk.server.errors import ApiError, Json
from pronk.server.state import ServerState


def router(state: ServerState) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health/live")
    async def live() -> Response:
        """The process answers. Needs no key."""
        return Json({"status": "live"})

    @routes.get("/health/ready")
    async def ready() -> Response:
        """503 while stopping, when an engine has stopped, or when a step gets no further for `stall_seconds`."""
        if fault := state.fault():
            raise ApiError(503, fault, "unavailable", code="not_ready")
        return Json({"status": "ready", "models": list(state.models)})

    @routes.get("/metrics")
    def metrics() -> Response:
        """Prometheus's text format."""
        return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
