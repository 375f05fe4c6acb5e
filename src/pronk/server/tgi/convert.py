"""From TGI's parameters to the engine's. What has no meaning here is refused by name."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import Any

from pronk.engine.grammar import Grammar
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.server.errors import ApiError
from pronk.server.settings import ServerSettings
from pronk.server.state import ServedModel
from pronk.server.tgi.schemas import GenerateParameters, JsonGrammar, RegexGrammar, TgiGrammar

DEFAULT_NEW_TOKENS = 1024
MOST_TOP_TOKENS = 20


@dataclass(frozen=True)
class Wanted:
    """What a body of /generate asks for. requests: `best_of` of them. in_front: the text before each answer's. seeds:
    of each request; None where it is greedy."""

    requests: tuple[Request, ...]
    seeds: tuple[int | None, ...]
    in_front: str
    details: bool
    characters: int


def wanted(
    inputs: str,
    parameters: GenerateParameters | None,
    model: ServedModel,
    settings: ServerSettings,
    *,
    stream: bool,
) -> Wanted:
    """Raises ApiError 422 and RequestError."""
    p = parameters or GenerateParameters()
    _refuse(p, settings, stream=stream)
    prompt = tuple(model.llama.tokenizer.encode(inputs, bos=True, special=True))
    details = bool(p.details or p.decoder_input_details)
    if p.truncate is not None:
        if p.truncate > max_input_tokens(model):
            raise invalid("truncate", f"is {p.truncate}, at most {max_input_tokens(model)} tokens fit; ask for fewer")
        prompt = prompt[-p.truncate :]
    params = SamplingParams(
        temperature=1.0 if p.temperature is None else p.temperature,
        top_k=p.top_k or 0,
        top_p=p.top_p or 1.0,
        typical_p=p.typical_p or 1.0,
        temperature_first=True,
        repetition_penalty=p.repetition_penalty or 1.0,
        frequency_penalty=p.frequency_penalty or 0.0,
        stop=tuple(p.stop or ()),
        max_tokens=new_tokens(p.max_new_tokens, len(prompt), model, settings),
        logprobs=(p.top_n_tokens or 0) if details or stream or (p.best_of or 1) > 1 else None,
        prompt_logprobs=0 if p.decoder_input_details else None,
        grammar=_grammar(p.grammar) if p.grammar else None,
    )
    seeds = _seeds(p)
    requests = tuple(Request(prompt, _seeded(params, seed)) for seed in seeds)
    return Wanted(requests, seeds, inputs if p.return_full_text else "", details, len(inputs))


def max_input_tokens(model: ServedModel) -> int:
    """With room for one token of an answer."""
    return model.llama.engine_config.capacity - 1


def new_tokens(asked: int | None, prompt: int, model: ServedModel, settings: ServerSettings) -> int:
    """How many to make at most. Raises ApiError where prompt and answer do not fit, as TGI does."""
    capacity = model.llama.engine_config.capacity
    if prompt >= capacity:
        raise invalid(
            "inputs", f"has {prompt} tokens, the context holds {capacity} with the answer; shorten it or use truncate"
        )
    room = capacity - prompt
    if asked is None:
        return min(DEFAULT_NEW_TOKENS, room)
    if asked > room and settings.overflow != "slide":
        raise invalid(
            "max_new_tokens",
            f"is {asked}, but after the {prompt} tokens of the prompt the context of {capacity} has room for {room}",
        )
    return asked


def invalid(name: str, what: str) -> ApiError:
    return ApiError(422, f"`{name}` {what}", param=name)


def _refuse(p: GenerateParameters, settings: ServerSettings, *, stream: bool) -> None:
    if p.watermark:
        raise invalid("watermark", "is true, but answers are not watermarked here; leave it out")
    if p.stop and len(p.stop) > settings.max_stop:
        raise invalid("stop", f"has {len(p.stop)} strings, at most {settings.max_stop} are allowed")
    if p.top_n_tokens is not None and p.top_n_tokens > MOST_TOP_TOKENS:
        raise invalid("top_n_tokens", f"is {p.top_n_tokens}, at most {MOST_TOP_TOKENS} are reported")
    if stream and p.decoder_input_details:
        raise invalid("decoder_input_details", "is true, which a stream has no place for; ask without streaming")
    best_of = p.best_of or 1
    if best_of == 1:
        return
    if best_of > settings.max_n:
        raise invalid("best_of", f"is {best_of}, at most {settings.max_n} are allowed")
    if not _samples(p, warped_only=False):
        raise invalid("best_of", f"is {best_of}, but greedy answers are all the same; set do_sample")
    if p.seed is not None:
        raise invalid("seed", f"is {p.seed}, and would make all {best_of} answers of best_of the same; leave it out")
    if stream:
        raise invalid("best_of", f"is {best_of}, but only one answer can be streamed; ask without streaming")


def _samples(p: GenerateParameters, *, warped_only: bool = True) -> bool:
    """A temperature of 1 changes nothing, and alone does not turn sampling on."""
    if p.do_sample or (p.temperature is not None and (p.temperature != 1 or not warped_only)):
        return True
    return any(value is not None for value in (p.top_k, p.top_p, p.typical_p))


def _seeds(p: GenerateParameters) -> tuple[int | None, ...]:
    if not _samples(p, warped_only=(p.best_of or 1) == 1):
        return (None,)
    if p.seed is not None:
        return (p.seed,)
    return tuple(secrets.randbits(64) for _ in range(p.best_of or 1))


def _seeded(params: SamplingParams, seed: int | None) -> SamplingParams:
    return replace(params, temperature=0.0) if seed is None else replace(params, seed=seed)


def _grammar(grammar: TgiGrammar) -> Grammar:
    if isinstance(grammar, RegexGrammar):
        return Grammar.regex(grammar.value)
    return Grammar.json_schema(_schema(grammar.value if isinstance(grammar, JsonGrammar) else grammar.value.schema_))


def _schema(value: dict[str, Any] | str) -> dict[str, Any]:
    """TGI takes a schema that has properties for an object's, though JSON Schema would let anything else pass too."""
    schema: Any = value
    if isinstance(value, str):
        try:
            schema = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise invalid("grammar", f"has a value that is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise invalid("grammar", f"has a value that is {type(schema).__name__}, expected a JSON schema, an object")
    return {"type": "object", **schema} if "properties" in schema else schema
