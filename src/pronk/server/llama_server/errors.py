"""Errors in llama-server's form."""

from __future__ import annotations

from starlette.responses import JSONResponse

from pronk.server.errors import ApiError, Json

_TYPES = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "unavailable_error"}


def error_of(error: ApiError) -> dict[str, object]:
    kind = _TYPES.get(error.status, error.kind)
    return {"error": {"code": error.status, "message": error.message, "type": kind}}


def render_error(error: ApiError) -> JSONResponse:
    return Json(error_of(error), error.status)
