"""Texts as vectors: the states after the last layer and its norm, which the logits are made from, pooled over a text.

A Llama was trained to predict, not to embed; its vectors compare texts of one model, roughly. A text's vector does not
depend on the texts beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pronk.errors import RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel

Pooling = Literal["mean", "last"]

_PAGE = 32  # tokens in a page of the cache
_CHUNK = 512  # tokens in a step


def embed(
    model: LlamaModel,
    texts: Sequence[Sequence[int]],
    context: int,
    *,
    pooling: Pooling = "mean",
    normalize: bool = True,
    kv_type: str = "f16",
) -> NDArray[np.float32]:
    """(N, D), a row for each text of token ids: the mean of its tokens' states, or the last one's; of length 1 with
    `normalize`. Raises RequestError for a text that has no tokens, or more than `context`."""
    if pooling not in get_args(Pooling):
        raise RequestError(f"pooling is {pooling!r}, expected one of {', '.join(get_args(Pooling))}")
    vocabulary = model.config.vocab_size
    for i, text in enumerate(texts):
        if not 1 <= len(text) <= context:
            remedy = "shorten it or ask for a longer context" if text else "leave it out"
            raise RequestError(f"text {i} has {len(text)} tokens, expected 1 to {context}, the context; {remedy}")
        for token in text:
            if not 0 <= token < vocabulary:
                raise RequestError(f"text {i} has token id {token}, the vocabulary ends at {vocabulary - 1}")
    sums = np.zeros((len(texts), model.config.dim))
    groups = list(_groups([len(text) for text in texts]))
    pages = max((sum(_pages(len(texts[i])) for i in group) for group in groups), default=1)
    cache = model.ops.cache(model.config, pages, _PAGE, kv_type)
    for group in groups:
        _add_states(model, cache, {i: texts[i] for i in group}, pooling, sums)
    if pooling == "mean":
        sums /= np.array([[len(text)] for text in texts])
    if normalize:
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return sums.astype(np.float32)


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Short texts share a step, a long one is alone."""
    group: list[int] = []
    for i, length in enumerate(lengths):
        if group and sum(lengths[j] for j in group) + length > _CHUNK:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _add_states(
    model: LlamaModel, cache: object, texts: dict[int, Sequence[int]], pooling: Pooling, sums: NDArray[np.float64]
) -> None:
    """Adds the wanted states of each text to its row of `sums`. Texts of more than one chunk are alone."""
    tables, first = {}, 0
    for i, text in texts.items():
        tables[i] = range(first, first + _pages(len(text)))
        first += _pages(len(text))
    for start in range(0, max(map(len, texts.values())), _CHUNK):
        parts = [(text[start : start + _CHUNK], start, tables[i]) for i, text in texts.items()]
        ends = [start + len(part) == len(texts[i]) for i, (part, _, _) in zip(texts, parts, strict=True)]
        wanted = [len(part) if pooling == "mean" else int(end) for (part, _, _), end in zip(parts, ends, strict=True)]
        states = model.forward(make_batch(parts, _PAGE, wants_logits=wanted), cache, hidden=True)
        at = 0
        for i, rows in zip(texts, wanted, strict=True):
            sums[i] += states[at : at + rows].sum(axis=0, dtype=np.float64)
            at += rows


def _pages(tokens: int) -> int:
    return -(-tokens // _PAGE)
