"""`[f(a=1, b="x"), g()]`: Llama 3.2's zero-shot calls (Meta's `tool_utils.py`), read with `ast`, never evaluated.

Arguments are keywords with literal values. Models mix languages, so JSON's true, false and null are read as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pronk.text.messages import ToolCall
from pronk.text.tool_parsers.syntax import Found, Verdict, make_call

_HEAD = re.compile(r"\[\s*([^\W\d][\w.]*)?(\s*\()?")
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[\[\](){}"\']', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_JSON_NAMES = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class PythonicCalls:
    """A list of calls where an answer starts. All its calls must have been offered; else all of it is content."""

    names: frozenset[str]
    marker: None = None

    def read(self, text: str, since: int, final: bool) -> Found | Verdict:
        head = _HEAD.match(text)
        if head is None:
            return Verdict.NO
        name, opened = head[1] or "", head[2]
        if not opened:
            return self._partial(name, text[head.end() :])
        if name not in self.names:
            return Verdict.NO
        if not final and "]" not in text[since:]:
            return Verdict.MAYBE
        end = _list_end(text)
        if end is None:
            return Verdict.MAYBE
        tree = parse_expression(text[:end])
        if not isinstance(tree, ast.List):
            return Verdict.NO
        calls = [_read_call(element, self.names) for element in tree.elts]
        whole = [call for call in calls if call is not None]
        return Found(tuple(whole), end) if len(whole) == len(calls) else Verdict.NO

    def _partial(self, name: str, rest: str) -> Verdict:
        """Before the first parenthesis: may this still become the name of an offered function?"""
        possible = any(known.startswith(name) for known in self.names) if not rest else name in self.names
        return Verdict.MAYBE if possible and not rest.strip() else Verdict.NO


def _list_end(text: str) -> int | None:
    """Where the list that opens `text` ends, strings skipped; None while it is open."""
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "[({":
            depth += 1
        elif token[0] in "])}":
            depth -= 1
            if depth == 0:
                return token.end()
        elif token[0] in "\"'":
            return None  # a string that is still open
    return None


def parse_expression(source: str) -> ast.expr | None:
    """The tree of one Python expression; None where it is none. Nothing is ever evaluated."""
    try:
        return ast.parse(_ESCAPE.sub(_known_escape, source), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning):
        return None


def _known_escape(match: re.Match[str]) -> str:
    r"""A backslash that Python would warn about ("\d" in a pattern, say) is doubled: it means itself."""
    return match[0] if match[1] in "\\'\"\nabfnrtv0123xNuU" else "\\" + match[0]


def _read_call(node: ast.expr, names: Collection[str]) -> ToolCall | None:
    """`name(key=literal, ...)` as a call; None for anything else. A name may be dotted."""
    if not isinstance(node, ast.Call) or node.args:
        return None
    name = _dotted_name(node.func)
    if name is None or name not in names:
        return None
    arguments = read_keywords(node)
    return None if arguments is None else make_call(name, arguments)


def read_keywords(node: ast.Call) -> dict[str, Any] | None:
    """The keyword arguments of a call; None where one is not a literal."""
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            return None  # **kwargs
        try:
            arguments[keyword.arg] = _literal(keyword.value)
        except (ValueError, RecursionError):
            return None
    return arguments


def _dotted_name(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _literal(node: ast.expr) -> Any:
    """The JSON value that a literal means. Raises ValueError for an expression that is no such literal."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | int | float)):
        return node.value
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _literal(node.operand)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    raise ValueError("not a literal")


def _key(node: ast.expr | None) -> str:
    value = None if node is None else _literal(node)
    if isinstance(value, str):
        return value
    raise ValueError("a JSON object's keys are strings")
