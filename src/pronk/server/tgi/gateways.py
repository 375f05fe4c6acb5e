"""The paths by which other services call TGI: its own `/`, SageMaker's /invocations and Vertex AI's /vertex."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import fastapi
from starlette.responses import Response

from pronk.server.bodies import parsed
from pronk.server.errors import ApiError, Json, dump
from pronk.server.openai.chat import chat
from pronk.server.openai.completions import complete
from pronk.server.openai.fields import ChatBody, CompletionBody
from pronk.server.state import ServerState
from pronk.server.tgi.convert import invalid
from pronk.server.tgi.generate import finished, generate, generate_stream, likeliest_first, understood
from pronk.server.tgi.schemas import GenerateRequest, Predictions, VertexInstances


async def compat_generate(state: ServerState, body: GenerateRequest, connection: fastapi.Request) -> Response:
    if body.stream:
        return await generate_stream(state, body, connection)
    return await generate(state, body, connection, in_list=True)


async def invoke(state: ServerState, body: dict[str, Any], connection: fastapi.Request) -> Response:
    """By the field that the body has."""
    if "inputs" in body:
        return await compat_generate(state, parsed(GenerateRequest, body), connection)
    if "messages" in body:
        return await chat(state, parsed(ChatBody, body), connection)
    if "prompt" in body:
        return await complete(state, parsed(CompletionBody, body), connection)
    raise ApiError(422, "the body has none of `inputs`, `messages` and `prompt`; send one of them")


async def predict(state: ServerState, body: VertexInstances, connection: fastapi.Request) -> Response:
    """All instances run together; one that fails ends the others."""
    if len(body.instances) > state.settings.max_prompts:
        raise invalid("instances", f"has {len(body.instances)}, at most {state.settings.max_prompts} are taken at once")
    tasks = [asyncio.ensure_future(_prediction(state, instance, connection)) for instance in body.instances]
    try:
        return Json(Predictions(predictions=await asyncio.gather(*tasks)).model_dump())
    finally:
        for task in tasks:
            task.cancel()


async def _prediction(state: ServerState, instance: dict[str, Any], connection: fastapi.Request) -> str:
    """The answer's text; of a chat's answer that only calls tools, the calls as JSON."""
    if "messages" in instance:
        chat_body = parsed(ChatBody, instance)
        if chat_body.stream:
            raise invalid("stream", "is true, but predictions come whole; leave it out")
        answer = await chat(state, chat_body, connection)
        message = json.loads(bytes(answer.body))["choices"][0]["message"]
        return str(message["content"]) if message["content"] is not None else dump(message["tool_calls"])
    body = parsed(GenerateRequest, instance)
    model = state.adapted(body.parameters.adapter_id if body.parameters else None)
    asked = await understood(body, model, state, stream=False)
    best = likeliest_first(await finished(state, model, asked, connection))[0]
    return asked.in_front + best.text
