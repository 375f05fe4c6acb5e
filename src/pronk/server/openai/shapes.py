"""Parts of OpenAI's answers: usage, timings, log probabilities, how an answer ended."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Output
from pronk.text.tokenizer import Tokenizer

_LEAST = -9999.0  # what OpenAI says for "never"; JSON has no infinity


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def finish_reason(output: Output, called: bool = False) -> str:
    """ "stop", "length" or "tool_calls": OpenAI's clients know no others. `ended_by` has the engine's own word."""
    if output.finish_reason == "stop":
        return "tool_calls" if called else "stop"
    return "length"


def ending(output: Output, asked_stop_ids: Sequence[int] | None) -> dict[str, Any]:
    """Extensions of a choice: how it ended, at which stop string or id of the caller's, and what slid out of the
    context."""
    by = output.stopped_by
    named = isinstance(by, str) or (by is not None and by in (asked_stop_ids or ()))
    facts: dict[str, Any] = {"ended_by": output.finish_reason, "stop_reason": by if named else None}
    return {**facts, "slid_tokens": output.slid} if output.slid else facts


def usage(lasts: Sequence[Output], prompts: Sequence[Output]) -> dict[str, Any]:
    """Of all answers together; `prompts` has one output for each prompt, however many answers it has."""
    prompt = sum(output.usage.prompt_tokens for output in prompts if output.usage)
    completion = sum(output.usage.completion_tokens for output in lasts if output.usage)
    cached = sum(output.usage.cached_tokens for output in prompts if output.usage)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings(output: Output) -> dict[str, float]:
    """An extension: how fast the first answer was."""
    return asdict(output.timings) if output.timings else {}


def token_string(tokenizer: Tokenizer, token: int) -> str:
    """A token as text, U+FFFD for half a character; a control token by its name."""
    data = tokenizer.token_bytes(token)
    return data.decode("utf-8", "replace") if data else tokenizer.token_text(token)


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """In the form of chat completions and responses."""
    return [
        {
            **_entry(tokenizer, token.id, token.logprob),
            "top_logprobs": [_entry(tokenizer, i, value) for i, value in token.top],
        }
        for token in tokens
    ]


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {
        "token": token_string(tokenizer, token),
        "logprob": finite(logprob if logprob is not None else 0.0),
        "bytes": list(data or tokenizer.token_text(token).encode()),
    }


def finite(logprob: float) -> float:
    return max(logprob, _LEAST)
