"""Tokens per second of a model, by the method of llama.cpp's `llama-bench`, so that numbers compare.

pp: a prompt of random tokens, read 512 at a time. tg: tokens one after the other, `sequences` conversations at once.
pp+tg: the one and then the other, as one test. All may start after `depth` tokens that are already in the cache and are
not timed.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pronk.config import ModelConfig
from pronk.errors import RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel

_PAGE = 32  # tokens in a page of the cache
CHUNK = 512  # tokens of a prompt in a step


@dataclass(frozen=True)
class Workload:
    """One test: a prompt, then decoded tokens (either may be 0), in each of `sequences` after `depth` tokens."""

    prompt: int = 0
    decode: int = 0
    depth: int = 0
    sequences: int = 1

    @property
    def name(self) -> str:
        """As llama-bench calls it, and ` xN` for N sequences."""
        parts = [f"{test}{count}" for test, count in (("pp", self.prompt), ("tg", self.decode)) if count]
        suffix = (f" @ d{self.depth}" if self.depth else "") + (f" x{self.sequences}" if self.sequences > 1 else "")
        return "+".join(parts) + suffix

    @property
    def length(self) -> int:
        """Tokens of a sequence at the end."""
        return self.depth + self.prompt + self.decode

    def steps(self) -> Iterator[tuple[int, int]]:
        """(tokens cached before, new tokens) of each step, for every sequence alike."""
        for done in range(0, self.prompt, CHUNK):
            yield self.depth + done, min(CHUNK, self.prompt - done)
        for done in range(self.decode):
            yield self.depth + self.prompt + done, 1

    def check(self, config: ModelConfig, context: int | None = None) -> None:
        """Raises RequestError for a test longer than `context`, which is the model's own unless given."""
        most = min(context or config.context_length, config.context_length)
        if self.length > most:
            remedy = "shorten -p, -n or -d" + (" or raise --ctx" if self.length <= config.context_length else "")
            raise RequestError(f"{self.name} needs {self.length} tokens, the context holds {most}; {remedy}")


@dataclass(frozen=True)
class Speed:
    """Tokens a second over the repetitions; all sequences together."""

    workload: Workload
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.samples)

    @property
    def deviation(self) -> float:
        """The standard deviation of the samples; 0 of a single one."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else 0.0


def measure(
    model: LlamaModel,
    workloads: Sequence[Workload],
    *,
    repeats: int = 5,
    context: int | None = None,
    kv_type: str = "f16",
) -> Iterator[Speed]:
    """The Speed of each, as soon as it is known. Neighbours of one depth share the cache that is filled to it. Raises
    RequestError before anything is run, as `Workload.check` does."""
    for workload in workloads:
        workload.check(model.config, context)
    for (_, sequences), group in itertools.groupby(workloads, lambda w: (w.depth, w.sequences)):
        tests = list(group)
        pages = -(-max(test.length for test in tests) // _PAGE)
        bench = _Bench(model, model.ops.cache(model.config, pages * sequences, _PAGE, kv_type), pages, sequences)
        bench.fill(tests[0].depth)
        for test in tests:
            bench.run(_warm_up(test))
            yield Speed(test, tuple(bench.run(test) for _ in range(repeats)))


def _warm_up(test: Workload) -> Workload:
    """The first touch of weights and cache, which is not timed."""
    return replace(test, prompt=min(test.prompt, 2 * CHUNK), decode=min(test.decode, 2))


class _Bench:
    """Sequences side by side in one cache; a sequence's pages are its own and never move."""

    def __init__(self, model: LlamaModel, cache: Any, pages: int, sequences: int) -> None:
        self._model = model
        self._cache = cache
        self._pages = [range(s * pages, (s + 1) * pages) for s in range(sequences)]
        self._random = np.random.default_rng(0)

    def fill(self, depth: int) -> None:
        for start in range(0, depth, CHUNK):
            for pages in self._pages:
                self._step([pages], start, min(CHUNK, depth - start))

    def run(self, test: Workload) -> float:
        """Tokens a second."""
        start = time.perf_counter()
        for cached, count in test.steps():
            self._step(self._pages, cached, count)
        return (test.prompt + test.decode) * len(self._pages) / (time.perf_counter() - start)

    def _step(self, pages: Sequence[Sequence[int]], cached: int, count: int) -> None:
        ids = self._random.integers(0, self._model.config.vocab_size, (len(pages), count)).tolist()
        self._model.forward(
            make_batch([(ids[s], cached, own) for s, own in enumerate(pages)], _PAGE), self._cache
        ).max()  # a device's work is done when its numbers have been read
