"""`<tool_call>{"name": "f", "arguments": {...}}</tool_call>`: the form of Hermes, Qwen and SmolLM fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass

from pronk.text.tool_parsers.syntax import Found, Verdict, decode_closed_json, find_call

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


@dataclass(frozen=True)
class ToolCallTag:
    """A tag anywhere in an answer, several one after the other."""

    names: frozenset[str]
    marker: str = OPEN

    def read(self, text: str, since: int, final: bool) -> Found | Verdict:
        if not text.startswith(OPEN):
            return Verdict.MAYBE if OPEN.startswith(text) else Verdict.NO
        if not final and since > len(OPEN) and not {"}", ">"} & set(text[since:]):
            return Verdict.MAYBE
        decoded = decode_closed_json(text, len(OPEN), CLOSE, final)
        if isinstance(decoded, Verdict):
            return decoded
        call = find_call(decoded[0], self.names)
        return Found((call,), decoded[1]) if call else Verdict.NO
