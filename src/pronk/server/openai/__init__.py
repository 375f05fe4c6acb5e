"""OpenAI's API: chat completions, completions, responses, embeddings, models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from pronk.server.errors import ApiError, Json
from pronk.server.openai.chat import chat
from pronk.server.openai.completions import complete
from pronk.server.openai.embeddings import embed
from pronk.server.openai.fields import ChatBody, CompletionBody, EmbeddingBody, ResponseBody
from pronk.server.openai.responses import respond
from pronk.server.openai.sse import error_body
from pronk.server.run import gated
from pronk.server.state import ServedModel, ServerState

PREFIXES = ("/v1",)


def render_error(error: ApiError) -> JSONResponse:
    return Json({"error": error_body(error)}, error.status)


def router(state: ServerState) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])
    working = APIRouter(tags=["OpenAI"], route_class=gated(state))

    @working.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a conversation."""
        return await chat(state, body, request)

    @working.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Continue texts, without a chat format."""
        return await complete(state, body, request)

    @working.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> Response:
        """Vectors of texts."""
        return await embed(state, body, request)

    @working.post("/v1/responses")
    async def responses(body: ResponseBody, request: Request) -> Response:
        """Answer items; nothing is stored."""
        return await respond(state, body, request)

    @routes.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [_card(model) for model in state.models.values()]})

    @routes.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return Json(_card(state.model(name)))

    routes.include_router(working)
    return routes


def _card(model: ServedModel) -> dict[str, Any]:
    """`max_model_len` is vLLM's name for the context's length in tokens."""
    facts = {"id": model.name, "object": "model", "created": model.created, "owned_by": "pronk"}
    return {**facts, "max_model_len": model.llama.context}
