"""Errors in TGI's form, {"error", "error_type"}, and with its status codes."""

from __future__ import annotations

from starlette.responses import JSONResponse

from pronk.server.errors import ApiError, Json, as_api_error
from pronk.server.logs import log, request_id

_TYPES = {
    401: "authentication",
    404: "not_found",
    413: "payload_too_large",
    422: "validation",
    424: "generation",
    429: "overloaded",
    500: "incomplete_generation",
    503: "unavailable",
}
_WORDS = {"validation": "Input validation error: ", "generation": "Request failed during generation: "}


def error_of(error: ApiError) -> dict[str, str]:
    return error_response(error.message, _TYPES.get(tgi_status(error), error.kind))


def error_response(message: str, error_type: str) -> dict[str, str]:
    """The words in front are those by which TGI's clients know the kinds apart."""
    return {"error": _WORDS.get(error_type, "") + message, "error_type": error_type}


def tgi_status(error: ApiError) -> int:
    """TGI has 422 for what is asked wrongly, and 424 where the engine failed."""
    if error.status == 400:
        return 422
    return 424 if error.kind == "server_error" and error.code is None else error.status


def render_error(error: ApiError) -> JSONResponse:
    return Json(error_of(error), status_code=tgi_status(error))


def caught(error: Exception) -> ApiError:
    """An error in the middle of a stream, logged where it is ours."""
    shown = as_api_error(error)
    if shown.status >= 500 and not isinstance(error, ApiError):
        log.error("a stream failed", exc_info=error, extra={"request_id": request_id.get()})
    return shown
