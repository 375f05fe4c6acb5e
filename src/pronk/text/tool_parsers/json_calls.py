"""`{"type": "function", "name": "f", "parameters": {...}}`: Llama 3.1's custom tools (Meta's `tool_utils.py`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pronk.text.tool_parsers.syntax import CALL_KEYS, Found, Verdict, decode_json, find_call

_FIRST_KEY = re.compile(r'\{\s*(?:"([^"\\]*)"|[^\s"])')


@dataclass(frozen=True)
class JsonCalls:
    """One JSON object where an answer starts. The reader asks again after it, so several objects are several calls."""

    names: frozenset[str]
    marker: None = None

    def read(self, text: str, since: int, final: bool) -> Found | Verdict:
        if not text.startswith("{"):
            return Verdict.NO
        first_key = _FIRST_KEY.match(text)
        if first_key and first_key[1] not in CALL_KEYS:
            return Verdict.NO  # code, or JSON for the user: let it stream
        if not final and "}" not in text[since:]:
            return Verdict.MAYBE
        decoded = decode_json(text, 0)
        if isinstance(decoded, Verdict):
            return decoded
        call = find_call(decoded[0], self.names)
        return Found((call,), decoded[1]) if call else Verdict.NO
