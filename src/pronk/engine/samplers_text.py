"""What samplers must know of a vocabulary as text: the tokens that end a bad word, and those that break a sequence."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pronk.native.sampling import Breakers
from pronk.text.tokenizer import Tokenizer

Ids = NDArray[np.int32]

_LONGEST_TAIL = 20  # tokens of a breaker behind its first one; llama.cpp's bound


class TokenTexts:
    """A tokenizer's tokens by their bytes. Reads them when first asked: 0.1 s or so for 128k tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bad_word = lru_cache(maxsize=256)(self._bad_word)
        self.breakers = lru_cache(maxsize=16)(self._breakers)

    @cached_property
    def pieces(self) -> list[bytes]:
        """Of each token; none for control tokens, which no text contains."""
        return [self._tokenizer.token_bytes(token) for token in range(self._tokenizer.vocab_size)]

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted(zip(self.pieces, range(len(self.pieces)), strict=True))

    def containing(self, text: bytes) -> Ids:
        return _ids(token for token, data in enumerate(self.pieces) if text in data)

    def starting_with(self, text: bytes) -> Ids:
        first = bisect_left(self._sorted, (text, 0))
        last = first
        while last < len(self._sorted) and self._sorted[last][0].startswith(text):
            last += 1
        return _ids(token for _, token in self._sorted[first:last])

    def _bad_word(self, text: str) -> BadWord:
        return BadWord(self, text.encode())

    def _breakers(self, texts: tuple[str, ...]) -> Breakers:
        """Sequence breakers for DRY: each token that contains one of the texts, and each token whose end is the
        beginning of one, with the tokens that complete it."""
        found: set[tuple[int, tuple[int, ...]]] = set()
        names = {token: text.encode() for text, token in self._tokenizer.special_ids.items()}
        tokens = [(token, names.get(token, data)) for token, data in enumerate(self.pieces)]
        for text in texts:
            data = text.encode()
            tails = {
                text[:size].encode(): tuple(self._tokenizer.encode(text[size:], bos=False)[:_LONGEST_TAIL])
                for size in range(1, len(text))
            }
            endings = tuple(tails)
            for token, piece in tokens:
                if data in piece:
                    found.add((token, ()))
                elif endings and piece.endswith(endings):
                    found.update((token, tail) for start, tail in tails.items() if piece.endswith(start))
        ordered = sorted(found)
        starts = np.cumsum([0, *(len(tail) for _, tail in ordered)]).astype(np.int32)
        return _ids(head for head, _ in ordered), starts, _ids(token for _, tail in ordered for token in tail)


class BadWord:
    """A text that must not come up, whichever tokens spell it: inside a longer word too."""

    def __init__(self, texts: TokenTexts, data: bytes) -> None:
        self._texts = texts
        self._data = data
        self._whole = texts.containing(data)
        self._rest = lru_cache(maxsize=None)(self._completing)

    def __len__(self) -> int:
        """Bytes."""
        return len(self._data)

    def forbidden(self, tail: bytes) -> list[Ids]:
        """The tokens that would complete it after a text that ends so."""
        begun = range(1, min(len(self._data) - 1, len(tail)) + 1)
        return [self._whole, *(self._rest(size) for size in begun if tail.endswith(self._data[:size]))]

    def _completing(self, size: int) -> Ids:
        return self._texts.starting_with(self._data[size:])


def tail_of(texts: Sequence[bytes], answer: Sequence[int], size: int) -> bytes:
    """The last `size` bytes of an answer, or all."""
    pieces: list[bytes] = []
    length = 0
    for token in reversed(answer):
        if length >= size:
            break
        pieces.append(texts[token])
        length += len(pieces[-1])
    whole = b"".join(reversed(pieces))
    return whole[max(0, len(whole) - size) :]


def _ids(tokens: Iterable[int]) -> Ids:
    return np.fromiter(tokens, np.int32)
