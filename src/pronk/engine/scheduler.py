"""Which requests run in the next step, and how many of their tokens. Plain Python, no arrays, no weights.

Continuous batching: every running request gets its next token in each step, and what is left of the token budget goes
to prompts, in chunks, first come first served. When pages run out the youngest request gives its own up and is
computed again later; since a row's result does not depend on its batch, its text is the same.
"""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field

from pronk.engine.blocks import BlockPool
from pronk.engine.config import EngineConfig


@dataclass(eq=False)
class Sequence:
    """What the scheduler knows of a request. `ids` are all tokens so far; the first `cached` of them are in the cache,
    in `pages`. The scheduler owns `cached` and `pages`, the engine appends to `ids`."""

    request_id: str
    ids: list[int]
    longest_chunk: int = sys.maxsize
    cached: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Tokens not in the cache yet: 1 while decoding, more while there is prompt left."""
        return len(self.ids) - self.cached


@dataclass(frozen=True)
class Chunk:
    """One sequence's share of a step: its tokens start .. end-1. `complete` when these reach the last token known, so
    that the next one can be chosen."""

    sequence: Sequence
    start: int
    end: int
    complete: bool


class Scheduler:
    """`running` is in order of arrival, oldest first; so is `waiting`, and all of it is younger than `running`.

    Invariant: the oldest running sequence can always go on, because it may take the pages of all others and no
    sequence is longer than the whole pool. So every request ends.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.pages)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        assert 0 < len(sequence.ids) <= self.config.capacity
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, ended or not, and free its pages."""
        self.pool.give(sequence.pages)
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> list[Chunk]:
        """The next step's work; empty when nothing is left. Takes the pages that the work needs."""
        counts: dict[Sequence, int] = {}
        decoding = [s for s in self.running if s.pending == 1]
        prefilling = [s for s in self.running if s.pending > 1]
        for sequence in decoding + prefilling:
            self._plan(sequence, counts)
        while sum(counts.values()) < self.config.token_budget and self._admits():
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            self._plan(sequence, counts)
        return [Chunk(s, s.cached, s.cached + count, count == s.pending) for s, count in counts.items()]

    def done(self, chunk: Chunk) -> None:
        """The chunk's keys and values are in the cache."""
        chunk.sequence.cached = chunk.end

    def _plan(self, sequence: Sequence, counts: dict[Sequence, int]) -> None:
        """Give `sequence` what the budget leaves for it, at the cost of younger ones where pages are short."""
        left = self.config.token_budget - sum(counts.values())
        count = min(sequence.pending, sequence.longest_chunk, left)
        if count < 1 or sequence not in self.running:  # preempted a moment ago, for an older one
            return
        missing = self._pages(sequence.cached + count) - len(sequence.pages)
        while missing > self.pool.free:
            youngest = self.running[-1]
            self._preempt(youngest)
            counts.pop(youngest, None)
            if youngest is sequence:
                return
        sequence.pages += self.pool.take(missing)
        counts[sequence] = count

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.give(sequence.pages)
        sequence.cached = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _admits(self) -> bool:
        """Whether the longest waiting sequence may start. Nobody overtakes it. It has to fit whole, beside the prompts
        that are still being read and a page more for each answer that grows, or it would soon be thrown out again."""
        if not self.waiting or len(self.running) >= self.config.max_sequences:
            return False
        promised = sum(self._pages(len(s.ids)) - len(s.pages) + 1 for s in self.running)
        return self._pages(len(self.waiting[0].ids)) <= self.pool.free - promised

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.config.block)
