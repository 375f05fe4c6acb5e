"""POST /v1/responses, the part that remembers nothing: a text or items in, one answer out, whole or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import fastapi
from starlette.responses import Response

from pronk.engine.request import Output as EngineOutput
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.server.errors import ClientGone, Json
from pronk.server.openai import response_items, shapes
from pronk.server.openai.answering import Answers, chat_requests
from pronk.server.openai.conversation import Offer, read_messages, read_offer
from pronk.server.openai.fields import ResponseBody, bad_field, unsupported_field
from pronk.server.openai.sampling import checked, format_grammar
from pronk.server.openai.sse import caught, named_stream
from pronk.server.state import ServedModel, ServerState

_LOGPROBS = "message.output_text.logprobs"


async def respond(state: ServerState, body: ResponseBody, connection: fastapi.Request) -> Response:
    model = state.model(body.model)
    asked = await anyio.to_thread.run_sync(_read, state, model, body)
    answers = await Answers.start(state, model, asked.requests, asked.offer, connection)
    if body.stream:
        return named_stream(_numbered(asked, answers))
    last: dict[str, Any] = {}
    async with aclosing(_events(asked, answers)) as events:
        async for event in events:
            last = event
    return Json(last["response"])


@dataclass(frozen=True)
class _Asked:
    """A request, understood."""

    id: str
    created: int
    model: ServedModel
    body: ResponseBody
    offer: Offer
    params: SamplingParams
    requests: list[Request]
    output: response_items.Output = field(default_factory=response_items.Output)

    @property
    def with_logprobs(self) -> bool:
        return self.params.logprobs is not None

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        body = self.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.model.name,
            "output": self.output.items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": self.params.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": self.params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            **more,
        }

    def ended(self, output: EngineOutput) -> dict[str, Any]:
        """The last event."""
        complete = output.finish_reason == "stop"
        counts = shapes.usage([output], [output])
        return _event(
            "response.completed" if complete else "response.incomplete",
            self.response(
                "completed" if complete else "incomplete",
                completed_at=int(time.time()) if complete else None,
                incomplete_details=None if complete else {"reason": "max_output_tokens"},
                usage={
                    "input_tokens": counts["prompt_tokens"],
                    "input_tokens_details": {**counts["prompt_tokens_details"], "cache_write_tokens": 0},
                    "output_tokens": counts["completion_tokens"],
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": counts["total_tokens"],
                },
                timings=shapes.timings(output),
                **shapes.ending(output, None),
            ),
        )


def _read(state: ServerState, model: ServedModel, body: ResponseBody) -> _Asked:
    """Not in the event loop: a long prompt takes a while to encode. Raises ApiError, ChatFormatError."""
    for wanted in body.include or ():
        if wanted != _LOGPROBS:
            raise unsupported_field("include", f"{wanted[:60]!r} is nothing that this server has; {_LOGPROBS!r} is")
    if body.top_logprobs and not body.include:
        raise bad_field("top_logprobs", f"goes with include: [{_LOGPROBS!r}]")
    if body.stream_options and body.stream_options.include_usage is not None:
        raise unsupported_field("stream_options.include_usage", "the last event of a response always has its usage")
    offer = read_offer(
        response_items.chat_tools(body.tools), response_items.chat_tool_choice(body.tool_choice),
        body.parallel_tool_calls, state.settings,
    )  # fmt: skip
    grammar = format_grammar(response_items.chat_format(body.text), "text.format", state.settings)
    if grammar and offer.callable:
        raise bad_field("tools", "cannot be called by an answer that has to follow a schema; give one of both")
    values = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "max_tokens": body.max_output_tokens,
        "logprobs": (body.top_logprobs or 0) if body.include else None,
        "grammar": grammar or offer.grammar(model.llama.chat_format),
    }
    params = checked(model.llama.defaults, {name: value for name, value in values.items() if value is not None})
    messages = read_messages(response_items.chat_messages(body.input, body.instructions))
    id = shapes.new_id("resp_")
    requests = chat_requests(model, messages, offer, params, id)
    return _Asked(id, int(time.time()), model, body, offer, params, requests)


def _event(kind: str, response: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "response": response}


async def _events(asked: _Asked, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
    """In OpenAI's order: created, in progress, each item from added to done, completed."""
    yield _event("response.created", asked.response("in_progress"))
    yield _event("response.in_progress", asked.response("in_progress"))
    tokenizer = asked.model.llama.tokenizer
    async with aclosing(answers.parts()) as parts:
        async for part in parts:
            logprobs = shapes.chat_logprobs(tokenizer, part.output.logprobs) if asked.with_logprobs else []
            if part.text or logprobs:
                for event in asked.output.text(part.text, logprobs):
                    yield event
            for call in part.calls:
                for event in asked.output.call(call):
                    yield event
            if part.output.finish_reason:
                for event in asked.output.close("completed" if part.output.finish_reason == "stop" else "incomplete"):
                    yield event
                yield asked.ended(part.output)


async def _numbered(asked: _Asked, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
    """For a stream: numbers, and an event for what fails."""
    number = 0
    try:
        async with aclosing(_events(asked, answers)) as events:
            async for event in events:
                yield {**event, "sequence_number": number}
                number += 1
    except ClientGone:
        return
    except Exception as error:
        shown = caught(error)
        failure = {"code": shown.code or "server_error", "message": shown.message}
        yield {**_event("response.failed", asked.response("failed", error=failure)), "sequence_number": number}
