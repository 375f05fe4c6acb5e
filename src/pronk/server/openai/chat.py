"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import fastapi
from starlette.responses import Response

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Output, Request
from pronk.server.errors import Json
from pronk.server.openai import shapes
from pronk.server.openai.answering import Answers, Part, chat_requests
from pronk.server.openai.conversation import Offer, read_messages, read_offer
from pronk.server.openai.fields import ChatBody, bad_field
from pronk.server.openai.sampling import guided_grammar, sampling_params
from pronk.server.openai.sse import stream
from pronk.server.state import ServedModel, ServerState
from pronk.text.messages import Message, ToolCall, tool_call_to_json


async def chat(state: ServerState, body: ChatBody, connection: fastapi.Request) -> Response:
    model = state.model(body.model)
    asked = await anyio.to_thread.run_sync(_read, state, model, body)
    answers = await Answers.start(state, model, asked.requests, asked.offer, connection)
    if body.stream:
        return stream(_chunks(asked, answers))
    choices = [_Choice(i) for i in range(len(asked.requests))]
    async for part in answers.parts():
        choices[part.index].add(part)
    return Json(
        {
            **asked.head("chat.completion"),
            "choices": [asked.choice(choice) for choice in choices],
            "usage": shapes.usage([choice.last for choice in choices], [choices[0].last]),
            "timings": shapes.timings(choices[0].last),
        }
    )


@dataclass
class _Choice:
    """One answer, gathered."""

    index: int
    text: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)  # the last one

    @property
    def last(self) -> Output:
        return self.outputs[0]

    def add(self, part: Part) -> None:
        self.text.append(part.text)
        self.calls += part.calls
        self.logprobs += part.output.logprobs
        self.outputs[:] = [part.output]


@dataclass(frozen=True)
class _Asked:
    """A request, understood."""

    id: str
    created: int
    model: ServedModel
    body: ChatBody
    offer: Offer
    requests: list[Request]

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self.model.fingerprint,
        }

    def logprobs(self, tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return {"content": shapes.chat_logprobs(self.model.llama.tokenizer, tokens), "refusal": None}

    def ending(self, output: Output, called: bool) -> dict[str, Any]:
        reason = shapes.finish_reason(output, called)
        return {"finish_reason": reason, **shapes.ending(output, self.body.stop_token_ids)}

    def choice(self, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if choice.calls else "")}
        message["refusal"] = None
        if choice.calls:
            message["tool_calls"] = [tool_call_to_json(call) for call in choice.calls]
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self.logprobs(choice.logprobs),
            **self.ending(choice.last, bool(choice.calls)),
        }


def _read(state: ServerState, model: ServedModel, body: ChatBody) -> _Asked:
    """Not in the event loop: a long prompt takes a while to encode. Raises ApiError, ChatFormatError."""
    settings = state.settings
    count = body.n if body.n is not None else 1
    if not 1 <= count <= settings.max_n:
        raise bad_field("n", f"is {count}, expected 1 to {settings.max_n}")
    if body.stream_options and not body.stream:
        raise bad_field("stream_options", "goes with stream: true")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_field("top_logprobs", "goes with logprobs: true")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise bad_field("max_tokens", f"is {body.max_tokens}, max_completion_tokens {body.max_completion_tokens}")
    messages = read_messages(body.messages)
    continues = _continues(body, messages)
    offer = read_offer(body.tools, body.tool_choice, body.parallel_tool_calls, settings)
    grammar, calls = guided_grammar(body, body.response_format, settings), offer.grammar(model.llama.chat_format)
    if grammar and offer.callable:
        raise bad_field(
            "tools", "cannot be called by an answer that has to follow a schema or grammar; give one of both"
        )
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    params = sampling_params(
        body, model.llama.defaults, settings, max_tokens=limit, grammar=grammar or calls,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )  # fmt: skip
    id = shapes.new_id("chatcmpl-")
    requests = chat_requests(model, messages, offer, params, id, count, body.priority or 0, continues)
    return _Asked(id, int(time.time()), model, body, offer, requests)


def _continues(body: ChatBody, messages: Sequence[Message]) -> bool:
    """Whether the last message is an answer that goes on where it stopped. Raises ApiError 400."""
    continues = body.continue_final_message is True
    if body.add_generation_prompt is continues:  # a new answer begins with the prompt, one that goes on does not
        said = "true" if continues else "false"
        raise bad_field(
            "add_generation_prompt", f"is {said}, and continue_final_message too; one of them has to be true"
        )
    if continues and (not messages or messages[-1].role != "assistant" or messages[-1].tool_calls):
        raise bad_field("continue_final_message", "is true, but the last message is no assistant's text")
    return continues


async def _chunks(asked: _Asked, answers: Answers) -> AsyncGenerator[Mapping[str, Any], None]:
    head = asked.head("chat.completion.chunk")
    with_usage = bool(asked.body.stream_options and asked.body.stream_options.include_usage)
    if with_usage:
        head["usage"] = None

    def chunk(index: int, delta: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}]}

    lasts: dict[int, Output] = {}
    called = [0] * len(asked.requests)
    for index in range(len(asked.requests)):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    async with aclosing(answers.parts()) as parts:
        async for part in parts:
            if part.text or (asked.body.logprobs and part.output.logprobs):
                yield chunk(part.index, {"content": part.text}, logprobs=asked.logprobs(part.output.logprobs))
            for call in part.calls:
                for delta in _call_deltas(call, called[part.index]):
                    yield chunk(part.index, {"tool_calls": [delta]})
                called[part.index] += 1
            if part.output.finish_reason:
                lasts[part.index] = part.output
                yield chunk(part.index, {}, **asked.ending(part.output, bool(called[part.index])))
    if with_usage:
        usage = shapes.usage(list(lasts.values()), [lasts[0]])
        yield {**head, "choices": [], "usage": usage, "timings": shapes.timings(lasts[0])}


def _call_deltas(call: ToolCall, index: int) -> list[dict[str, Any]]:
    """As OpenAI streams a call: who is called, then the arguments."""
    whole = tool_call_to_json(call)
    function = whole["function"]
    return [
        {**whole, "index": index, "function": {"name": function["name"], "arguments": ""}},
        {"index": index, "function": {"arguments": function["arguments"]}},
    ]
