"""One request on its way: its tokens so far, its sampler and text decoder, and the rules by which it ends."""

from __future__ import annotations

import sys
import time
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pronk.engine.config import EngineConfig
from pronk.engine.logprobs import TokenLogprob, token_logprob
from pronk.engine.request import FinishReason, Output, Request, Timings, Usage
from pronk.engine.samplers import Samplers
from pronk.engine.scheduler import Chunk, Sequence
from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer

# Logits of a whole chunk are wanted when the prompt is scored: 128 rows of 128256 float32 are 66 MB.
_SCORED_CHUNK = 128


class Generation:
    """`config.capacity` is how many tokens the request may hold, prompt and answer together; ids below `vocabulary` may
    be chosen. Without a tokenizer there is no text, only ids."""

    def __init__(
        self, request: Request, tokenizer: Tokenizer | None, vocabulary: int, config: EngineConfig, samplers: Samplers
    ) -> None:
        params = request.params
        scored = params.prompt_logprobs is not None
        self.request = request
        self._config = config
        self._ids = list(request.prompt)  # all of them; the sequence has those that are still in the context
        self.sequence = Sequence(
            request.id,
            _slide(self._ids, config) if request.slide else list(self._ids),
            longest_chunk=_SCORED_CHUNK if scored else sys.maxsize,
            priority=request.priority,
            offers=request.cache,
            reuses=request.cache and not scored,  # every row of a scored prompt is computed
        )
        self._vocabulary = vocabulary
        own_stops = tokenizer.stop_ids if tokenizer and not params.ignore_eos else frozenset()
        self._stop_ids = own_stops | frozenset(params.stop_ids)
        self._decoder = _decoder(request, tokenizer) if tokenizer else None
        self._sampler = samplers.make(params, request.prompt, self._stop_ids)
        self._prompt_logprobs: list[TokenLogprob] = [TokenLogprob(request.prompt[0], None)] if scored else []
        self._generated = 0
        self._arrived = time.perf_counter()
        self._started: float | None = None
        self._first_token: float | None = None
        self._last_token: float | None = None

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self._generated, self.sequence.found)

    @property
    def full(self) -> bool:
        """There is no room in the context for another token."""
        return len(self.sequence.ids) >= self._config.capacity

    def slid_ids(self) -> list[int]:
        """What to go on with when the context is full."""
        return _slide(self.sequence.ids, self._config)

    def start(self) -> None:
        """A step is about to work on this request."""
        if self._started is None:
            self._started = time.perf_counter()

    def wanted_rows(self, chunk: Chunk) -> int:
        """How many of the chunk's last rows need logits: the one that the next token is chosen from, and those that
        predict prompt tokens not scored yet. (After a preemption the prompt may pass a second time.)"""
        if self.request.params.prompt_logprobs is None or self._generated:
            return int(chunk.complete)
        first = max(chunk.start, len(self._prompt_logprobs) - 1)
        return max(chunk.end - first, int(chunk.complete))

    def advance(self, chunk: Chunk, rows: NDArray[np.float32]) -> Output | None:
        """Take the step's logits (wanted rows, V). None while there is prompt left to read."""
        if self._generated == 0 and self.request.params.prompt_logprobs is not None:
            self._score_prompt(chunk, rows, self.request.params.prompt_logprobs)
        if not chunk.complete:
            return None
        if self._generated == self.request.params.max_tokens:
            return self._output(finish_reason="length")
        if self.full:
            return self._output(finish_reason="context")
        return self._take(self._sampler.choose(rows[-1][: self._vocabulary], self._ids), rows[-1])

    def end(self, reason: Literal["cancelled", "deadline"]) -> Output:
        """Between steps, with what there is."""
        return self._output(finish_reason=reason)

    def fail(self, error: Exception) -> Output:
        return self._output(finish_reason="error", error=error)

    def _score_prompt(self, chunk: Chunk, rows: NDArray[np.float32], top: int) -> None:
        scores, prompt = self._prompt_logprobs, self.request.prompt
        for position, row in enumerate(rows, start=chunk.end - len(rows)):
            if position + 1 == len(scores) and position + 1 < len(prompt):
                scores.append(token_logprob(row, prompt[position + 1], top))

    def _take(self, token: int, row: NDArray[np.float32]) -> Output:
        self._generated += 1
        self._last_token = time.perf_counter()
        self._first_token = self._first_token or self._last_token
        if token in self._stop_ids:
            return self._output(finish_reason="stop", stopped_by=token)
        self._ids.append(token)
        self.sequence.ids.append(token)
        text = self._decoder.feed(token) if self._decoder else ""
        top = self.request.params.logprobs
        logprobs = () if top is None else (token_logprob(row, token, top),)
        reason: FinishReason | None = None
        stopped_by = None
        if self._decoder and self._decoder.stopped:
            reason, stopped_by = "stop", self._decoder.stop_string
        elif self._sampler.complete(self._ids):
            reason = "stop"
        elif self._generated == self.request.params.max_tokens:
            reason = "length"
        elif self.full and not self.request.slide:
            reason = "context"
        return self._output((token,), text, logprobs, reason, stopped_by)

    def _output(
        self,
        ids: tuple[int, ...] = (),
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        finish_reason: FinishReason | None = None,
        stopped_by: int | str | None = None,
        error: Exception | None = None,
    ) -> Output:
        prompt_logprobs: tuple[TokenLogprob, ...] = ()
        if len(self._prompt_logprobs) == len(self.request.prompt) and not error:
            prompt_logprobs, self._prompt_logprobs = tuple(self._prompt_logprobs), []
        slid = len(self._ids) - len(self.sequence.ids)
        if finish_reason is None:
            return Output(self.request.id, ids, text, logprobs, prompt_logprobs, slid=slid)
        if self._decoder:
            text += self._decoder.finish()
        return Output(
            self.request.id,
            ids,
            text,
            logprobs,
            prompt_logprobs,
            finish_reason,
            stopped_by,
            self.usage,
            self._timings(),
            error,
            slid,
        )

    def _timings(self) -> Timings:
        now = time.perf_counter()
        started = self._started or now
        first = self._first_token or now
        last = self._last_token or now
        prompt_seconds, decode_seconds = first - started, last - first
        return Timings(
            first_token_seconds=first - self._arrived,
            prompt_seconds=prompt_seconds,
            decode_seconds=decode_seconds,
            prompt_tokens_per_second=_rate(len(self.request.prompt) - self.sequence.found, prompt_seconds),
            decode_tokens_per_second=_rate(self._generated - 1, decode_seconds),
        )


def _slide(ids: list[int], config: EngineConfig) -> list[int]:
    """Where the context is full: the first few and the newer half. They are read again, at the positions that they have
    then, so what follows is exactly what follows that shorter text."""
    if len(ids) < config.capacity:
        return list(ids)
    return ids[: config.sinks] + ids[-(config.capacity // 2) :]


def _decoder(request: Request, tokenizer: Tokenizer) -> StreamDecoder:
    """The answer's text continues the prompt's, unless that has none: its first space then is the tokenizer's own."""
    shown = any(tokenizer.token_bytes(token) for token in reversed(request.prompt))
    return StreamDecoder(tokenizer, tuple(request.params.stop), continuation=shown)


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if tokens > 0 and seconds > 0 else 0.0
