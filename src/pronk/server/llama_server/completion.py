"""POST /completion: llama-server's own way of continuing a text, whole or as a stream without [DONE]."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import fastapi
from starlette.responses import Response, StreamingResponse

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Output, Request, Timings, Usage
from pronk.server.errors import ClientGone, Json
from pronk.server.llama_server.errors import error_of
from pronk.server.llama_server.fields import CompletionRequest, request_of
from pronk.server.openai.shapes import finite, token_string
from pronk.server.openai.sse import caught, event
from pronk.server.run import Outputs, run
from pronk.server.state import ServedModel, ServerState

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def complete(state: ServerState, body: CompletionRequest, connection: fastapi.Request) -> Response:
    model = state.model(body.model)
    request = await anyio.to_thread.run_sync(request_of, body, model, state.settings)
    answer = _Answer(model, body, request)
    outputs = await run(state, model, [request], connection)
    if body.stream:
        return StreamingResponse(_events(outputs, answer), media_type="text/event-stream", headers=_HEADERS)
    async with outputs:
        async for output in outputs:
            answer.add(output)
    return Json(answer.whole())


async def _events(outputs: Outputs, answer: _Answer) -> AsyncIterator[bytes]:
    async with outputs:
        try:
            async for output in outputs:
                answer.add(output)
                if output.ids:
                    yield event(answer.part(output))
                if output.finish_reason:
                    yield event({**answer.whole(), "content": "", "tokens": []})
        except ClientGone:
            return
        except Exception as error:  # the status has been sent, so the error is an event
            yield event(error_of(caught(error)))


@dataclass
class _Answer:
    model: ServedModel
    body: CompletionRequest
    request: Request
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Output | None = None

    def add(self, output: Output) -> None:
        self.text += output.text
        self.ids += output.ids
        self.logprobs += output.logprobs
        self.last = output

    def part(self, output: Output) -> dict[str, Any]:
        return {
            "index": 0,
            "content": output.text,
            "tokens": list(output.ids),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": len(self.ids),
            "tokens_evaluated": len(self.request.prompt),
            **self._probabilities(output.logprobs),
        }

    def whole(self) -> dict[str, Any]:
        """Of an answer that has ended."""
        assert self.last is not None
        assert self.last.usage is not None
        assert self.last.timings is not None
        reason, by, usage = self.last.finish_reason, self.last.stopped_by, self.last.usage
        return {
            "index": 0,
            "content": self.text,
            "tokens": self.ids if self.body.return_tokens else [],
            "id_slot": -1,
            "stop": True,
            "model": self.model.name,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "generation_settings": self._settings(),
            "prompt": self.model.llama.tokenizer.decode(self.request.prompt),
            "has_new_line": "\n" in self.text,
            "truncated": reason == "context" or self.last.slid > 0,
            "stop_type": "limit" if reason != "stop" else "word" if isinstance(by, str) else "eos",
            "stopping_word": by if isinstance(by, str) else "",
            "timings": _timings(usage, self.last.timings),
            **self._probabilities(self.logprobs),
        }

    def _settings(self) -> dict[str, Any]:
        given = self.body.model_dump(exclude={"prompt", "model", "stream"}, exclude_none=True)
        return {**given, "n_ctx": self.model.llama.context}

    def _probabilities(self, tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> dict[str, Any]:
        if not self.body.n_probs:
            return {}
        shown = [
            {**self._token(t.id, t.logprob), "top_logprobs": [self._token(i, value) for i, value in t.top]}
            for t in tokens
        ]
        return {"completion_probabilities": shown}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        tokenizer = self.model.llama.tokenizer
        return {
            "id": token,
            "token": token_string(tokenizer, token),
            "bytes": list(tokenizer.token_bytes(token)),
            "logprob": finite(logprob if logprob is not None else 0.0),
        }


def _timings(usage: Usage, timings: Timings) -> dict[str, float]:
    """Milliseconds, and tokens a second."""
    read = usage.prompt_tokens - usage.cached_tokens
    prompt, predicted = timings.prompt_seconds * 1000, timings.decode_seconds * 1000
    return {
        "prompt_n": read,
        "prompt_ms": prompt,
        "prompt_per_token_ms": prompt / max(read, 1),
        "prompt_per_second": timings.prompt_tokens_per_second,
        "predicted_n": usage.completion_tokens,
        "predicted_ms": predicted,
        "predicted_per_token_ms": predicted / max(usage.completion_tokens - 1, 1),
        "predicted_per_second": timings.decode_tokens_per_second,
    }
