"""TGI's paths. /tokenize is llama-server's too: whose it is, the body's field says."""

from __future__ import annotations

from typing import Any

import fastapi
from fastapi import APIRouter
from starlette.responses import Response

from pronk.server import llama_server
from pronk.server.bodies import parsed
from pronk.server.errors import Json
from pronk.server.openai.fields import ChatBody
from pronk.server.run import gated
from pronk.server.state import ServerState
from pronk.server.tgi.errors import error_response
from pronk.server.tgi.gateways import compat_generate, invoke, predict
from pronk.server.tgi.generate import generate, generate_stream
from pronk.server.tgi.questions import chat_tokenized, info, tokenized
from pronk.server.tgi.schemas import (
    ChatTokenizeResponse,
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    Info,
    Predictions,
    StreamResponse,
    TokenizeRequest,
    VertexInstances,
)

PREFIXES = (
    "/",
    "/generate",
    "/generate_stream",
    "/info",
    "/tokenize",
    "/chat_tokenize",
    "/invocations",
    "/vertex",
    "/ping",
)


def router(state: ServerState) -> APIRouter:
    routes = APIRouter(tags=["TGI"])
    _add_generating(state, routes)
    _add_asking(state, routes)
    return routes


def _add_generating(state: ServerState, routes: APIRouter) -> None:
    gate = APIRouter(route_class=gated(state))

    @gate.post("/generate", response_model=GenerateResponse)
    async def generate_route(body: GenerateRequest, connection: fastapi.Request) -> Response:
        """An answer, whole."""
        return await generate(state, body, connection)

    @gate.post("/generate_stream", response_model=StreamResponse)
    async def stream_route(body: GenerateRequest, connection: fastapi.Request) -> Response:
        """An answer, token by token, as server-sent events."""
        return await generate_stream(state, body, connection)

    @gate.post("/", response_model=list[GenerateResponse])
    async def compat_route(body: GenerateRequest, connection: fastapi.Request) -> Response:
        """With `stream` as /generate_stream; else as /generate, in a list."""
        return await compat_generate(state, body, connection)

    @gate.post("/invocations")
    async def invocations_route(body: dict[str, Any], connection: fastapi.Request) -> Response:
        """SageMaker's only path: a body with `inputs` is one of `/`, with `messages` of /v1/chat/completions, with
        `prompt` of /v1/completions."""
        return await invoke(state, body, connection)

    @gate.post("/vertex", response_model=Predictions)
    async def vertex_route(body: VertexInstances, connection: fastapi.Request) -> Response:
        """Vertex AI's path: several bodies of /generate or of a chat, which run together."""
        return await predict(state, body, connection)

    routes.include_router(gate)


def _add_asking(state: ServerState, routes: APIRouter) -> None:
    @routes.get("/info", response_model=Info)
    async def info_route() -> Response:
        return Json(info(state).model_dump())

    @routes.get("/health", responses={503: {"model": ErrorResponse}})
    async def health_route() -> Response:
        """An empty 200, or 503."""
        if state.fault():
            return Json(error_response("unhealthy", "healthcheck"), 503)
        return Response()

    @routes.get("/ping", include_in_schema=False)
    async def ping_route() -> Response:
        """SageMaker's name for /health."""
        return await health_route()

    @routes.post("/tokenize")
    async def tokenize_route(body: dict[str, Any]) -> Response:
        """With `inputs` TGI's: a list of tokens and where they lie. With `content` llama-server's."""
        if "content" in body:
            return await llama_server.tokenize(state, parsed(llama_server.TokenizeRequest, body))
        return Json(await tokenized(state, parsed(TokenizeRequest, body).inputs))

    @routes.post("/chat_tokenize", response_model=ChatTokenizeResponse)
    async def chat_tokenize_route(body: ChatBody) -> Response:
        """The prompt that a body of /v1/chat/completions becomes, as text and as tokens."""
        return Json((await chat_tokenized(state, body)).model_dump())
