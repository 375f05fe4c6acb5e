"""OpenAI's API."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pronk.server.errors import ApiError, Json
from pronk.server.state import ServerState

PREFIXES = ("/v1",)


def render_error(error: ApiError) -> JSONResponse:
    body = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return Json({"error": body}, error.status)


def router(state: ServerState) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [{"id": name, "object": "model"} for name in state.models]})

    return routes
