"""Speculative decoding: tokens are guessed, and the model checks them all in one step.

A request that decodes has one row in a step, and the step takes as long as reading the weights. With its guessed tokens
as further rows it takes hardly longer, and each row's logits are what they would be in a step of its own, bit for bit.
So the request's own sampler chooses at each row as always; while its choice is the guess, the next row is valid too.
Since a choice depends on the logits, the tokens before it, and a random number of the seed and the position, what is
said is exactly what is said without guesses, sampled text as well as greedy one.

Here: who guesses (`Proposer`), how much (`Pace`), and for whom (`Speculator`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pronk.engine.config import Speculation
from pronk.engine.sampling import SamplingParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """A request that decodes: at most `count` tokens are to be guessed that follow `ids`, its prompt and answer so far,
    which only ever grow. `seed` is the one that it draws with, given or not."""

    request_id: str
    ids: Sequence[int]
    count: int
    params: SamplingParams
    seed: int


class Proposer(Protocol):
    """Somebody who guesses. May keep what it likes of a request until that is forgotten."""

    def propose(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        """For each wish the ids that may follow, the next one first; none where it has no idea."""
        ...

    def forget(self, request_id: str) -> None:
        """The request has ended, or was never known."""
        ...


class Pace:
    """How many tokens to guess for one request, from how its last guesses went.

    Twice as many after all were right, else one more than were right. When fewer than a fifth are right on average (of
    the last three or four times) there are none for some steps, then a short one to probe; each failure doubles the
    pause, up to 64 steps, so a text that cannot be guessed costs next to nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = min(most, 4)
        self._right = 0.5  # share of guesses, as an exponential average
        self._rest = 0  # steps still to pause
        self._pause = _SHORTEST_PAUSE

    def wish(self) -> int:
        """Once in each step in which the request could have guesses."""
        if self._rest:
            self._rest -= 1
            return 0
        return self._length

    def learn(self, guessed: int, right: int) -> None:
        self._right += _WEIGHT * (right / guessed - self._right)
        if right == guessed:
            self._length = min(self._most, max(self._length, 2 * guessed))
        else:
            self._length = min(self._most, right + 1)
        if self._right < _LEAST:
            self._rest, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        elif right == guessed:
            self._pause = _SHORTEST_PAUSE


_WEIGHT = 0.3
_LEAST = 0.2
_SHORTEST_PAUSE, _LONGEST_PAUSE = 4, 64


class Speculator:
    """Guesses for the requests of a step. Proposers are asked in their order, a later one where those before it had no
    idea. `vocabulary`: ids below it can be guessed."""

    def __init__(self, config: Speculation, proposers: Sequence[Proposer], vocabulary: int) -> None:
        self._config = config
        self._vocabulary = vocabulary
        self._proposers = list(proposers)
        self._paces: dict[str, dict[Proposer, Pace]] = {}
        self._guessed_by: dict[str, Pace] = {}  # whose guess is being checked

    def propose(self, wishes: Sequence[Wish], room: int) -> dict[str, tuple[int, ...]]:
        """Guesses by request, `room` tokens at most. `wishes` are of all that decode in the step."""
        room = min(room, self._config.rows - len(wishes))
        found: dict[str, tuple[int, ...]] = {}
        self._guessed_by.clear()
        for proposer in list(self._proposers):
            if room <= 0:
                break
            open_ = [w for w in wishes if w.count > 0 and w.request_id not in found]
            wanted = {w.request_id: min(w.count, self._pace(w.request_id, proposer).wish()) for w in open_}
            shares = _shares(wanted, room)
            asked = [replace(w, count=shares[w.request_id]) for w in open_ if shares[w.request_id]]
            for wish, ids in zip(asked, self._ask(proposer, asked), strict=True):
                if guess := self._usable(ids[: wish.count]):
                    found[wish.request_id] = guess
                    self._guessed_by[wish.request_id] = self._pace(wish.request_id, proposer)
                    room -= len(guess)
        return found

    def learn(self, request_id: str, guessed: int, right: int) -> None:
        """How many of the tokens that were checked were right."""
        if guessed:
            self._guessed_by[request_id].learn(guessed, right)

    def forget(self, request_id: str) -> None:
        """The request has ended."""
        self._paces.pop(request_id, None)
        for proposer in self._proposers:
            proposer.forget(request_id)

    def _ask(self, proposer: Proposer, wishes: Sequence[Wish]) -> Sequence[Sequence[int]]:
        """Guesses are never worth an answer: a proposer that fails is asked no more."""
        if not wishes:
            return []
        try:
            return proposer.propose(wishes)
        except Exception:
            _log.exception("%s fails and is not asked for guesses any more", type(proposer).__name__)
            self._proposers.remove(proposer)
            return [()] * len(wishes)

    def _pace(self, request_id: str, proposer: Proposer) -> Pace:
        paces = self._paces.setdefault(request_id, {})
        return paces.setdefault(proposer, Pace(self._config.most))

    def _usable(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Up to an id that the model has not."""
        wrong = [i for i, token in enumerate(ids) if not 0 <= token < self._vocabulary]
        return tuple(ids[: wrong[0]] if wrong else ids)


def _shares(wanted: Mapping[str, int], room: int) -> dict[str, int]:
    """`room` tokens shared out: who wants little gets it, the others get as much as each other."""
    shares: dict[str, int] = {}
    for left, (name, count) in zip(range(len(wanted), 0, -1), sorted(wanted.items(), key=lambda w: w[1]), strict=True):
        shares[name] = min(count, room // left)
        room -= shares[name]
    return shares
