"""POST /v1/completions: texts or token ids, continued as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import fastapi
from starlette.responses import Response

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Output, Request
from pronk.server.errors import Json
from pronk.server.openai import shapes
from pronk.server.openai.fields import CompletionBody, bad_field, unsupported_field
from pronk.server.openai.prompts import read_prompts
from pronk.server.openai.sampling import guided_grammar, sampling_params
from pronk.server.openai.sse import stream
from pronk.server.run import Outputs, run
from pronk.server.state import ServedModel, ServerState
from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer

_MAX_TOKENS = 16  # OpenAI's default for this call


async def complete(state: ServerState, body: CompletionBody, connection: fastapi.Request) -> Response:
    model = state.model(body.model)
    asked = await anyio.to_thread.run_sync(_read, state, model, body)
    outputs = await run(state, model, asked.requests, connection)
    if body.stream:
        return stream(_chunks(asked, outputs))
    done = [_Done() for _ in asked.requests]
    index = {request.id: i for i, request in enumerate(asked.requests)}
    async with outputs:
        async for output in outputs:
            done[index[output.request_id]].add(output)
    kept = _best(done, asked)
    return Json(
        {
            **asked.head(),
            "choices": [asked.choice(place, done[i]) for place, i in enumerate(kept)],
            "usage": shapes.usage([d.last for d in done], [done[i].last for i in range(0, len(done), asked.tried)]),
            "timings": shapes.timings(done[0].last),
        }
    )


@dataclass
class _Done:
    """One continuation, gathered."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    outputs: list[Output] = field(default_factory=list)  # the last one

    @property
    def last(self) -> Output:
        return self.outputs[0]

    def add(self, output: Output) -> None:
        self.text.append(output.text)
        self.logprobs += output.logprobs
        self.prompt_logprobs = self.prompt_logprobs or output.prompt_logprobs
        self.outputs[:] = [output]

    def score(self) -> float:
        """The mean log probability of its tokens: what best_of goes by."""
        values = [token.logprob or 0.0 for token in self.logprobs]
        return sum(values) / max(len(values), 1)


@dataclass(frozen=True)
class _Asked:
    """A request, understood. `requests` are `tried` ones for each prompt, of which the best `shown` come back."""

    id: str
    created: int
    model: ServedModel
    body: CompletionBody
    requests: list[Request]
    tried: int
    shown: int
    echoes: list[str]

    def head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self.model.fingerprint,
        }

    def echo(self, index: int) -> str:
        """What stands in front of the index-th request's text."""
        return self.echoes[index // self.tried] if self.echoes else ""

    def choice(self, place: int, done: _Done) -> dict[str, Any]:
        echo = self.echoes[place // self.shown] if self.echoes else ""
        tokens = [*(done.prompt_logprobs if self.echoes else ()), *done.logprobs]
        return {
            "index": place,
            "text": echo + "".join(done.text),
            "logprobs": Offsets(self.model.llama.tokenizer).logprobs(tokens) if self.wants_logprobs else None,
            **self.ending(done.last),
        }

    @property
    def wants_logprobs(self) -> bool:
        return self.body.logprobs is not None

    def ending(self, output: Output) -> dict[str, Any]:
        return {"finish_reason": shapes.finish_reason(output), **shapes.ending(output, self.body.stop_token_ids)}


def _read(state: ServerState, model: ServedModel, body: CompletionBody) -> _Asked:
    """Not in the event loop: a long prompt takes a while to encode. Raises ApiError."""
    settings = state.settings
    if body.suffix:
        raise unsupported_field("suffix", f"{model.name} was not taught to fill in text before a suffix")
    shown = body.n if body.n is not None else 1
    tried = body.best_of if body.best_of is not None else shown
    for name, value in (("n", shown), ("best_of", tried)):
        if not 1 <= value <= settings.max_n:
            raise bad_field(name, f"is {value}, expected 1 to {settings.max_n}")
    if tried < shown:
        raise bad_field("best_of", f"is {tried}, less than n, {shown}")
    if body.stream and tried > shown:
        raise bad_field("best_of", "cannot be streamed: the best is known at the end")
    if body.stream_options and not body.stream:
        raise bad_field("stream_options", "goes with stream: true")
    prompts = read_prompts(model.llama, body.prompt, "prompt", settings)
    logprobs = body.logprobs if body.logprobs is not None or tried == shown else 0
    params = sampling_params(
        body, model.llama.defaults, settings, logprobs=logprobs,
        max_tokens=_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        prompt_logprobs=body.logprobs if body.echo else None,
        grammar=guided_grammar(body, body.response_format, settings),
    )  # fmt: skip
    id = shapes.new_id("cmpl-")
    requests = [
        Request(prompt.ids, params.nth(i), f"{id}-{p}-{i}", priority=body.priority or 0)
        for p, prompt in enumerate(prompts)
        for i in range(tried)
    ]
    echoes = [prompt.text(model.llama.tokenizer) for prompt in prompts] if body.echo else []
    return _Asked(id, int(time.time()), model, body, requests, tried, shown, echoes)


def _best(done: Sequence[_Done], asked: _Asked) -> list[int]:
    """Which continuations are shown: of each prompt's, the likeliest, best first."""
    if asked.tried == asked.shown:
        return list(range(len(done)))
    kept = []
    for start in range(0, len(done), asked.tried):
        ranked = sorted(range(start, start + asked.tried), key=lambda i: -done[i].score())
        kept += ranked[: asked.shown]
    return kept


class Offsets:
    """Log probabilities in the form of completions, token by token along a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._offset = 0

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.feed(token.id))
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [None if t.logprob is None else shapes.finite(t.logprob) for t in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": offsets,
        }

    def _top(self, token: TokenLogprob) -> dict[str, float] | None:
        if token.logprob is None:  # a prompt's first token
            return None
        best = {self._name(i): shapes.finite(value) for i, value in token.top}
        return {**best, self._name(token.id): shapes.finite(token.logprob)}

    def _name(self, token: int) -> str:
        """As text; half a character by its bytes, or two of them would be one key."""
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode() if data else self._tokenizer.token_text(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


async def _chunks(asked: _Asked, outputs: Outputs) -> AsyncGenerator[Mapping[str, Any], None]:
    head = asked.head()
    with_usage = bool(asked.body.stream_options and asked.body.stream_options.include_usage)
    if with_usage:
        head["usage"] = None
    index = {request.id: i for i, request in enumerate(asked.requests)}
    offsets = [Offsets(asked.model.llama.tokenizer) for _ in asked.requests]
    lasts: dict[int, Output] = {}
    async with outputs:
        async for output in outputs:
            i = index[output.request_id]
            first = i not in lasts
            lasts[i] = output
            tokens = [*(output.prompt_logprobs if asked.echoes else ()), *output.logprobs]
            text = (asked.echo(i) if first else "") + output.text
            if not (text or tokens or output.finish_reason):
                continue
            choice = {
                "index": i,
                "text": text,
                "logprobs": offsets[i].logprobs(tokens) if asked.wants_logprobs else None,
                "finish_reason": None,
            }
            if output.finish_reason:
                choice |= asked.ending(output)
            yield {**head, "choices": [choice]}
    if with_usage:
        firsts = [lasts[i] for i in range(0, len(asked.requests), asked.tried)]
        usage = shapes.usage(list(lasts.values()), firsts)
        yield {**head, "choices": [], "usage": usage, "timings": shapes.timings(lasts[0])}
