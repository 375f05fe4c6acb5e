"""What clients may send: OpenAI's fields, and others under the names that vLLM and llama-server gave them.

No field is dropped in silence. One that is not known is refused, and so is one that OpenAI has and this server has
nothing for; but its default, or null, asks for nothing and is taken. Types are strict: "5" is no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pronk.server.errors import ApiError

# By field: the values that ask for nothing.
Unsupported = Mapping[str, tuple[Any, ...]]

# Of every call: they say who asks or how it is billed, and change no answer.
_EVERYWHERE: Unsupported = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "moderation": (),
    "prompt_cache_retention": ("in_memory",),
    "prompt_cache_options": ({}, {"mode": "implicit"}),
}


# What the sampler's kernels can hold; its own bounds are narrower.
Real = Annotated[float, Field(ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
Whole = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class Body(BaseModel):
    """A request's body. `unsupported`: fields there are elsewhere and not here."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    unsupported: ClassVar[Unsupported] = _EVERYWHERE

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        return without_unsupported(data, cls.unsupported) if isinstance(data, dict) else data


def without_unsupported(data: Mapping[str, Any], unsupported: Unsupported, where: str = "") -> dict[str, Any]:
    """The fields that are left. Raises ApiError that names the first which asks for something."""
    kept = {}
    for name, value in data.items():
        if name not in unsupported:
            kept[name] = value
        elif value is not None and not any(type(value) is type(d) and value == d for d in unsupported[name]):
            raise unsupported_field(where + name)
    return kept


def unsupported_field(param: str, why: str = "") -> ApiError:
    said = f"{param!r} is not supported by this server" + (f": {why}" if why else "; leave it out")
    return ApiError(400, said, param=param, code="unsupported_parameter")


def bad_field(param: str, said: str) -> ApiError:
    return ApiError(400, f"{param} {said}", param=param, code="invalid_value")


class StreamOptions(Body):
    unsupported: ClassVar[Unsupported] = {"include_obfuscation": (False,)}
    include_usage: bool | None = None


class Sampling(Body):
    """How tokens are chosen. What is not given, or null, is the model's own default."""

    temperature: Real | None = None
    top_p: Real | None = None
    frequency_penalty: Real | None = None
    presence_penalty: Real | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Real] | None = None
    n: Whole | None = None
    max_tokens: Whole | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    # vLLM's and llama-server's
    top_k: Whole | None = Field(None, description="0 or -1 keeps all")
    min_p: Real | None = None
    typical_p: Real | None = None
    top_n_sigma: Real | None = None
    repetition_penalty: Positive | None = None
    min_tokens: Whole | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[Whole] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[Whole] | None = None
    mirostat: Whole | None = None
    mirostat_tau: Real | None = None
    mirostat_eta: Real | None = None
    dry_multiplier: Real | None = None
    dry_base: Real | None = None
    dry_allowed_length: Whole | None = None
    dry_penalty_last_n: Whole | None = Field(None, description="-1 is the whole context, 0 turns DRY off")
    dry_sequence_breakers: list[str] | None = None
    xtc_probability: Real | None = None
    xtc_threshold: Real | None = None
    dynatemp_range: Real | None = None
    dynatemp_exponent: Real | None = None
    samplers: list[str] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = Field(None, description="Lark, or llama.cpp's GBNF")
    grammar: str | None = Field(None, description="the same as guided_grammar, by llama-server's name")
    priority: Whole | None = Field(None, description="higher runs first")


class ChatBody(Sampling):
    unsupported: ClassVar[Unsupported] = {
        **_EVERYWHERE,
        "audio": (),
        "function_call": (),
        "functions": (),
        "modalities": (["text"],),
        "prediction": (),
        "reasoning_effort": ("none",),
        "web_search_options": (),
    }
    messages: list[dict[str, Any]]
    model: str | None = None
    max_completion_tokens: Whole | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    # vLLM's
    continue_final_message: bool | None = Field(None, description="the last message is an answer to go on with")
    add_generation_prompt: bool | None = Field(None, description="false goes with continue_final_message")
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionBody(Sampling):
    prompt: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    best_of: Whole | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: str | None = None
    response_format: dict[str, Any] | None = None


class EmbeddingBody(Body):
    input: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    pooling: Literal["mean", "last"] | None = None


class ResponseBody(Body):
    unsupported: ClassVar[Unsupported] = {
        **_EVERYWHERE,
        "access_programs": (),
        "background": (False,),
        "background_options": (),
        "context_management": ([],),
        "conversation": (),
        "image": (),
        "max_tool_calls": (),
        "previous_response_id": (),
        "prompt": (),
        "reasoning": ({}, {"effort": "none"}),
        "truncation": ("disabled",),
    }
    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Whole | None = None
    temperature: Real | None = None
    top_p: Real | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
