"""A text in two vocabularies: a request's, of whose tokens it consists, and a draft's, which reads it and goes on.

The text is handed over, not the tokens. The draft reads it in its own tokens; what it says is encoded as the request's
tokeniser would encode it behind the text before. The last token of that is dropped, for it may go on: of "the" nobody
knows whether "there" was meant. All of it is a guess and may be wrong; the model decides.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer

_TAIL = 400  # characters that are encoded again when more text comes, cut before a word where they become twice that
_CONTEXT = 64  # characters of the text before that new text is encoded behind


class Retokenizer:
    """One request's text. Control tokens that both vocabularies have by the same name are kept, others left out."""

    def __init__(self, target: Tokenizer, draft: Tokenizer) -> None:
        self._target, self._draft = target, draft
        self._names = {token: name for name, token in target.special_ids.items()}
        self._read = 0  # of the request's ids
        self._decoder = StreamDecoder(target)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        bos = draft.bos_id
        self._settled: list[int] = [] if bos is None else [bos]  # the draft's ids of the text before the tail
        self._begun = len(self._settled)
        self._tail = ""
        self._ids: list[int] = []  # the draft's, of the whole text

    def read(self, ids: Sequence[int]) -> list[int]:
        """The draft's ids of the text of `ids`, which begin with those of the call before; none while the text ends in
        the middle of a character."""
        for token in ids[self._read :]:
            if (name := self._names.get(token)) is not None:
                self._settle(len(self._tail))
                control = self._draft.special_ids.get(name)
                if control is not None and not (control == self._draft.bos_id and len(self._settled) == self._begun):
                    self._settled.append(control)
            else:
                self._tail += self._decoder.feed(token)
                self._utf8.decode(self._target.token_bytes(token))
        self._read = len(ids)
        if len(self._tail) > 2 * _TAIL:
            self._settle(self._tail.rfind(" ", 0, len(self._tail) - _TAIL))
        if self._utf8.getstate()[0]:
            return []
        self._ids = self._settled + self._in_draft(self._tail)
        return self._ids

    def draft_tokens(self, count: int) -> int:
        """How many of the draft's tokens are about as long as `count` of the request's, by the text so far."""
        return math.ceil(count * max(len(self._ids), 1) / max(self._read, 1))

    def guess(self, said: Sequence[int]) -> list[int]:
        """What the draft said, as the request's tokens."""
        text = self._utf8_text(said)
        # Where its beginning is one token with what stands before it, that is said and done: then as after something
        # that text like this is never one token with.
        for before in (self._tail[-_CONTEXT:], "\n", "a"):
            if before and (ids := _behind(self._target, before, text)) is not None:
                return ids[:-1]
        return []

    def _settle(self, end: int) -> None:
        """The tail up to there is not encoded again."""
        if end > 0:
            self._settled += self._in_draft(self._tail[:end])
            self._tail = self._tail[end:]

    def _in_draft(self, text: str) -> list[int]:
        if len(self._settled) > self._begun and (ids := _behind(self._draft, "\n", text)) is not None:
            return ids
        return self._draft.encode(text, bos=False) if text else []

    def _utf8_text(self, ids: Sequence[int]) -> str:
        """Without the beginning of a character that is not whole."""
        data = b"".join(map(self._draft.token_bytes, ids))
        return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(data)


def _behind(tokenizer: Tokenizer, before: str, text: str) -> list[int] | None:
    """The ids of `text` where it follows `before`; None where a token belongs to both."""
    left = len(text.encode())
    ids = tokenizer.encode(before + text, bos=False)
    for start in range(len(ids), -1, -1):
        if left <= 0:
            return ids[start:] if left == 0 else None
        if start:
            left -= len(tokenizer.token_bytes(ids[start - 1]))
    return None
