"""Requests that are made to hurt a server: templates, expressions and schemas that cost much, never end, or are none.

A server refuses each, or answers it at a bounded cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

Body = dict[str, Any]
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
_MESSAGES = [{"role": "user", "content": "Hello"}]
_TOKENS = 8

# Each takes a size, which grows from round to round.
TEMPLATES: tuple[Callable[[int], str], ...] = (
    lambda n: "{% for a in range(N) %}{% for b in range(N) %}x{% endfor %}{% endfor %}".replace("N", str(10**n)),
    lambda n: "{{ 'a' * N }}".replace("N", str(10**n)),
    lambda n: "{{ N ** N ** N }}".replace("N", str(9 * n)),
    lambda n: "{{ '%Ns' % 'a' }}".replace("N", str(10**n)),
    lambda n: "{% macro m() %}" + "{{ m() }}" * n + "{% endmacro %}{{ m() }}",
    lambda n: (
        "{% set s = namespace(x='a') %}{% for i in range(N) %}{% set s.x = s.x ~ s.x %}{% endfor %}{{ s.x }}".replace(
            "N", str(10 * n)
        )
    ),
    lambda n: "{{ messages" + ".__class__.__mro__[1].__subclasses__()" * n + " }}",
    lambda n: "{{ " + "(" * 50 * n + "1" + ")" * 50 * n + " }}",
    lambda n: "{% if " * n,
    lambda n: "{{ messages | map(attribute='content') | join('a' * N) }}".replace("N", str(10**n)),
)
EXPRESSIONS: tuple[Callable[[int], str], ...] = (
    lambda n: "(a+)+" * n + "b",
    lambda n: "(" * n + "a|aa" + ")+" * n,
    lambda n: "a{N}".replace("N", str(10**n)),
    lambda n: "(a{1,99}){1,N}".replace("N", str(10**n)),
    lambda n: "(.*a){N}".replace("N", str(20 * n)),
    lambda n: "(a|b)*a(a|b){N}".replace("N", str(8 * n)),
    lambda n: r"(\p{L}|\p{N}){1,N}".replace("N", str(10**n)),
    lambda n: "(?=a)" * n + "a",
    lambda n: "(a" * 500 * n,
    lambda n: "|".join(f"{i:x}{'z' * i}" for i in range(20 * n)),
)
SCHEMAS: tuple[Callable[[int], Any], ...] = (
    lambda n: _nested(25 * n),
    lambda n: {"enum": [f"{i}" * 20 for i in range(500 * n)]},
    lambda n: {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * n}}},
    lambda n: {"type": "string", "pattern": "^(a+)+$" * n},
    lambda n: {"type": "string", "minLength": 10**n, "maxLength": 10**n},
    lambda n: {"type": "array", "minItems": 10**n, "maxItems": 10**n, "items": {"type": "array", "minItems": 10**n}},
    lambda n: {"type": "number", "multipleOf": 1 / 10**n, "minimum": 0, "maximum": 10**-n},
    lambda n: {"allOf": [{"properties": {f"k{i}": {"type": "string"}}} for i in range(30 * n)]},
    lambda n: {"type": "object", "properties": {f"k{i}": {"enum": list(range(30))} for i in range(100 * n)}},
    lambda n: {"type": "integer", "minimum": 10**n, "maximum": -(10**n)},
    lambda n: {"type": "no such type" * n},
    lambda n: {"anyOf": [{"const": "a" * i} for i in range(1, 100 * n)], "uniqueItems": True, "not": {}},
)


def hostile(total: int) -> list[tuple[str, str, Body]]:
    """(kind, path, body), a third of each kind."""
    parts = [
        islice(_sized("template", TEMPLATES), total - 2 * (total // 3)),
        islice(_sized("regex", EXPRESSIONS), total // 3),
        islice(_sized("schema", SCHEMAS), total // 3),
    ]
    return [(kind, *_body(kind, source)) for part in parts for kind, source in part]


def _sized(kind: str, families: tuple[Callable[[int], Any], ...]) -> Iterator[tuple[str, Any]]:
    for size in count(1):
        for family in families:
            yield kind, family(size)


def _body(kind: str, source: Any) -> tuple[str, Body]:
    if kind == "template":
        return CHAT, {"messages": _MESSAGES, "max_tokens": _TOKENS, "chat_template": source}
    if kind == "regex":
        return COMPLETE, {"prompt": "Hello", "max_tokens": _TOKENS, "guided_regex": source}
    return COMPLETE, {"prompt": "Hello", "max_tokens": _TOKENS, "guided_json": source}


def _nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema
