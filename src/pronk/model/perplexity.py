"""How well a model predicts a text: perplexity by the method of llama.cpp's `llama-perplexity`, so that numbers
compare.

The text is cut into windows of `window` tokens that know nothing of each other. Where the tokenizer adds one, bos takes
the place of each window's first token. The tokens of a window's second half are scored, given all before them: the
first half is there to give them context. A rest shorter than a window is not scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pronk.errors import RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel

PAGE = 32  # tokens in a page of the cache
_CHUNK = 512  # tokens in a step, so that a long window needs no more memory than a prompt


@dataclass(frozen=True)
class Perplexity:
    perplexity: float
    stderr: float  # of the perplexity
    tokens: int  # scored

    def __str__(self) -> str:
        return f"{self.perplexity:.4f} +/- {self.stderr:.4f}"


def perplexity(
    model: LlamaModel,
    tokens: Sequence[int],
    window: int = 512,
    *,
    bos_id: int | None = None,
    kv_type: str = "f16",
    progress: Callable[[int, int, Perplexity], None] | None = None,
) -> Perplexity:
    """Perplexity of `tokens` (of the whole text, bos in front where the tokenizer adds one).

    `bos_id` replaces each window's first token; None where the tokenizer adds no bos. `progress` is called after each
    window with (windows done, windows in all, the result so far). Raises RequestError for a text shorter than a window,
    and for a window that is longer than the model's context or scores nothing.
    """
    context = model.config.context_length
    if not 4 <= window <= context:
        raise RequestError(f"a window of {window} tokens, expected 4 to {context}, the model's context")
    if len(tokens) < window:
        raise RequestError(f"the text has {len(tokens)} tokens, expected at least {window}: one window (-c) to score")
    windows = len(tokens) // window
    cache = model.ops.cache(model.config, -(-window // PAGE), PAGE, kv_type)
    scores: list[float] = []
    for i in range(windows):
        part = list(tokens[i * window : (i + 1) * window])
        if bos_id is not None:
            part[0] = bos_id
        scores.extend(_second_half(model, cache, part))
        if progress:
            progress(i + 1, windows, _summary(scores))
    return _summary(scores)


def _second_half(model: LlamaModel, cache: object, window: list[int]) -> list[float]:
    """Minus the log probability of each token after the middle."""
    return [
        score
        for logits, targets in second_half(model, cache, window)
        for score in negative_log_likelihood(logits, targets)
    ]


def second_half(
    model: LlamaModel, cache: object, window: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], Sequence[int]]]:
    """Logits (R, V) of the rows whose next token is in the window's second half, and these tokens (R), in pieces.

    `cache` has at least the window's tokens, in pages of PAGE.
    """
    first, last = len(window) // 2, len(window) - 1  # rows whose logits are scored: first .. last - 1
    for start in range(0, last, _CHUNK):
        end = min(start + _CHUNK, last)
        rows = max(end - max(start, first), 0)
        pages = range(-(-end // PAGE))
        logits = model.forward(make_batch([(window[start:end], start, pages)], PAGE, wants_logits=[rows]), cache)
        if rows:
            yield logits, window[end - rows + 1 : end + 1]


def negative_log_likelihood(logits: NDArray[np.float32], targets: Sequence[int]) -> list[float]:
    """-log softmax(logits)[target] for each row of (R, V), in float64."""
    result = []
    for row, target in zip(logits, targets, strict=True):
        wide = row.astype(np.float64)
        top = wide.max()
        result.append(float(top + math.log(np.exp(wide - top).sum()) - wide[target]))
    return result


def _summary(scores: Sequence[float]) -> Perplexity:
    """exp of the mean score; its standard error is that of the mean, carried through exp."""
    values = np.asarray(scores)
    value = math.exp(values.mean())
    return Perplexity(value, value * math.sqrt(values.var() / max(len(values) - 1, 1)), len(values))
