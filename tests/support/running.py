"""Running a model over given tokens, whole, in chunks, or several sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel

BLOCK = 16


def pages_for(tokens: int, first: int = 0) -> list[int]:
    """Pages for so many tokens, in an order that is not the natural one."""
    return [first + p for p in reversed(range(-(-tokens // BLOCK)))]


def run(model: LlamaModel, tokens: Sequence[int], chunks: Sequence[int] = (), kv_type: str = "f32") -> np.ndarray:
    """Logits (T, V) of every token, read in chunks of the given lengths and then one by one; at once without."""
    pages = pages_for(len(tokens))
    cache = model.ops.cache(model.config, len(pages), BLOCK, kv_type)
    sizes = list(chunks) + [1] * (len(tokens) - sum(chunks)) if chunks else [len(tokens)]
    done, logits = 0, []
    for size in sizes:
        batch = make_batch([(tokens[done : done + size], done, pages)], BLOCK, all_logits=True)
        logits.append(model.forward(batch, cache))
        done += size
    return np.concatenate(logits)


def run_ragged(
    model: LlamaModel, sequences: Sequence[Sequence[int]], steps: Sequence[Sequence[int]], kv_type: str = "f32"
) -> list[np.ndarray]:
    """Logits of every token of each sequence; in step i, sequence s brings steps[i][s] tokens (0: it is not in the
    batch)."""
    tables, first = [], 0
    for tokens in sequences:
        tables.append(pages_for(len(tokens), first))
        first += len(tables[-1])
    cache = model.ops.cache(model.config, first, BLOCK, kv_type)
    done = [0] * len(sequences)
    logits: list[list[np.ndarray]] = [[] for _ in sequences]
    for step in steps:
        present = [s for s, size in enumerate(step) if size]
        chunks = [(sequences[s][done[s] : done[s] + step[s]], done[s], tables[s]) for s in present]
        rows = model.forward(make_batch(chunks, BLOCK, all_logits=True), cache)
        at = 0
        for s in present:
            logits[s].append(rows[at : at + step[s]])
            at += step[s]
            done[s] += step[s]
    return [np.concatenate(parts) for parts in logits]


def greedy(model: LlamaModel, prompt: Sequence[int], count: int, kv_type: str = "f16") -> list[int]:
    """The `count` most probable next ids, one after the other."""
    pages = pages_for(len(prompt) + count)
    cache = model.ops.cache(model.config, len(pages), BLOCK, kv_type)
    ids, done = list(prompt), 0
    while len(ids) < len(prompt) + count:
        logits = model.forward(make_batch([(ids[done:], done, pages)], BLOCK), cache)
        done = len(ids)
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :]


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, by the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
