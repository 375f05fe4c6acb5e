"""llama-server's paths, but for /tokenize: that path is TGI's too, and is in its router."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import fastapi
from fastapi import APIRouter
from starlette.responses import Response

import pronk
from pronk.server.errors import Json
from pronk.server.llama_server.completion import complete
from pronk.server.llama_server.fields import CompletionRequest
from pronk.server.llama_server.schemas import ApplyTemplateRequest, DetokenizeRequest, TokenizeRequest
from pronk.server.run import gated
from pronk.server.state import ServerState
from pronk.server.token_text import written_out
from pronk.text.messages import messages_from_json, tools_from_json
from pronk.text.tokenizer import Tokenizer

PREFIXES = ("/detokenize", "/apply-template", "/props", "/completion", "/completions")


def router(state: ServerState) -> APIRouter:
    routes = APIRouter(tags=["llama-server"])
    gate = APIRouter(route_class=gated(state))

    @gate.post("/completion")
    async def completion(body: CompletionRequest, connection: fastapi.Request) -> Response:
        """Continue a text, with llama-server's own fields."""
        return await complete(state, body, connection)

    @gate.post("/completions", include_in_schema=False)
    async def completions(body: CompletionRequest, connection: fastapi.Request) -> Response:
        return await complete(state, body, connection)

    routes.include_router(gate)

    @routes.post("/detokenize")
    def detokenize(body: DetokenizeRequest) -> Response:
        """The text of ids, control tokens by their names."""
        return Json({"content": written_out(state.model(None).llama.tokenizer, body.tokens)})

    @routes.post("/apply-template")
    def apply_template(body: ApplyTemplateRequest) -> Response:
        """A conversation as the text of its prompt."""
        llama = state.model(None).llama
        ids = llama.chat_format.encode(messages_from_json(body.messages), tools_from_json(body.tools or []))
        return Json({"prompt": written_out(llama.tokenizer, ids)})

    @routes.get("/props")
    def props() -> Response:
        return Json(properties(state))

    return routes


async def tokenize(state: ServerState, body: TokenizeRequest) -> Response:
    tokenizer = state.model(None).llama.tokenizer
    ids = await anyio.to_thread.run_sync(
        lambda: tokenizer.encode(body.content, bos=body.add_special, special=body.parse_special)
    )
    if not body.with_pieces:
        return Json({"tokens": ids})
    return Json({"tokens": [{"id": token, "piece": _piece(tokenizer, token)} for token in ids]})


def properties(state: ServerState) -> dict[str, Any]:
    """What llama-server says of itself and has a meaning here. `n_ctx`: tokens of prompt and answer together."""
    model = state.model(None)
    llama, tokenizer = model.llama, model.llama.tokenizer
    names = {token: name for name, token in tokenizer.special_ids.items()}
    vocabulary = tokenizer.vocabulary
    eos_id = None if vocabulary is None else vocabulary.eos_id
    return {
        "default_generation_settings": {"n_ctx": llama.context},
        "total_slots": llama.engine_config.max_sequences,
        "model_alias": model.name,
        "chat_template": llama.checkpoint.chat_template or "",
        "bos_token": names.get(-1 if tokenizer.bos_id is None else tokenizer.bos_id, ""),
        "eos_token": names.get(-1 if eos_id is None else eos_id, ""),
        "build_info": f"pronk {pronk.__version__}",
    }


def _piece(tokenizer: Tokenizer, token: int) -> str | list[int]:
    """A token's text; the bytes of one that is no text by itself."""
    data = tokenizer.token_bytes(token)
    if not data:
        return tokenizer.token_text(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
