"""What goes into the engine and what comes out of it: plain frozen data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.sampling import SamplingParams

# "stop": a stop id or stop string; "length": max_tokens; "context": no room for another token; "deadline": its time is
# up; "cancelled": by the caller; "error": the step that ran the request failed.
FinishReason = Literal["stop", "length", "context", "deadline", "cancelled", "error"]

_numbers = itertools.count(1)


def _next_id() -> str:
    return f"request-{next(_numbers)}"


@dataclass(frozen=True)
class Request:
    """A prompt as ids (bos included, where it should have one) and how to continue it. `id` is unique.

    priority: a higher one runs first; equal ones in order of arrival.
    deadline: by time.monotonic(); once it has passed, waiting or running, the request ends with what there is.
    slide: go on when the context is full, with its first tokens and the newer half of the rest, instead of ending.
    cache: may share pages of the key/value cache with other requests, now and later.
    adapter: the name of a loaded LoRA adapter; None for the model as it is.
    """

    prompt: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    id: str = field(default_factory=_next_id)
    priority: int = 0
    deadline: float | None = None
    slide: bool = False
    cache: bool = True
    adapter: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens. A stop token counts as completion: the model had to produce it. `cached_tokens` are those of the prompt
    that were found in the cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds. `first_token_seconds` runs from the arrival of the request, `prompt_seconds` from the first step that
    works on it to its first token, `decode_seconds` from there to its last. The prompt's tokens per second are without
    those that were found in the cache. `drafted_tokens` were guessed and checked beside a token of the answer, and
    `accepted_tokens` of them were what the answer says."""

    first_token_seconds: float
    prompt_seconds: float
    decode_seconds: float
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0


NO_TIMINGS = Timings(0.0, 0.0, 0.0, 0.0, 0.0)  # of a request that never came to run


@dataclass(frozen=True)
class Output:
    """What one step gave one request.

    `ids` are the new tokens (several where guessed ones were right), a stop token left out; `text` is what may be
    shown, so it can lag behind the ids (half a character, the start of a stop string) and is the last word where a stop
    string cut it. `logprobs` go with `ids`; `prompt_logprobs` come once, when the prompt has been read. `stopped_by` is
    the stop id or the stop string.
    With `finish_reason` this is the request's last output, and `usage` and `timings` are set. `slid` counts the tokens
    that have been dropped from the context so far. `stop_logprob` is the stop id's, where logprobs were asked for.
    """

    request_id: str
    ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stopped_by: int | str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Exception | None = None
    slid: int = 0
    stop_logprob: TokenLogprob | None = None
