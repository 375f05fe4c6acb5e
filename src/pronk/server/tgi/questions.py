"""What TGI answers without generating: what it serves, and how texts become tokens."""

from __future__ import annotations

from typing import Any

import anyio.to_thread

import pronk
from pronk.server.openai.conversation import read_messages, read_offer
from pronk.server.openai.fields import ChatBody
from pronk.server.state import ServedModel, ServerState
from pronk.server.tgi.convert import max_input_tokens
from pronk.server.tgi.schemas import ChatTokenizeResponse, Info, SimpleToken
from pronk.server.token_text import located, written_out


def info(state: ServerState) -> Info:
    model, settings = state.model(None), state.settings
    engine = model.llama.engine_config
    weight = max(model.llama.checkpoint.tensors.values(), key=lambda tensor: tensor.nbytes)
    return Info(
        model_id=model.name,
        model_dtype=weight.type.name,
        max_concurrent_requests=engine.max_sequences + settings.max_queue,
        max_best_of=settings.max_n,
        max_stop_sequences=settings.max_stop,
        max_input_tokens=max_input_tokens(model),
        max_total_tokens=engine.capacity,
        max_client_batch_size=settings.max_prompts,
        version=pronk.__version__,
    )


async def tokenized(state: ServerState, text: str) -> list[dict[str, Any]]:
    """As /generate reads its inputs: a begin-of-text, where the model has one, and control tokens by their names."""
    tokenizer = state.model(None).llama.tokenizer
    ids = await anyio.to_thread.run_sync(lambda: tokenizer.encode(text, bos=True, special=True))
    return [token.model_dump() for token in _tokens(state.model(None), text, ids)]


def chat_prompt(state: ServerState, body: ChatBody) -> tuple[ServedModel, list[int]]:
    """As /v1/chat/completions would have it. Raises ApiError, ChatFormatError."""
    model = state.model(body.model)
    messages = read_messages(body.messages)
    offer = read_offer(body.tools, body.tool_choice, body.parallel_tool_calls, state.settings)
    return model, model.llama.chat_format.encode(messages, offer.shown)


async def chat_tokenized(state: ServerState, body: ChatBody) -> ChatTokenizeResponse:
    model, ids = await anyio.to_thread.run_sync(lambda: chat_prompt(state, body))
    text = written_out(model.llama.tokenizer, ids)
    return ChatTokenizeResponse(tokenize_response=_tokens(model, text, ids), templated_text=text)


def _tokens(model: ServedModel, text: str, ids: list[int]) -> list[SimpleToken]:
    places = located(model.llama.tokenizer, text, ids)
    return [SimpleToken(id=p.id, text=p.text, start=p.start, stop=p.stop) for p in places]
