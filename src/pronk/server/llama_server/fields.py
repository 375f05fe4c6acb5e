"""The body of llama-server's /completion, and what of it the engine is asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from pronk.engine.grammar import Grammar
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.server.errors import ApiError
from pronk.server.openai.fields import Body, Unsupported, bad_field
from pronk.server.openai.sampling import as_lark, check_size, checked, grammar_of
from pronk.server.settings import ServerSettings
from pronk.server.state import ServedModel
from pronk.text.tokenizer import Tokenizer

MOST_PROBS = 100
_SAME = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "ignore_eos",
)  # fmt: skip
# Passed on only where they are given: what turns them off is the engine's to know.
_GIVEN = (
    "mirostat", "mirostat_tau", "mirostat_eta", "dry_multiplier", "dry_base", "dry_allowed_length", "xtc_probability",
    "xtc_threshold", "dynatemp_range", "dynatemp_exponent",
)  # fmt: skip


class CompletionRequest(Body):
    """Defaults are llama-server's, whatever the model recommends: its clients rely on them. null is a default, too."""

    unsupported: ClassVar[Unsupported] = {
        "id_slot": (-1,),
        "image_data": ([],),
        "lora": ([],),
        "min_keep": (0,),
        "n_cmpl": (1,),
        "n_discard": (0,),
        "n_indent": (0,),
        "n_keep": (0,),
        "post_sampling_probs": (False,),
        "response_fields": ([],),
        "return_progress": (False,),
        "t_max_prompt_ms": (0, -1),
        "timings_per_token": (False,),
    }
    prompt: str | list[int | str]
    model: str | None = None
    n_predict: int = Field(default=-1, ge=-1, description="-1: until the model ends, or the context is full")
    max_tokens: int | None = Field(default=None, ge=-1, description="the same as n_predict")
    stream: bool = False
    cache_prompt: bool = Field(default=True, description="may use, and leave, what other requests share")
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = Field(default=-1, description="-1, the whole context, unless nothing is penalized")
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int = Field(default=-1, ge=-1)
    dry_sequence_breakers: list[str] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    samplers: list[str] | None = None
    seed: int = Field(default=-1, ge=-1, lt=2**64, description="-1 draws one")
    stop: list[str] = Field(default_factory=list)
    ignore_eos: bool = False
    logit_bias: list[list[int | float | str | bool]] | dict[str, float | bool] | None = None
    n_probs: int = Field(default=0, ge=0, le=MOST_PROBS)
    json_schema: dict[str, Any] | None = None
    grammar: str | None = Field(default=None, description="GBNF, or llguidance's Lark")
    return_tokens: bool = False
    t_max_predict_ms: int = Field(default=0, description="0 or less: no limit. It counts from the request's arrival")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


def request_of(body: CompletionRequest, model: ServedModel, settings: ServerSettings) -> Request:
    """Takes a while for a long prompt: not for the event loop. Raises ApiError 400, RequestError, TokenizerError."""
    deadline = time.monotonic() + body.t_max_predict_ms / 1000 if body.t_max_predict_ms > 0 else None
    prompt = tuple(_prompt(model.llama.tokenizer, body.prompt))
    return Request(prompt, _params(body, model, settings), deadline=deadline, cache=body.cache_prompt)


def _prompt(tokenizer: Tokenizer, prompt: str | Sequence[int | str]) -> list[int]:
    """A text with a begin-of-text; of a list, the ids as they are and the texts between them. Control tokens are read
    by their names, as llama-server does."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, bos=True, special=True)
    if len(prompt) > 1 and all(isinstance(item, str) for item in prompt):
        raise bad_field("prompt", f"has {len(prompt)} texts; send one in a request, or several to /v1/completions")
    ids: list[int] = []
    for index, item in enumerate(prompt):
        ids += tokenizer.encode(item, bos=index == 0, special=True) if isinstance(item, str) else [item]
    return ids


def _params(body: CompletionRequest, model: ServedModel, settings: ServerSettings) -> SamplingParams:
    limit = body.n_predict if body.max_tokens is None else body.max_tokens
    if len(body.stop) > settings.max_stop:
        raise bad_field("stop", f"has {len(body.stop)} texts, this server takes at most {settings.max_stop}")
    penalizes = (body.repeat_penalty, body.presence_penalty, body.frequency_penalty) != (1, 0, 0)
    if penalizes and body.repeat_last_n != -1:
        raise bad_field("repeat_last_n", f"is {body.repeat_last_n}, but penalties here are for all tokens; send -1")
    values: dict[str, Any] = {name: getattr(body, name) for name in _SAME}
    values |= {name: getattr(body, name) for name in _GIVEN if getattr(body, name) is not None}
    values |= {
        "temperature": max(body.temperature, 0.0),
        "top_k": max(body.top_k, 0),
        "repetition_penalty": body.repeat_penalty,
        "seed": None if body.seed < 0 else body.seed,
        "max_tokens": None if limit < 0 else limit,
        "stop": body.stop,
        "logprobs": body.n_probs or None,
        "logit_bias": _logit_bias(body, model.llama.tokenizer),
    }
    if body.top_n_sigma > 0:
        values["top_n_sigma"] = body.top_n_sigma
    if body.dry_penalty_last_n == 0:
        values["dry_multiplier"] = 0.0
    elif body.dry_penalty_last_n > 0:
        values["dry_range"] = body.dry_penalty_last_n
    if body.dry_sequence_breakers is not None:
        values["dry_breakers"] = body.dry_sequence_breakers
    if body.samplers is not None:
        values["samplers"] = tuple(body.samplers)
    if grammar := _grammar(body, settings):
        values["grammar"] = grammar
    return checked(SamplingParams(), values)


def _grammar(body: CompletionRequest, settings: ServerSettings) -> Grammar | None:
    schema, grammar = body.json_schema, body.grammar or None
    if schema is not None and grammar is not None:
        raise bad_field("grammar", "goes without json_schema; send one of them")
    if schema is not None:
        check_size("json_schema", len(json.dumps(schema)), settings)
        return grammar_of("json_schema", lambda: Grammar.json_schema(schema))
    if grammar is not None:
        check_size("grammar", len(grammar), settings)
        return grammar_of("grammar", lambda: Grammar.lark(as_lark("grammar", grammar)))
    return None


def _logit_bias(body: CompletionRequest, tokenizer: Tokenizer) -> dict[int, float]:
    """From pairs of a token (its id, or a text, all of whose tokens are meant) and a bias; false forbids it."""
    bias: dict[int, float] = {}
    pairs = body.logit_bias.items() if isinstance(body.logit_bias, dict) else body.logit_bias or ()
    for pair in pairs:
        if len(pair) != 2 or isinstance(pair[0], bool) or isinstance(pair[1], str) or pair[1] is True:
            raise _no_pair(pair)
        token, value = pair
        amount = float("-inf") if value is False else float(value)
        if isinstance(token, str):
            bias |= dict.fromkeys(tokenizer.encode(token, bos=False), amount)
        elif isinstance(token, int):
            bias[token] = amount
        else:
            raise _no_pair(pair)
    return bias


def _no_pair(pair: object) -> ApiError:
    return bad_field("logit_bias", f"has {str(pair)[:60]}; expected a token's id or a text, and a number or false")
