"""Ids -> text as they arrive: whole characters only, and nothing of a stop string.

What comes out, joined, is what decoding all ids at once and cutting at the stop string gives, however the text falls
into tokens. The stop string that is complete first ends the text; of two that end together, the longer is cut off.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from pronk.text.tokenizer import Tokenizer


class StreamDecoder:
    """The text of one answer. Not to be shared between threads.

    Bytes of a character that is not yet whole are held back, and become U+FFFD once it never can be. Text that may be
    the start of a stop string is held back until it is not. `continuation`: the ids continue a text that is shown
    already, so a sentencepiece token at their start keeps its space.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, continuation: bool = False):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._cutter = StopStrings(stop)
        self._lead: list[int] | None = None if continuation else []  # ids so far, while they have given no text

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text."""
        return self._cutter.stop_string

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text; what is fed after that is ignored."""
        return self.stop_string is not None

    def feed(self, token_id: int) -> str:
        """The text that is certain now. Raises TokenizerError for an id outside the vocabulary."""
        if self.stopped:
            return ""
        data = self._tokenizer.token_bytes(token_id)
        if data and self._lead is not None:
            data = self._first_bytes(token_id, self._lead)
        return self._cutter.feed(self._utf8.decode(data))

    def finish(self) -> str:
        """What was held back, when no more ids come."""
        return self._cutter.feed(self._utf8.decode(b"", final=True)) + self._cutter.finish()

    def _first_bytes(self, token_id: int, lead: list[int]) -> bytes:
        """The bytes at the start of the text: without the spaces that the tokenizer takes back when it decodes it."""
        lead.append(token_id)
        raw = b"".join(map(self._tokenizer.token_bytes, lead))
        text = self._tokenizer.decode(lead)
        taken = (len(raw) - len(raw.lstrip(b" "))) - (len(text) - len(text.lstrip(" ")))
        if raw[taken:]:
            self._lead = None
        return raw[taken:]


class StopStrings:
    """Cuts a text that arrives in parts at the first stop string, and holds back what may be the start of one."""

    def __init__(self, stop: Sequence[str]):
        self.stop_string: str | None = None
        self._matchers = [_Matcher(text) for text in stop if text]
        self._held = ""  # the longest text at the end that may be the start of a stop string

    def feed(self, text: str) -> str:
        """Move every stop string's match along `text`; give what no match can reach back to."""
        if not self._matchers:
            return text
        if self.stop_string is not None:
            return ""
        start = len(self._held)
        self._held += text
        for position, character in enumerate(text, start + 1):
            complete = [m.text for m in self._matchers if m.advance(character)]
            if complete:
                self.stop_string = max(complete, key=len)
                return self._release(position - len(self.stop_string))
        return self._release(len(self._held) - max(m.length for m in self._matchers))

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], "" if self.stop_string is not None else self._held[count:]
        return released


class _Matcher:
    """Knuth, Morris and Pratt's automaton for one stop string; `length` characters of it are matched so far."""

    def __init__(self, text: str):
        self.text = text
        self.length = 0
        self._fallback = [0] * (len(text) + 1)  # by length: the next shorter match that ends at the same place
        for end in range(1, len(text)):
            self._fallback[end + 1] = self._after(self._fallback[end], text[end])

    def advance(self, character: str) -> bool:
        """Whether the stop string is complete with this character."""
        self.length = self._after(self.length, character)
        return self.length == len(self.text)

    def _after(self, length: int, character: str) -> int:
        while length and self.text[length] != character:
            length = self._fallback[length]
        return length + (self.text[length] == character)
