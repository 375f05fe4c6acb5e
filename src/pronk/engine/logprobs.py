"""What the model itself thought of a token: log-softmax of its logits, before temperature, penalties and cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pronk.native import sampling


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
    own = sampling.log_probabilities(logits, np.array([token], np.int32))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        ids, values = sampling.top_log_probabilities(logits, top)
        best = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(own[0]), best)
