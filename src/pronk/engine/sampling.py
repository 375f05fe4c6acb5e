"""How one request's next token is chosen, and what the model thought of it.

The order is llama.cpp's: penalties and bias, top-k, typical, top-p, min-p, temperature, draw. Meta's code divides by
the temperature before it cuts at top-p; `temperature_first` asks for that. The draw takes one uniform number that
depends only on the request's seed and the token's position, so nothing else in the batch can change it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.errors import RequestError
from pronk.native import sampling as native_sampling

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingParams:
    """One request's wishes. Raises RequestError for a value out of range.

    temperature: 0 is greedy and exactly reproducible. 0.6 with top_p 0.9 is what Meta's code uses; where a checkpoint's
        generation_config.json recommends other values, `pronk.load(...)` takes those as the defaults.
    top_k: keep the k most likely tokens; 0 keeps all. top_p, min_p, typical_p: 1, 0 and 1 turn them off.
    repetition_penalty: divides (multiplies, below zero) the logits of all tokens seen, the prompt's too (CTRL).
    presence_penalty, frequency_penalty: subtracted once, and once for each time, from tokens generated so far (OpenAI).
    logit_bias: added to a token's logit; -inf forbids it.
    seed: None draws fresh randomness for each request.
    stop: strings that end the answer and are not part of it. stop_ids: ids that do, besides the tokenizer's own set;
        ignore_eos turns that set off, and leaves stop_ids.
    max_tokens: None goes on until the model stops or the context is full. 0 only reads the prompt.
    logprobs, prompt_logprobs: how many alternatives to report beside each token's own log probability; None is neither.
    """

    temperature: float = 0.6
    top_k: int = 0
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: Collection[str] = ()
    stop_ids: Collection[int] = frozenset()
    ignore_eos: bool = False
    max_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    temperature_first: bool = False

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, math.inf)
        _integer("top_k", self.top_k, 0, None)
        _number("top_p", self.top_p, 0, 1, above=True)
        _number("min_p", self.min_p, 0, 1)
        _number("typical_p", self.typical_p, 0, 1, above=True)
        _number("repetition_penalty", self.repetition_penalty, 0, math.inf, above=True)
        _number("presence_penalty", self.presence_penalty, -2, 2)
        _number("frequency_penalty", self.frequency_penalty, -2, 2)
        for name, most in (("seed", _MASK), ("max_tokens", None), ("logprobs", None), ("prompt_logprobs", None)):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, most)
        for name in ("stop", "stop_ids"):  # one string is a sequence of strings to Python; here it is one stop string
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestError(f"stop has {text!r}, expected strings that are not empty")
        for token in self.stop_ids:
            _integer("a stop id", token, 0, None)
        for token, bias in self.logit_bias.items():
            _integer("a token of logit_bias", token, 0, None)
            if bias != -math.inf:
                _number(f"the logit_bias of token {token}", bias, -math.inf, math.inf)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    """low <= value <= high, or low < value with `above`; finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{name} is {value!r}, expected a number")
    if not math.isfinite(value) or not low <= value <= high or (above and value == low):
        least = f"more than {low}" if above else "any number" if low == -math.inf else f"at least {low}"
        most = "finite" if high == math.inf else f"at most {high}"
        raise RequestError(f"{name} is {value}, expected {least} and {most}")


def _integer(name: str, value: Any, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} is {value!r}, expected a whole number")
    if value < low or (high is not None and value > high):
        raise RequestError(f"{name} is {value}, expected at least {low}" + (f" and at most {high}" if high else ""))


class Sampler:
    """Chooses one request's tokens. `choose` depends on its arguments and the seed alone."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self._params = params
        self._penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)
        self._counts = dict.fromkeys(prompt, 0) if self._penalties else {}  # of generated tokens
        self._counted = len(prompt)
        self._bias = (
            np.fromiter(params.logit_bias.keys(), np.int32),
            np.fromiter(params.logit_bias.values(), np.float32),
        )

    def choose(self, logits: NDArray[np.float32], ids: Sequence[int]) -> int:
        """The token after `ids`, prompt and answer so far, from its logits (V), which are left as they are."""
        p = self._params
        seen = self._seen(ids)
        return native_sampling.sample(
            logits,
            temperature=p.temperature,
            top_k=p.top_k,
            top_p=p.top_p,
            min_p=p.min_p,
            typical_p=p.typical_p,
            temperature_first=p.temperature_first,
            repetition_penalty=p.repetition_penalty,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            seen_ids=seen[0],
            seen_counts=seen[1],
            bias_ids=self._bias[0],
            bias_values=self._bias[1],
            uniform=native_sampling.uniform(self.seed, len(ids)),
        )

    def _seen(self, ids: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens so far and how often each was generated: 0 for those that only the prompt has."""
        if self._penalties:
            for token in ids[self._counted :]:
                self._counts[token] = self._counts.get(token, 0) + 1
            self._counted = len(ids)
        return np.fromiter(self._counts.keys(), np.int32), np.fromiter(self._counts.values(), np.int32)
