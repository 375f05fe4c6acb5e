"""Ids as text for interfaces that show tokens one by one: each token's share of the text, and where it lies in it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer


def written_out(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of ids with control tokens by their names. Raises TokenizerError for an id out of range."""
    names = {token: name for name, token in tokenizer.special_ids.items()}
    text, stretch = "", list[int]()
    for token in ids:
        if token in names:
            text += tokenizer.decode(stretch) + names[token]
            stretch = []
        else:
            stretch.append(token)
    return text + tokenizer.decode(stretch)


@dataclass(frozen=True)
class Located:
    """A token of a text, and the characters [start, stop) that it covers: of a character that falls into several
    tokens, each covers the whole. A control token that encoding added covers none."""

    id: int
    text: str
    start: int
    stop: int


def located(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[Located]:
    """Where the tokens of `tokenizer.encode(text, ...)` lie in `text`. A tokenizer that changes texts before it cuts
    them leaves nothing to point at: every token is then at 0, with the text that it stands for."""
    names = {token: name.encode() for name, token in tokenizer.special_ids.items()}
    data = text.encode()
    named = [names.get(token) or tokenizer.token_bytes(token) for token in ids]
    bos_added = [b"", *named[1:]] if ids and ids[0] in names else named
    for parts in (named, bos_added):
        joined = b"".join(parts)
        extra = len(joined) - len(data)
        if extra >= 0 and joined[extra:] == data and not joined[:extra].strip(b" "):  # sentencepiece's own space
            return _spans(text, ids, parts, extra)
    return [Located(token, tokenizer.token_text(token), 0, 0) for token in ids]


def _spans(text: str, ids: Sequence[int], parts: Sequence[bytes], skip: int) -> list[Located]:
    """`skip`: bytes at the start of the parts that are not in the text."""
    starts = [0, *accumulate(len(character.encode()) for character in text)]  # of characters, in bytes
    found, end = [], -skip
    for token, part in zip(ids, parts, strict=True):
        begin, end = end, end + len(part)
        if end <= 0 or not part:
            at = bisect_right(starts, max(begin, 0)) - 1
            found.append(Located(token, "", at, at))
            continue
        start, stop = bisect_right(starts, max(begin, 0)) - 1, bisect_left(starts, end)
        found.append(Located(token, text[start:stop], start, stop))
    return found


class TokenTexts:
    """The text that each token of an answer adds: joined, the text of all. A token whose bytes end inside a character
    adds nothing of it; the one that ends the character adds the whole."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.special_ids.values())
        shown = any(tokenizer.token_bytes(token) for token in reversed(prompt))
        self._decoder = StreamDecoder(tokenizer, continuation=shown)

    def is_special(self, token: int) -> bool:
        return token in self._special

    def feed(self, token: int) -> str:
        return self._decoder.feed(token)

    def finish(self) -> str:
        """What half a character at the end becomes."""
        return self._decoder.finish()
