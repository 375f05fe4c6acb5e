"""Which requests run in the next step, and how many of their tokens. Plain Python, no arrays, no weights.

Continuous batching: every running request gets its next token in each step, and what is left of the token budget goes
to prompts, in chunks. Prompts with the same beginning share its pages. When pages run out the youngest request gives
its own up and is computed again later; since a row's result does not depend on its batch, its text is the same.

Who comes first: the higher priority, and among equal ones the earlier arrival. Nobody overtakes who waits, so all are
served in this order; once they run, half of each step's room for prompts is the first one's, and the other half goes to
the prompts that have the least left to read. So a long prompt holds up no short one, and short ones delay a long one
by half at most.
"""

from __future__ import annotations

import sys
from bisect import insort
from dataclasses import dataclass, field
from itertools import count

from pronk.engine.blocks import BlockPool, first_key, next_key
from pronk.engine.config import EngineConfig


@dataclass(eq=False)
class Sequence:
    """What the scheduler knows of a request. `ids` are all tokens so far; the first `cached` of them are in the cache,
    in `pages`. The engine appends to `ids`, what stands below is the scheduler's.

    offers: others may use its full pages; reuses: it may use theirs; salt: what tells its keys and values from others
    of the same tokens. `found` counts the tokens that it did not have to compute because they were in the cache.
    """

    request_id: str
    ids: list[int]
    longest_chunk: int = sys.maxsize
    priority: int = 0
    offers: bool = True
    reuses: bool = True
    salt: str = ""
    cached: int = 0
    pages: list[int] = field(default_factory=list)
    found: int = 0
    reached: int = (
        0  # most tokens that were cached at any time: after a preemption it finds its own, which do not count
    )
    number: int = 0  # in order of arrival
    keys: list[bytes] = field(default_factory=list)  # of the full pages of ids, as far as they were asked for

    @property
    def pending(self) -> int:
        """Tokens not in the cache yet: 1 while decoding, more while there is prompt left."""
        return len(self.ids) - self.cached

    @property
    def place(self) -> tuple[int, int]:
        """The smallest comes first."""
        return -self.priority, self.number


@dataclass(frozen=True)
class Chunk:
    """One sequence's share of a step: its tokens start .. end-1. `complete` when these reach the last token known, so
    that the next one can be chosen."""

    sequence: Sequence
    start: int
    end: int
    complete: bool


Plan = dict[Sequence, int]  # tokens of the next step


class Scheduler:
    """`running` and `waiting` are in order of `place`, first one first.

    Invariant: the first running sequence can always go on, because it waits for nobody, may take the pages of all
    others, and no sequence is longer than the whole pool. So every request ends, unless higher ones come without end.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.pages, config.kept_pages)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._numbers = count(1)

    def add(self, sequence: Sequence) -> None:
        assert 0 < len(sequence.ids) <= self.config.capacity
        sequence.number = next(self._numbers)
        insort(self.waiting, sequence, key=_place)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, ended or not, and free its pages."""
        self.pool.give(sequence.pages)
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def restart(self, sequence: Sequence, ids: list[int]) -> None:
        """Go on with other tokens instead, from their first one on."""
        self.pool.give(sequence.pages)
        sequence.keys.clear()
        sequence.ids, sequence.cached, sequence.reached = ids, 0, sys.maxsize

    def schedule(self) -> list[Chunk]:
        """The next step's work; empty when nothing is left. Takes the pages that the work needs."""
        plan: Plan = {}
        for sequence in [s for s in self.running if s.pending == 1]:
            self._plan(sequence, 1, plan)
        room = self.config.token_budget - len(plan)
        if plan:
            room = min(room, self.config.prefill_chunk)
        self._admit(plan)
        for sequence, tokens in _shares(self._readers(plan), room).items():
            self._plan(sequence, tokens, plan)
        return [Chunk(s, s.cached, s.cached + tokens, tokens == s.pending) for s, tokens in plan.items()]

    def done(self, chunk: Chunk) -> None:
        """The chunk's keys and values are in the cache."""
        sequence, block = chunk.sequence, self.config.block
        sequence.cached = chunk.end
        sequence.reached = max(sequence.reached, chunk.end)
        if sequence.offers:
            keys = self._keys(sequence)
            for i in range(chunk.start // block, chunk.end // block):
                sequence.pages[i] = self.pool.know(sequence.pages[i], keys[i])

    def _plan(self, sequence: Sequence, tokens: int, plan: Plan) -> None:
        """Give `sequence` these tokens, at the cost of younger ones where pages are short."""
        if sequence not in self.running:  # preempted a moment ago, for an older one
            return
        missing = self._pages(sequence.cached + tokens) - len(sequence.pages)
        while missing > self.pool.free:
            youngest = self.running[-1]
            self._preempt(youngest, plan)
            if youngest is sequence:
                return
        sequence.pages += self.pool.take(missing)
        plan[sequence] = tokens

    def _preempt(self, sequence: Sequence, plan: Plan) -> None:
        plan.pop(sequence, None)
        self.running.remove(sequence)
        self.pool.give(sequence.pages)
        sequence.cached = 0
        insort(self.waiting, sequence, key=_place)
        self.preemptions += 1

    def _readers(self, plan: Plan) -> list[Sequence]:
        """The prompts to read on with. Each first takes what has been read before; who then comes to a page that
        another one before it is about to read waits for that: a same prompt is read once."""
        readers: list[Sequence] = []
        coming: set[bytes] = set()
        for sequence in self.running:
            if sequence in plan:
                continue
            self._reuse(sequence)
            if not coming.isdisjoint(self._wanted(sequence)[:1]):
                continue
            readers.append(sequence)
            if sequence.offers:
                coming.update(self._keys(sequence)[sequence.cached // self.config.block :])
        return readers

    def _reuse(self, sequence: Sequence) -> None:
        """Take the pages that hold what the sequence comes to next."""
        if found := self.pool.find(self._wanted(sequence)):
            self.pool.use(found)
            sequence.pages += found
            before = max(sequence.cached, sequence.reached)
            sequence.cached = len(sequence.pages) * self.config.block
            sequence.found += max(sequence.cached - before, 0)
            sequence.reached = max(sequence.cached, sequence.reached)

    def _wanted(self, sequence: Sequence) -> list[bytes]:
        """The keys of the pages that the sequence could use from here on. Its last token is always computed, for the
        logits; and who is in the middle of a page has to fill it."""
        at = len(sequence.pages)
        if not sequence.reuses or sequence.cached != at * self.config.block:
            return []
        return self._keys(sequence)[at : (len(sequence.ids) - 1) // self.config.block]

    def _admit(self, plan: Plan) -> None:
        """Let in who waits, in order. One of a higher priority may take the place of lower ones."""
        while self.waiting and self._makes_room(self.waiting[0], plan):
            sequence = self.waiting.pop(0)
            insort(self.running, sequence, key=_place)
            self._reuse(sequence)

    def _makes_room(self, sequence: Sequence, plan: Plan) -> bool:
        above = [s for s in self.running if s.priority >= sequence.priority]
        if not self._fits(sequence, above):
            return False
        while len(self.running) > len(above) and not self._fits(sequence, self.running):
            self._preempt(self.running[-1], plan)
        return True

    def _fits(self, sequence: Sequence, beside: list[Sequence]) -> bool:
        """Whether a waiting sequence may run beside these. It has to fit whole, with the prompts that are still being
        read and a page more for each answer that grows, or it would soon be thrown out again. Pages that can be shared
        count once."""
        if len(beside) >= self.config.max_sequences:
            return False
        used = {page for s in beside for page in s.pages}
        promised, coming = 0, set[bytes]()
        for other in beside:
            ahead = self._keys(other)[len(other.pages) :] if other.offers else []
            promised += self._pages(len(other.ids)) - len(other.pages) + 1
            promised -= len(coming.intersection(ahead)) if other.reuses else 0
            coming.update(ahead)
        wanted = self._wanted(sequence)
        found = self.pool.find(wanted)
        shared = len(used.intersection(found)) + len(coming.intersection(wanted[len(found) :]))
        missing = self._pages(len(sequence.ids)) - shared
        return missing <= self.pool.count - len(used) - promised

    def _keys(self, sequence: Sequence) -> list[bytes]:
        """Of all full pages of its ids."""
        keys, block = sequence.keys, self.config.block
        while (len(keys) + 1) * block <= len(sequence.ids):
            previous = keys[-1] if keys else first_key(sequence.salt)
            keys.append(next_key(previous, sequence.ids[len(keys) * block : (len(keys) + 1) * block]))
        return keys

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.config.block)


def _place(sequence: Sequence) -> tuple[int, int]:
    return sequence.place


def _shares(readers: list[Sequence], room: int) -> Plan:
    """Tokens for each prompt: half of the room for the first, the rest to those nearest to their end."""
    shares: Plan = {}
    turns = [(s, -(-room // 2)) for s in readers[:1]] + [(s, room) for s in sorted(readers, key=lambda s: s.pending)]
    for sequence, most in turns:
        wish = min(sequence.pending, sequence.longest_chunk) - shares.get(sequence, 0)
        if tokens := min(wish, most, room - sum(shares.values())):
            shares[sequence] = shares.get(sequence, 0) + tokens
    return shares
