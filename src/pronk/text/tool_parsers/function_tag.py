"""`<function=f>{json}</function>`: Llama 3.1's other form for custom tools (llama-models, `tool_utils.py`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pronk.text.tool_parsers.syntax import Found, Verdict, decode_closed_json, make_call

_OPEN = "<function="
_CLOSE = "</function>"
_HEAD = re.compile(r"<function=([^<>{}\n]*)(>?)")


@dataclass(frozen=True)
class FunctionTag:
    """A tag anywhere in an answer, several one after the other."""

    names: frozenset[str]
    marker: str = _OPEN

    def read(self, text: str, since: int, final: bool) -> Found | Verdict:
        head = _HEAD.match(text)
        if head is None:
            return Verdict.MAYBE if _OPEN.startswith(text) else Verdict.NO
        name, opened = head[1].strip(), head[2]
        if not opened:
            known = head.end() == len(text) and any(offered.startswith(name) for offered in self.names)
            return Verdict.MAYBE if known else Verdict.NO
        if name not in self.names:
            return Verdict.NO
        if not final and since > head.end() and not {"}", ">"} & set(text[since:]):
            return Verdict.MAYBE
        decoded = decode_closed_json(text, head.end(), _CLOSE, final)
        if isinstance(decoded, Verdict):
            return decoded
        call = make_call(name, decoded[0])
        return Found((call,), decoded[1]) if call else Verdict.NO
