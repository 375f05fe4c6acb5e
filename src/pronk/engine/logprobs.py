"""What the model itself thought of a token: log-softmax of its logits, before temperature, penalties and cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability.

    `logprob` is None for a prompt's first token, which nothing predicts. `top` are the most likely (id, logprob),
    best first, as many as were asked for.
    """

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob:
    """`token` and the `top` most likely ones under one row of logits (V)."""
    largest = logits.max()
    norm = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    best = _most_likely(logits, min(top, len(logits)))
    return TokenLogprob(token, float(logits[token]) - norm, tuple((i, float(logits[i]) - norm) for i in best))


def _most_likely(logits: NDArray[np.float32], count: int) -> list[int]:
    """Ids of the largest logits, largest first, the lower id first among equals."""
    if count == 0:
        return []
    threshold = np.partition(logits, -count)[-count]
    candidates = np.flatnonzero(logits >= threshold)
    order = np.argsort(-logits[candidates], kind="stable")
    return [int(i) for i in candidates[order[:count]]]
