"""From one row of logits (V) to a token, and to log probabilities, without sorting the vocabulary.

What the filters keep is exact, not approximated, and of two tokens with equal logits the lower id comes first.
Logits that are NaN or infinite (minus infinity means "never" and is fine) raise PronkError: a damaged model computes
them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pronk.errors import PronkError, RequestError
from pronk.native import _core
from pronk.native import runtime as runtime  # PRONK_ISA and PRONK_THREADS are obeyed before the first kernel runs

_NAN_LOGITS = -1
_SEED_BITS = (1 << 64) - 1


# By the numbers that the kernel knows them by. "mirostat" takes the place of all filters; see `sample`.
STEPS = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "mirostat",
)  # fmt: skip
LLAMA_CPP_ORDER = STEPS[:-1]
_CHANGES_LOGITS = ("penalties", "dry")

Breakers = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


def sample(
    logits: NDArray[np.float32],
    *,
    uniform: float,
    steps: tuple[str, ...] = LLAMA_CPP_ORDER,
    temperature: float = 1.0,
    dynatemp_range: float = 0.0,
    dynatemp_exponent: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    top_n_sigma: float = 0.0,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.1,
    xtc_uniform: float = 0.0,
    mirostat_mu: float = 0.0,
    temperature_first: bool = False,
    dry_multiplier: float = 0.0,
    dry_base: float = 1.75,
    dry_allowed_length: int = 2,
    dry_history: NDArray[np.int32] | None = None,
    dry_breakers: Breakers | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    seen_ids: NDArray[np.int32] | None = None,
    seen_counts: NDArray[np.int32] | None = None,
    bias_ids: NDArray[np.int32] | None = None,
    bias_values: NDArray[np.float32] | None = None,
    allowed: NDArray[np.uint32] | None = None,
    surprise: NDArray[np.float64] | None = None,
) -> int:
    """The token that `uniform`, a number in [0, 1), picks from the logits (V), which are left as they are.

    First `bias_values` are added at `bias_ids`, and tokens whose bit (id % 32 of word id // 32) is not set in `allowed`
    are ruled out. Then the steps, each seeing the distribution that the one before it left; all are llama.cpp's:

    - penalties, of the tokens `seen_ids` (each once): logits above 0 are divided by `repetition_penalty`, others
      multiplied with it; then `frequency_penalty` * count and, where the count is above 0, `presence_penalty` are taken
      off. A count of 0 is a token of the prompt.
    - dry: a token that would make the end of `dry_history` repeat an earlier sequence of n >= `dry_allowed_length`
      tokens loses `dry_multiplier` * `dry_base` ** (n - `dry_allowed_length`). Sequences do not reach across a breaker:
      (heads in rising order, the places of their tails, tails); a breaker is a head and then its tail, maybe empty.
    - top_n_sigma (0: off): logits within so many standard deviations of the largest.
    - top_k (0: off), typ_p (1: off), top_p (1: off), min_p (0: off), each keeping at least one token.
    - xtc: where `xtc_uniform` is below `xtc_probability`, of the tokens with at least `xtc_threshold` of the mass only
      the least likely one stays. A threshold above 0.5 turns it off.
    - temperature. With a `dynatemp_range`, between temperature - range (at least 0) and temperature + range: the nearer
      to the latter, the larger the entropy, by its share of the largest one to the power `dynatemp_exponent`.
    - mirostat: tokens of at most `mirostat_mu` bits of surprise, at least one.

    Last the choice: the first of the tokens left, by id, at which the running sum of probabilities passes `uniform`.
    `surprise` (1), where given, is set to the choice's -log2(probability) among them. Temperature 0 is the largest
    logit after bias, mask, penalties and dry, whatever else is asked for.

    With `temperature_first` the filters see the logits divided by the temperature, as Meta's and Hugging Face's code
    has it, and top_p keeps a token while the mass before it is at most top_p (not: below it).

    Raises RequestError when no token is left to choose, PronkError for logits that are not numbers.
    """
    token = _core.sample(
        logits,
        steps=_codes(steps, temperature_first),
        temperature=temperature,
        dynatemp_range=dynatemp_range,
        dynatemp_exponent=dynatemp_exponent,
        top_k=top_k,
        top_p=top_p,
        top_p_inclusive=temperature_first,
        min_p=min_p,
        typical_p=typical_p,
        top_n_sigma=top_n_sigma,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        xtc_uniform=xtc_uniform,
        mirostat_mu=mirostat_mu,
        dry_multiplier=dry_multiplier,
        dry_base=dry_base,
        dry_allowed_length=dry_allowed_length,
        dry_history=dry_history,
        dry_breakers=dry_breakers,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seen_ids=seen_ids,
        seen_counts=seen_counts,
        bias_ids=bias_ids,
        bias_values=bias_values,
        allowed=allowed,
        uniform=uniform,
        surprise=surprise,
    )
    if token >= 0:
        return token
    if token == _NAN_LOGITS:
        raise _not_numbers()
    raise RequestError("no token is left to choose from: the mask or the bias rules out the whole vocabulary")


@lru_cache(maxsize=64)
def _codes(steps: tuple[str, ...], temperature_first: bool) -> NDArray[np.int32]:
    if temperature_first and "temperature" in steps:
        others = [step for step in steps if step != "temperature"]
        first = next((i for i, step in enumerate(others) if step not in _CHANGES_LOGITS), len(others))
        steps = (*others[:first], "temperature", *others[first:])
    return np.array([STEPS.index(step) for step in steps], np.int32)


def log_probabilities(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Log softmax of the logits (V) at ids (N) -> (N). Raises PronkError for logits that are not numbers."""
    found = _core.log_probabilities(logits, ids)
    if found is None:
        raise _not_numbers()
    return found


def top_log_probabilities(logits: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k largest (V at most) as (ids, log probabilities), largest first, the lower id first on ties."""
    found = _core.top_log_probabilities(logits, k)
    if found is None:
        raise _not_numbers()
    return found


def uniform(seed: int, position: int, purpose: int = 0) -> float:
    """A random number in [0, 1) that depends on its arguments alone: so a seeded request is the same in any batch.

    `purpose` tells apart the numbers that one position needs. SplitMix64 (Steele, Lea and Flood 2014); of `seed`, any
    integer, the lowest 64 bits count.
    """
    return _core.uniform(seed & _SEED_BITS, position, purpose)


def _not_numbers() -> PronkError:
    return PronkError(
        "the model computed logits that are NaN or infinite: its weights are damaged, or not what they claim to be"
    )
