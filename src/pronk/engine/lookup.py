"""Guesses from the request's own text: where its last tokens stood before, what followed them may follow again
("prompt lookup"; Saxena 2023). Costs no model, and helps where a text repeats: code that is edited, a document that is
quoted or summed up, lists.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from pronk.engine.speculation import Wish

_LONGEST = 4  # tokens that have to be the same; 2 at least
_CANDIDATES = 32  # places looked at, the last one first


class Lookup:
    """A Proposer."""

    def __init__(self) -> None:
        self._texts: dict[str, _Pairs] = {}

    def propose(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        return [self._texts.setdefault(w.request_id, _Pairs()).continuation(w.ids, w.count) for w in wishes]

    def forget(self, request_id: str) -> None:
        self._texts.pop(request_id, None)


class _Pairs:
    """Where each two neighbouring tokens of a text stand: its last place by the pair, and from each place the one
    before, as compressors keep them. Grows with the text, so a step costs what its new tokens cost."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], int] = {}  # the place behind the pair, which something follows
        self._before = array("i")  # by place, from 2 on: the place behind the same pair before; 0 for none

    def continuation(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that followed the longest ending of `ids` that stood there before; of several such
        places, the last. Where they reach the end of the text it repeats itself, and goes on so."""
        self._read(ids)
        place = self._find(ids)
        if not place:
            return []
        found = list(ids[place : place + count])
        while len(found) < count:
            found += found[: count - len(found)]
        return found

    def _read(self, ids: Sequence[int]) -> None:
        for place in range(len(self._before) + 2, len(ids)):
            pair = ids[place - 2], ids[place - 1]
            self._before.append(self._last.get(pair, 0))
            self._last[pair] = place

    def _find(self, ids: Sequence[int]) -> int:
        if len(ids) < 2:
            return 0
        best, longest = 0, 1
        place = self._last.get((ids[-2], ids[-1]), 0)
        for _ in range(_CANDIDATES):
            if not place or longest == _LONGEST:
                break
            length = 2
            while length < min(_LONGEST, place) and ids[place - 1 - length] == ids[-1 - length]:
                length += 1
            if length > longest:
                best, longest = place, length
            place = self._before[place - 2]
        return best
