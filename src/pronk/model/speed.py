"""Tokens per second of a model, by the method of llama.cpp's `llama-bench`, so that numbers compare.

pp: a prompt of random tokens, read 512 at a time. tg: tokens one after the other, `sequences` conversations at once.
Both may start after `depth` tokens that are already in the cache and are not timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pronk.errors import RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel

_PAGE = 32  # tokens in a page of the cache
_CHUNK = 512  # tokens of a prompt in a step


@dataclass(frozen=True)
class Speed:
    """Tokens a second over the repetitions; all sequences together."""

    test: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def measure(
    model: LlamaModel,
    *,
    prompt: int = 512,
    decode: int = 128,
    depth: int = 0,
    sequences: int = 1,
    repeats: int = 5,
    context: int | None = None,
    kv_type: str = "f16",
    progress: Callable[[str, int], None] | None = None,
) -> list[Speed]:
    """One Speed for each of pp and tg that is not 0. Raises RequestError for tests longer than `context`, which is the
    model's own unless given."""
    longest = depth + max(prompt, decode)
    most = min(context or model.config.context_length, model.config.context_length)
    if longest > most:
        raise RequestError(f"the test needs {longest} tokens, the context holds {most}; shorten -p, -n or -d")
    pages = -(-longest // _PAGE)
    bench = _Bench(model, model.ops.cache(model.config, pages * sequences, _PAGE, kv_type), pages, sequences)
    suffix = (f" @ d{depth}" if depth else "") + (f" x{sequences}" if sequences > 1 else "")
    tests = [(f"pp{prompt}", prompt, _CHUNK), (f"tg{decode}", decode, 1)]
    speeds = []
    for name, count, step in tests:
        if not count:
            continue
        bench.fill(depth)
        bench.run(depth, min(count, 2 * step), step)  # the first touch of weights and cache is not timed
        samples = []
        for i in range(repeats):
            samples.append(bench.run(depth, count, step))
            if progress:
                progress(name, i + 1)
        speeds.append(Speed(name + suffix, tuple(samples)))
    return speeds


class _Bench:
    """Sequences side by side in one cache; a sequence's pages are its own and never move."""

    def __init__(self, model: LlamaModel, cache: Any, pages: int, sequences: int) -> None:
        self._model = model
        self._cache = cache
        self._pages = [range(s * pages, (s + 1) * pages) for s in range(sequences)]
        self._random = np.random.default_rng(0)

    def fill(self, depth: int) -> None:
        for start in range(0, depth, _CHUNK):
            for pages in self._pages:
                self._step([pages], start, min(_CHUNK, depth - start))

    def run(self, depth: int, count: int, step: int) -> float:
        """Tokens a second for `count` more tokens of each sequence after `depth`, `step` of them at a time."""
        start = time.perf_counter()
        for done in range(0, count, step):
            self._step(self._pages, depth + done, min(step, count - done))
        return count * len(self._pages) / (time.perf_counter() - start)

    def _step(self, pages: Sequence[Sequence[int]], cached: int, count: int) -> None:
        ids = self._random.integers(0, self._model.config.vocab_size, (len(pages), count)).tolist()
        self._model.forward(
            make_batch([(ids[s], cached, own) for s, own in enumerate(pages)], _PAGE), self._cache
        ).max()  # a device's work is done when its numbers have been read
