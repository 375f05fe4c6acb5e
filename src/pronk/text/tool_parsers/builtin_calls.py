"""`brave_search.call(query="...")`: Llama 3.1's built-in tools (llama-models, `tool_utils.py`)."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from pronk.text.tool_parsers.pythonic_calls import parse_expression, read_keywords
from pronk.text.tool_parsers.syntax import Found, Verdict, make_call

_HEAD = re.compile(r"(\w+)\.call\(")
_QUERY = re.compile(r"""\w+\.call\(\s*(\w+)\s*=\s*(["'])(.*)\2\s*\)\s*""", re.DOTALL)


@dataclass(frozen=True)
class BuiltinCalls:
    """One call where an answer starts. Quotes inside the query need not be escaped: when no `)` ends a well-formed
    call, the query is what stands between the first quote and the last."""

    names: frozenset[str]
    marker: None = None

    def read(self, text: str, since: int, final: bool) -> Found | Verdict:
        head = _HEAD.match(text)
        if head is None:
            return Verdict.MAYBE if any(f"{name}.call(".startswith(text) for name in self.names) else Verdict.NO
        if head[1] not in self.names:
            return Verdict.NO
        close = text.find(")", max(since, head.end()))
        while close >= 0:
            tree = parse_expression(text[: close + 1])
            if isinstance(tree, ast.Call):
                arguments = None if tree.args else read_keywords(tree)
                call = make_call(head[1], arguments) if arguments else None
                return Found((call,), close + 1) if call else Verdict.NO
            close = text.find(")", close + 1)
        loose = _QUERY.fullmatch(text) if final else None
        if loose is None:
            return Verdict.MAYBE
        loose_call = make_call(head[1], {loose[1]: loose[3].replace('\\"', '"')})
        return Found((loose_call,), len(text)) if loose_call else Verdict.NO
