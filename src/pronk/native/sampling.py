"""From one row of logits (V) to a token, and to log probabilities, without sorting the vocabulary.

What the filters keep is exact, not approximated, and of two tokens with equal logits the lower id comes first.
Logits that are NaN or infinite (minus infinity means "never" and is fine) raise PronkError: a damaged model computes
them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pronk.errors import PronkError, RequestError
from pronk.native import _core
from pronk.native import runtime as runtime  # PRONK_ISA and PRONK_THREADS are obeyed before the first kernel runs

_NAN_LOGITS = -1
_SEED_BITS = (1 << 64) - 1


def sample(
    logits: NDArray[np.float32],
    *,
    uniform: float,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    temperature_first: bool = False,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    seen_ids: NDArray[np.int32] | None = None,
    seen_counts: NDArray[np.int32] | None = None,
    bias_ids: NDArray[np.int32] | None = None,
    bias_values: NDArray[np.float32] | None = None,
    allowed: NDArray[np.uint32] | None = None,
) -> int:
    """The token that `uniform`, a number in [0, 1), picks from the logits (V), which are left as they are.

    In this order, each step seeing the distribution that the one before it left:

    - Penalties of the tokens `seen_ids` (each once): logits above 0 are divided by `repetition_penalty`, others
      multiplied with it; then `frequency_penalty` * count and, where the count is above 0, `presence_penalty` are taken
      off. A count of 0 is a token of the prompt. Then `bias_values` are added at `bias_ids`, and tokens whose bit
      (id % 32 of word id // 32) is not set in `allowed` are ruled out.
    - temperature 0: the largest logit.
    - top_k (0: off), typical_p (1: off), top_p (1: off), min_p (0: off), each keeping at least one token.
    - Division by the temperature, and the choice: the first of the kept tokens, by id, at which the running sum of
      probabilities passes `uniform`.

    This is llama.cpp's order. With `temperature_first` the filters see the logits divided by the temperature, as Meta's
    and Hugging Face's code has it, and top_p keeps a token while the mass before it is at most top_p (not: below it).

    Raises RequestError when no token is left to choose, PronkError for logits that are not numbers.
    """
    token = _core.sample(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        temperature_first=temperature_first,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seen_ids=seen_ids,
        seen_counts=seen_counts,
        bias_ids=bias_ids,
        bias_values=bias_values,
        allowed=allowed,
        uniform=uniform,
    )
    if token >= 0:
        return token
    if token == _NAN_LOGITS:
        raise _not_numbers()
    raise RequestError("no token is left to choose from: the mask or the bias rules out the whole vocabulary")


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


def uniform(seed: int, position: int) -> float:
    """A random number in [0, 1) that depends on its arguments alone: so a seeded request is the same in any batch.

    SplitMix64 (Steele, Lea and Flood 2014); of `seed`, any integer, the lowest 64 bits count.
    """
    return _core.uniform(seed & _SEED_BITS, position)


def _not_numbers() -> PronkError:
    return PronkError(
        "the model computed logits that are NaN or infinite: its weights are damaged, or not what they claim to be"
    )
