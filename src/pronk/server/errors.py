"""What goes wrong over HTTP: one exception, which each API shows in its own form.

A route raises ApiError, or lets pronk's own errors through. The app finds the form by the request's path: a router
module has PREFIXES, the paths that are its own, and render_error.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from pronk.errors import EngineStopped, PronkError


class ApiError(Exception):
    """kind: "invalid_request_error", "authentication_error", "not_found", "overloaded", "unavailable" or
    "server_error". param: the field that is wrong, such as "messages[0].content". code: a word for programs.
    retry_after: seconds after which asking again may help."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.headers = {**(headers or {}), **({"Retry-After": str(retry_after)} if retry_after is not None else {})}


class ClientGone(Exception):
    """The client has left; nobody reads the answer."""


class Json(JSONResponse):
    """JSON that can always be sent: half of a surrogate pair, which a client may send escaped, goes back escaped."""

    def render(self, content: Any) -> bytes:
        return dump(content).encode("utf-8", "backslashreplace")


def dump(content: Any) -> str:
    """JSON in one line, non-ASCII as it is."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


Render = Callable[[ApiError], JSONResponse]


class Renderers:
    """The form of errors by path: the longest prefix that matches in whole segments; "/" is that path alone."""

    def __init__(self, default: Render, by_prefix: Mapping[str, Render]) -> None:
        self._default = default
        self._by_prefix = sorted(by_prefix.items(), key=lambda item: -len(item[0]))

    def __call__(self, path: str, error: ApiError) -> JSONResponse:
        render = self._default
        for prefix, candidate in self._by_prefix:
            if path == prefix or (prefix != "/" and path.startswith(prefix.rstrip("/") + "/")):
                render = candidate
                break
        response = render(error)
        response.headers.update(error.headers)
        return response


def as_api_error(error: Exception) -> ApiError:
    """What a route let through. The client's mistakes are 400; of others it learns no more than that."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineStopped):
        return ApiError(503, str(error), "unavailable", code="engine_stopped")
    if isinstance(error, PronkError):
        return ApiError(400, str(error))
    return ApiError(500, "the server failed; its log says why", "server_error", code="internal_error")


def validation_error(errors: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> ApiError:
    """The first of pydantic's complaints, as a sentence that names the field. `known`: fields there are."""
    first = errors[0]
    kind, place = str(first["type"]), [part for part in first["loc"] if part != "body"]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at character {place[0]}", code="bad_json")
    param = field_path(place)
    if param is None and (kind == "missing" or kind.endswith("_type")):
        return ApiError(400, "the body is not a JSON object; send one, with Content-Type: application/json")
    if param is None:
        return ApiError(400, f"the body: {first['msg']}")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; leave it out"
        return ApiError(400, f"there is no field {param!r}{hint}", param=param, code="unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"{param!r} is missing", param=param, code="missing_required_parameter")
    message = str(first["msg"]).removeprefix("Value error, ")
    found = f", found {_shown(first['input'])}" if "input" in first else ""
    return ApiError(400, f"{param}: {message[:1].lower()}{message[1:]}{found}", param=param, code="invalid_value")


def field_path(place: Sequence[Any]) -> str | None:
    """messages[0].content, of ("messages", 0, "content"). The names of a union's types are no part of it."""
    path = ""
    for part in place:
        if isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
