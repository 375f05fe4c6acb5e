"""Reads an answer as it arrives, over ids, and cuts it into text that may be shown and calls that are whole.

Control tokens count by id alone: the text "<|python_tag|>" that a model spells out is text. What is held back is as
little as the syntaxes allow, and what comes out in the end does not depend on how the ids arrived.

Where a call may be: at the answer's start (after spaces), after the python tag, after another call, and, for syntaxes
with a marker of their own, anywhere. A call counts if its function was offered; after the python tag, text that is no
such call is code where "code_interpreter" was offered, and content otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from pronk.text.messages import Delta, ToolCall, new_call_id
from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer
from pronk.text.tool_parsers.syntax import CallSyntax, Found, Verdict

CODE_INTERPRETER = "code_interpreter"
_BETWEEN_CALLS = " \t\r\n;"


class _At(Enum):
    """Where in the answer the held text begins."""

    START = "the answer's start"
    TAGGED = "after the python tag"
    AFTER_CALL = "after a call"
    CONTENT = "amid content"
    CODE = "in code that runs to the end"


class AnswerReader:
    """The AnswerParser of every format. Without syntaxes (no tools offered) all text is content, at once."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        syntaxes: Sequence[CallSyntax] = (),
        *,
        tag_id: int | None = None,
        code: bool = False,
        spelled: Mapping[int, str] | None = None,
    ) -> None:
        """`tag_id`: the python tag. `code`: untyped text after it is a call of the code interpreter.
        `spelled`: control tokens that belong to a syntax, by the text that they stand for."""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._syntaxes = tuple(syntaxes)
        self._markers = [syntax for syntax in syntaxes if syntax.marker is not None]
        self._tag_id = tag_id
        self._code = code
        self._spelled = spelled or {}
        self._at = _At.START if syntaxes or code else _At.CONTENT
        self._held = ""
        self._seen = 0  # how much of the held text was a MAYBE before
        self._content: list[str] = []
        self._calls: list[ToolCall] = []

    def feed(self, ids: Sequence[int]) -> Delta:
        """What these ids add. Control tokens never show."""
        for token_id in ids:
            if token_id == self._tag_id:
                self._end_stretch()
                if self._syntaxes or self._code:
                    self._at = _At.TAGGED
            elif token_id in self._spelled:
                self._held += self._end_text() + self._spelled[token_id]
            else:
                self._held += self._decoder.feed(token_id)
        self._read(final=False)
        return self._take()

    def finish(self) -> Delta:
        """What was held back. Call it once, at the end."""
        self._end_stretch()
        return self._take()

    def _end_stretch(self) -> None:
        """No text follows what is held: decide it."""
        self._held += self._end_text()
        self._read(final=True)

    def _end_text(self) -> str:
        """The end of a character that is cut off by a control token or the answer's end."""
        text = self._decoder.finish()
        self._decoder = StreamDecoder(self._tokenizer, continuation=True)
        return text

    def _take(self) -> Delta:
        delta = Delta("".join(self._content), tuple(self._calls))
        self._content, self._calls = [], []
        return delta

    def _read(self, final: bool) -> None:
        """Decide as much of the held text as can be decided."""
        while self._held or (final and self._at is _At.CODE):
            if self._at is _At.CODE:
                if final:
                    self._emit_code()
                return
            if not (self._read_content(final) if self._at is _At.CONTENT else self._read_call(final)):
                return

    def _read_call(self, final: bool) -> bool:
        """Judge held text that stands where a call may. True if that changed where we are."""
        padding = _BETWEEN_CALLS if self._at is _At.AFTER_CALL else None
        text = self._held.lstrip(padding)
        skipped = len(self._held) - len(text)
        verdict = self._judge(text, max(0, self._seen - skipped), final) if text else Verdict.MAYBE
        if isinstance(verdict, Found):
            self._accept(verdict, skipped)
            return True
        if verdict is Verdict.MAYBE and not final:
            self._seen = len(self._held)
            return False
        if not text and self._at is not _At.START:
            self._held = ""  # spaces after the last call
            return False
        self._at = _At.CODE if self._at is _At.TAGGED and self._code else _At.CONTENT
        self._seen = 0
        return True

    def _judge(self, text: str, since: int, final: bool) -> Found | Verdict:
        verdict = Verdict.NO
        for syntax in self._syntaxes:
            found = syntax.read(text, since, final)
            if isinstance(found, Found):
                return found
            if found is Verdict.MAYBE:
                verdict = Verdict.MAYBE
        return verdict

    def _read_content(self, final: bool) -> bool:
        """Release content up to the next marker, or to what may yet become one. True if a call was read."""
        search = 0
        while True:
            at, syntax = self._next_marker(search)
            if syntax is None:
                self._release(len(self._held) if final else len(self._held) - self._marker_tail())
                return False
            self._release(at)
            found = syntax.read(self._held, self._seen, final)
            if isinstance(found, Found):
                self._accept(found, 0)
                return True
            if found is Verdict.MAYBE and not final:
                self._seen = len(self._held)
                return False
            search = 1

    def _next_marker(self, search: int) -> tuple[int, CallSyntax | None]:
        nearest: tuple[int, CallSyntax | None] = (len(self._held), None)
        for syntax in self._markers:
            at = self._held.find(syntax.marker or "", search)
            if 0 <= at < nearest[0]:
                nearest = (at, syntax)
        return nearest

    def _marker_tail(self) -> int:
        """How many characters at the end of the held text may be the beginning of a marker."""
        longest = 0
        for syntax in self._markers:
            marker = syntax.marker or ""
            for length in range(min(len(marker) - 1, len(self._held)), longest, -1):
                if self._held.endswith(marker[:length]):
                    longest = length
                    break
        return longest

    def _accept(self, found: Found, skipped: int) -> None:
        self._calls += found.calls
        self._held = self._held[skipped + found.end :]
        self._seen = 0
        self._at = _At.AFTER_CALL

    def _release(self, count: int) -> None:
        if count:
            self._content.append(self._held[:count])
            self._held = self._held[count:]
            self._seen = 0

    def _emit_code(self) -> None:
        if self._held.strip():
            self._calls.append(ToolCall(new_call_id(), CODE_INTERPRETER, {"code": self._held}))
        self._held = ""
        self._at = _At.CONTENT
