"""How one request's next token is chosen, and what the model thought of it.

The order is llama.cpp's unless `samplers` gives another: bias and what is allowed, penalties, DRY, top-n-sigma, top-k,
typical, top-p, min-p, XTC, temperature, draw. Meta's code divides by the temperature before it cuts at top-p;
`temperature_first` asks for that. The draw takes one uniform number (XTC's coin another one) that depends only on the
request's seed and the token's position, so nothing else in the batch can change it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pronk.engine.grammar import Grammar
from pronk.errors import RequestError
from pronk.native import sampling as native_sampling

if TYPE_CHECKING:
    from pronk.engine.samplers import Limits

SAMPLERS = native_sampling.LLAMA_CPP_ORDER
_ALIASES = {"typical_p": "typ_p", "temp": "temperature"}
# What the kernel takes as it is, under the same names.
_SETTINGS = (
    "temperature", "temperature_first", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "typical_p",
    "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
_MASK = (1 << 64) - 1
_LARGEST, _SMALLEST = 1e9, 1e-9  # beyond these the kernels' single precision overflows, or divides by nothing
_MOST = (1 << 31) - 1
_COIN = 1  # the purpose of XTC's random number


@dataclass(frozen=True)
class SamplingParams:
    """One request's wishes. Raises RequestError for a value out of range.

    temperature: 0 is greedy and exactly reproducible. 0.6 with top_p 0.9 is what Meta's code uses; where a checkpoint's
        generation_config.json recommends other values, `pronk.load(...)` takes those as the defaults.
    top_k: keep the k most likely tokens; 0 keeps all. top_p, min_p, typical_p: 1, 0 and 1 turn them off.
    top_n_sigma: keep logits within so many standard deviations of the largest; 0 keeps all.
    mirostat: 2 aims at mirostat_tau bits of surprise a token, with steps of mirostat_eta; no other filter or penalty
        then runs. 0 is off.
    dry_multiplier: "don't repeat yourself": a token that would repeat a sequence of n >= dry_allowed_length tokens of
        the last dry_range (None: all, the prompt's too) loses dry_multiplier * dry_base ** (n - dry_allowed_length).
        Sequences do not reach across the texts in dry_breakers. 0 is off.
    xtc_probability: how often "exclude top choices" strikes: of the tokens with a probability of at least
        xtc_threshold, only the least likely one stays. Off at 0, and with a threshold above 0.5.
    dynatemp_range: the temperature moves by so much up or down, with the entropy to the power dynatemp_exponent.
    samplers: which run, in which order (SAMPLERS, of which any may be left out); temperature 0 stays greedy.
    repetition_penalty: divides (multiplies, below zero) the logits of all tokens seen, the prompt's too (CTRL).
    presence_penalty, frequency_penalty: subtracted once, and once for each time, from tokens generated so far (OpenAI).
    logit_bias: added to a token's logit before all else; -inf forbids it.
    allowed_ids: only these tokens may come, and stop ids only if they are among them; None allows all.
    bad_words: texts that never come up in the answer, whichever tokens spell them, inside words too. " no" with its
        space leaves "know" alone.
    grammar: what the whole answer must be. Where only a stop can follow, the request ends.
    seed: None draws fresh randomness for each request.
    stop: strings that end the answer and are not part of it. stop_ids: ids that do, besides the tokenizer's own set;
        ignore_eos turns that set off, and leaves stop_ids.
    min_tokens: no stop id comes before the answer has so many tokens.
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
    top_n_sigma: float = 0.0
    mirostat: Literal[0, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_range: int | None = None
    dry_breakers: Collection[str] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    allowed_ids: Collection[int] | None = None
    bad_words: Collection[str] = ()
    min_tokens: int = 0
    samplers: tuple[str, ...] = SAMPLERS
    grammar: Grammar | None = None

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
        self._check_samplers()
        for name in ("stop", "bad_words", "dry_breakers"):
            value = getattr(self, name)  # one string is a sequence of strings to Python; here it is one text
            texts = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, name, texts)
            for text in texts:
                if not isinstance(text, str) or not text:
                    raise RequestError(f"{name} has {text!r}, expected strings that are not empty")
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        for token in self.stop_ids:
            _integer("a stop id", token, 0, None)
        if self.allowed_ids is not None:
            object.__setattr__(self, "allowed_ids", tuple(self.allowed_ids))
            for token in self.allowed_ids:
                _integer("an allowed id", token, 0, None)
            if not self.allowed_ids:
                raise RequestError("allowed_ids is empty, expected at least one token; None allows all")
        for token, bias in self.logit_bias.items():
            _integer("a token of logit_bias", token, 0, None)
            if bias != -math.inf:
                _number(f"the logit_bias of token {token}", bias, -math.inf, math.inf)

    def _check_samplers(self) -> None:
        _number("top_n_sigma", self.top_n_sigma, 0, math.inf)
        if self.mirostat not in (0, 2) or isinstance(self.mirostat, bool):
            raise RequestError(f"mirostat is {self.mirostat!r}, expected 0 (off) or 2")
        _number("mirostat_tau", self.mirostat_tau, 0, math.inf)
        _number("mirostat_eta", self.mirostat_eta, 0, math.inf)
        _number("dry_multiplier", self.dry_multiplier, 0, math.inf)
        _number("dry_base", self.dry_base, 0, math.inf)
        _integer("dry_allowed_length", self.dry_allowed_length, 0, None)
        if self.dry_range is not None:
            _integer("dry_range", self.dry_range, 0, None)
        _number("xtc_probability", self.xtc_probability, 0, 1)
        _number("xtc_threshold", self.xtc_threshold, 0, 1)
        _number("dynatemp_range", self.dynatemp_range, 0, math.inf)
        _number("dynatemp_exponent", self.dynatemp_exponent, 0, math.inf)
        _integer("min_tokens", self.min_tokens, 0, None)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(f"min_tokens is {self.min_tokens}, max_tokens is {self.max_tokens}; lower the first")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise RequestError(f"the grammar is {self.grammar!r}, expected a Grammar")
        given = (self.samplers,) if isinstance(self.samplers, str) else tuple(self.samplers)
        names = tuple(_ALIASES.get(name, name) if isinstance(name, str) else name for name in given)
        for name in names:
            if name not in SAMPLERS:
                raise RequestError(f"there is no sampler {name!r}, expected some of {', '.join(SAMPLERS)}")
            if names.count(name) > 1:
                raise RequestError(f"samplers has {name!r} twice; each runs once")
        object.__setattr__(self, "samplers", names)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def nth(self, index: int) -> SamplingParams:
        """For the index-th answer to one prompt: with its own seed again it would give the same text."""
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=(self.seed + index) & _MASK)


def _number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    """low <= value <= high, or low < value with `above`; finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{name} is {value!r}, expected a number")
    if _LARGEST < abs(value) < math.inf:
        raise RequestError(f"{name} is more than {_LARGEST:g} in size, which is the most")
    if not math.isfinite(value) or not low <= value <= high or (above and value == low):
        least = f"more than {low}" if above else "any number" if low == -math.inf else f"at least {low}"
        most = "finite" if high == math.inf else f"at most {high}"
        raise RequestError(f"{name} is {value}, expected {least} and {most}")
    if above and value < _SMALLEST:
        raise RequestError(f"{name} is {value}, expected at least {_SMALLEST:g}")


def _integer(name: str, value: Any, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} is {value!r}, expected a whole number")
    if value < low or (high is not None and value > high):
        raise RequestError(f"{name} is {value}, expected at least {low}" + (f" and at most {high}" if high else ""))
    if high is None and value > _MOST:
        raise RequestError(f"{name} is more than {_MOST}, which is the most")


class Sampler:
    """Chooses one request's tokens. `choose` depends on its arguments, the seed and earlier choices alone; `ids` are
    all of the request's, prompt and answer, whatever the model still sees of them."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        limits: Limits | None = None,
        breakers: native_sampling.Breakers | None = None,
    ) -> None:
        """`breakers` are DRY's, as tokens."""
        self.seed = secrets.randbits(64) if params.seed is None else params.seed
        self._bias = (
            np.fromiter(params.logit_bias.keys(), np.int32),
            np.fromiter(params.logit_bias.values(), np.float32),
        )
        self._limits = limits
        self._prompt = len(prompt)
        self._penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0)
        self._counts = dict.fromkeys(prompt, 0) if self._penalties else {}  # of generated tokens
        self._counted = len(prompt)
        self._mirostat = Mirostat(params.mirostat_tau, params.mirostat_eta) if params.mirostat else None
        self._history = History(prompt, params.dry_range) if params.dry_multiplier and params.dry_range != 0 else None
        self._settings: dict[str, Any] = {name: getattr(params, name) for name in _SETTINGS}
        self._settings |= {"steps": params.samplers, "dry_breakers": breakers}
        if params.mirostat:  # as in llama.cpp: nothing else beside it
            self._settings |= {"steps": ("temperature", "mirostat"), "dynatemp_range": 0.0}

    def complete(self, ids: Sequence[int]) -> bool:
        """By the request's grammar nothing can follow `ids` but a stop."""
        return self._limits is not None and self._limits.complete(ids[self._prompt :])

    def choose(self, logits: NDArray[np.float32], ids: Sequence[int]) -> int:
        """The token after `ids` from its logits (V), which are left as they are."""
        seen_ids, seen_counts = self._seen(ids)
        bias_ids, bias_values = self._biases(ids, len(logits))
        surprise = np.zeros(1, np.float64)
        token = native_sampling.sample(
            logits,
            **self._settings,
            seen_ids=seen_ids,
            seen_counts=seen_counts,
            bias_ids=bias_ids,
            bias_values=bias_values,
            allowed=self._limits.allowed(ids[self._prompt :], len(logits)) if self._limits else None,
            dry_history=self._history.last(ids) if self._history else None,
            mirostat_mu=self._mirostat.mu(len(ids)) if self._mirostat else 0.0,
            xtc_uniform=native_sampling.uniform(self.seed, len(ids), _COIN),
            uniform=native_sampling.uniform(self.seed, len(ids)),
            surprise=surprise,
        )
        if self._mirostat:
            self._mirostat.chose(len(ids), float(surprise[0]))
        return token

    def _biases(self, ids: Sequence[int], vocabulary: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Token ids and what their logits gain; -inf for those that may not come."""
        forbidden = self._limits.forbidden(ids[self._prompt :], vocabulary) if self._limits else None
        if forbidden is None:
            return self._bias
        never = np.full(len(forbidden), -math.inf, np.float32)
        return np.concatenate([self._bias[0], forbidden]), np.concatenate([self._bias[1], never])

    def _seen(self, ids: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens so far and how often each was generated: 0 for those that only the prompt has."""
        if self._penalties:
            for token in ids[self._counted :]:
                self._counts[token] = self._counts.get(token, 0) + 1
            self._counted = len(ids)
        return np.fromiter(self._counts.keys(), np.int32), np.fromiter(self._counts.values(), np.int32)


class Mirostat:
    """The bound on a token's surprise, in bits, that Mirostat 2 moves: a function of the choices so far."""

    def __init__(self, tau: float, eta: float) -> None:
        self._tau, self._eta = tau, eta
        self._before = self._after = 2 * tau
        self._position = -1  # of the choice between the two

    def mu(self, position: int) -> float:
        return self._before if position == self._position else self._after

    def chose(self, position: int, surprise: float) -> None:
        """A token of so much surprise, -log2 of its probability among those that were left."""
        self._before = self.mu(position)
        self._after = self._before - self._eta * (surprise - self._tau)
        self._position = position


class History:
    """A request's ids as an array that grows; `count` of them, the last ones, matter (None: all)."""

    def __init__(self, ids: Sequence[int], count: int | None) -> None:
        self._array = np.array(ids, np.int32)
        self._filled = len(ids)
        self._count = count

    def last(self, ids: Sequence[int]) -> NDArray[np.int32]:
        """The last of these ids, which begin with those of the call before."""
        if len(ids) > len(self._array):
            self._array = np.concatenate([self._array[: self._filled], np.zeros(len(ids) + 64, np.int32)])
        self._array[self._filled : len(ids)] = ids[self._filled :]
        self._filled = len(ids)
        return self._array[0 if self._count is None else max(0, len(ids) - self._count) : len(ids)]
