"""From a body's fields to the engine's SamplingParams, each mistake under the field's own name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pronk.engine.grammar import Grammar
from pronk.engine.sampling import SamplingParams
from pronk.errors import RequestError
from pronk.server.errors import ApiError
from pronk.server.openai.fields import Sampling, bad_field, unsupported_field
from pronk.server.settings import ServerSettings

# Fields that are called the same here and there.
_SAME = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "min_p", "typical_p", "top_n_sigma",
    "repetition_penalty", "min_tokens", "ignore_eos", "bad_words", "mirostat", "mirostat_tau", "mirostat_eta",
    "dry_multiplier", "dry_base", "dry_allowed_length", "xtc_probability", "xtc_threshold", "dynatemp_range",
    "dynatemp_exponent",
)  # fmt: skip
_RENAMED = {"stop_token_ids": "stop_ids", "allowed_token_ids": "allowed_ids", "dry_sequence_breakers": "dry_breakers"}
_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar")


def sampling_params(body: Sampling, defaults: SamplingParams, settings: ServerSettings, **more: Any) -> SamplingParams:
    """`more`: what the calls have each in their own way (max_tokens, logprobs, grammar). Raises ApiError 400."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    lists = {"stop": stop, "bad_words": body.bad_words, "dry_sequence_breakers": body.dry_sequence_breakers}
    for name, texts in lists.items():
        if texts and len(texts) > settings.max_stop:
            raise bad_field(name, f"has {len(texts)} texts, this server takes at most {settings.max_stop}")
    values: dict[str, Any] = {name: getattr(body, name) for name in _SAME}
    values |= {ours: getattr(body, theirs) for theirs, ours in _RENAMED.items()}
    values |= {"stop": stop or None, "logit_bias": _logit_bias(body.logit_bias)}
    if body.samplers is not None:
        values["samplers"] = tuple(body.samplers)
    if body.seed is not None:
        values["seed"] = body.seed % 2**64
    if body.top_k is not None:
        values["top_k"] = max(body.top_k, 0) if body.top_k >= -1 else body.top_k
    if body.dry_penalty_last_n == 0:
        values["dry_multiplier"] = 0.0
    elif body.dry_penalty_last_n is not None and body.dry_penalty_last_n != -1:
        values["dry_range"] = body.dry_penalty_last_n
    values |= more
    return checked(defaults, {name: value for name, value in values.items() if value is not None})


def checked(defaults: SamplingParams, values: Mapping[str, Any]) -> SamplingParams:
    """Raises ApiError 400 whose `param` is the field that the engine complains of."""
    try:
        return replace(defaults, **values)
    except RequestError as error:
        longest = sorted(values, key=len, reverse=True)
        param = next((name for name in longest if name.removesuffix("s") in str(error)), None)
        theirs = {ours: name for name, ours in _RENAMED.items()} | {"dry_range": "dry_penalty_last_n"}
        raise ApiError(400, str(error), param=theirs.get(param or "", param), code="invalid_value") from None


def _logit_bias(bias: Mapping[str, float] | None) -> dict[int, float] | None:
    if bias is None:
        return None
    for token in bias:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise bad_field("logit_bias", f'has the key {token[:40]!r}; expected token ids such as "42"')
    return {int(token): value for token, value in bias.items()}


def guided_grammar(
    body: Sampling, response_format: Mapping[str, Any] | None, settings: ServerSettings
) -> Grammar | None:
    """What the answer has to be. Raises ApiError 400 for two such wishes, or one that is too long or wrong."""
    wishes = [name for name in _GUIDED if getattr(body, name) is not None]
    formatted = format_grammar(response_format, "response_format", settings)
    if formatted:
        wishes.insert(0, "response_format")
    if len(wishes) > 1:
        raise bad_field(wishes[1], f"goes against {wishes[0]}; give one of them")
    if not wishes or formatted:
        return formatted
    name, value = wishes[0], getattr(body, wishes[0])
    size = len(value if isinstance(value, str) else json.dumps(value))
    check_size(name, size, settings)
    if name == "guided_json":
        return grammar_of(name, lambda: Grammar.json_schema(value))
    if name == "guided_regex":
        return grammar_of(name, lambda: Grammar.regex(value))
    if name == "guided_choice":
        return grammar_of(name, lambda: Grammar.choice(value))
    return grammar_of(name, lambda: Grammar.lark(as_lark(name, value)))


def check_size(name: str, size: int, settings: ServerSettings) -> None:
    if size > settings.max_schema_bytes:
        raise bad_field(name, f"has {size} characters, this server takes at most {settings.max_schema_bytes}")


def grammar_of(name: str, make: Any) -> Grammar:
    try:
        grammar: Grammar = make()
    except RequestError as error:
        raise ApiError(400, str(error), param=name, code="invalid_value") from None
    return grammar


def as_lark(name: str, text: str) -> str:
    """llguidance's Lark, of that or of llama.cpp's GBNF, which `::=` gives away."""
    if "::=" not in text:
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # the converter names no kinds
        raise bad_field(name, f"is no GBNF that can be read: {' '.join(str(error).split())[:200]}") from None


def format_grammar(wanted: Mapping[str, Any] | None, where: str, settings: ServerSettings) -> Grammar | None:
    """OpenAI's response_format: text, json_object (a schema in it is llama-server's extension), json_schema."""
    if wanted is None:
        return None
    kind = wanted.get("type")
    if kind == "text":
        check_keys(wanted, ("type",), where)
        return None
    if kind == "json_object":
        check_keys(wanted, ("type", "schema"), where)
        schema = wanted.get("schema")
        return Grammar.json_object() if schema is None else _schema_grammar(schema, f"{where}.schema", settings)
    if kind == "json_schema":
        check_keys(wanted, ("type", "json_schema"), where)
        inner = wanted.get("json_schema")
        if not isinstance(inner, Mapping):
            raise bad_field(f"{where}.json_schema", "is missing or no object; expected one with a schema")
        check_keys(inner, ("name", "description", "schema", "strict"), f"{where}.json_schema")
        return _schema_grammar(inner.get("schema"), f"{where}.json_schema.schema", settings)
    raise bad_field(f"{where}.type", f"is {str(kind)[:40]!r}; expected 'text', 'json_object' or 'json_schema'")


def _schema_grammar(schema: Any, where: str, settings: ServerSettings) -> Grammar:
    if not isinstance(schema, Mapping):
        raise bad_field(where, "is missing or no object; expected a JSON schema")
    check_size(where, len(json.dumps(schema)), settings)
    return grammar_of(where, lambda: Grammar.json_schema(schema))


def check_keys(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raises ApiError for a field of an object that would be dropped; null asks for nothing."""
    for name, inner in value.items():
        if name not in known and inner is not None:
            raise unsupported_field(f"{where}.{name}"[:200], f"expected {', '.join(known)}")
