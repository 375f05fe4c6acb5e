"""The application: routers, what stands in front of them, and how errors look."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

import pronk
from pronk.errors import PronkError
from pronk.server import health, llama_server, openai, static, tgi
from pronk.server.auth import Auth
from pronk.server.errors import ApiError, ClientGone, Renderers, as_api_error, validation_error
from pronk.server.limits import BodyLimit
from pronk.server.logs import RequestLog
from pronk.server.state import ServerState

_APIS = (openai, tgi, llama_server)


def create_app(state: ServerState) -> FastAPI:
    """Every route of the server. From outside in: log and count, CORS, keys, the body's size, routes."""
    render = Renderers(openai.render_error, {prefix: api.render_error for api in _APIS for prefix in api.PREFIXES})
    app = FastAPI(title="pronk", version=pronk.__version__, docs_url=None, redoc_url=None)
    app.include_router(health.router(state))
    _add_page(app)
    for api in _APIS:
        app.include_router(api.router(state))
    _add_error_handlers(app, render)
    # The last one added is the outermost.
    limit, seconds = state.settings.max_body_bytes, state.settings.body_seconds
    app.add_middleware(BodyLimit, limit=limit, seconds=seconds, render=render)
    app.add_middleware(Auth, keys=state.settings.keys, render=render)
    if state.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(state.settings.cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["X-Request-Id", "Retry-After"],
        )  # fmt: skip
    app.add_middleware(RequestLog, state=state, render=render)
    return app


def _add_page(app: FastAPI) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        """The chat page for browsers."""
        if not static.wants_page(request.headers.get("accept", "")):
            raise ApiError(404, "there is a chat page here, for clients that accept text/html", "not_found")
        return static.page()

    @app.api_route(static.ASSETS + "{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(name: str) -> Response:
        return static.asset(name)


def _add_error_handlers(app: FastAPI, render: Renderers) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        return render(request.url.path, as_api_error(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return render(request.url.path, validation_error(error.errors(), known_fields(request)))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = {
            404: f"there is no {request.url.path[:200]}",
            405: f"{request.url.path} does not take {request.method}",
            400: "the body cannot be read as JSON",
        }.get(error.status_code, str(error.detail))
        kind = "not_found" if error.status_code == 404 else "invalid_request_error"
        return render(request.url.path, ApiError(error.status_code, said, kind, headers=error.headers))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(ApiError, answer)
    app.add_exception_handler(PronkError, answer)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientGone, gone)


def known_fields(request: Request) -> list[str]:
    """The names of the body's fields on the request's route, for "did you mean"."""
    body = getattr(request.scope.get("route"), "body_field", None)
    annotation = getattr(getattr(body, "field_info", None), "annotation", None)
    return list(getattr(annotation, "model_fields", ()))
