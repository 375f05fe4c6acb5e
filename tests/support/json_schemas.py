"""JSON schemas of growing complexity: leaves, then objects, lists and choices of them, then references."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

LEAVES: list[Schema] = [
    {"type": "boolean"},
    {"type": "null"},
    {"const": {"a": [1, "x", None]}},
    {"enum": ["red", "green", 3, None, 'one "word"']},
    {"type": "integer", "minimum": -5, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 99, "multipleOf": 7, "maximum": 1000},
    {"type": "number", "minimum": 0.5, "exclusiveMaximum": 2},
    {"type": "string", "maxLength": 6},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,3}$"},
    {"type": "string", "pattern": "^(yes|no) ?!*$", "maxLength": 8},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "string", "enum": ["many", "无"]}]},
    {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
]

_LARGEST_PART = 1500  # characters: what is larger is combined no further
_SMALL = {"type": "integer", "minimum": 0, "maximum": 9}
REFERRING: list[Schema] = [
    {"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "prefixItems": [_SMALL, _SMALL], "items": False}}},
    {  # a list of any length, by recursion
        "type": "object",
        "properties": {"value": _SMALL, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    },
    {  # a tree
        "$ref": "#/$defs/tree",
        "$defs": {
            "leaf": {"type": "boolean"},
            "tree": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "array", "items": {"$ref": "#/$defs/tree"}}]},
        },
    },
    {
        "allOf": [
            {"type": "object", "properties": {"id": _SMALL}, "required": ["id"]},
            {"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}}, "required": ["name"]},
        ],
        "additionalProperties": False,
        "properties": {"id": {}, "name": {}},
    },
]


def _combined(rng: random.Random, parts: list[Schema]) -> Schema:
    kind = rng.choice(["object", "object", "list", "tuple", "choice"])
    if kind == "choice":
        return {"anyOf": parts}
    if kind == "tuple":
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
    if kind == "list":
        low = rng.randrange(3)
        return {"type": "array", "items": parts[0], "minItems": low, "maxItems": low + rng.randrange(1, 3)}
    names = [f"{rng.choice(['name', 'größe', 'a-b', '$x', 'k'])}{i}" for i in range(len(parts))]
    return {
        "type": "object",
        "properties": dict(zip(names, parts, strict=True)),
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": rng.choice([False, False, _SMALL]),
        "description": "said to people alone",
    }


def schemas(count: int = 300, seed: int = 5) -> list[Schema]:
    """The leaves, those that refer, and combinations of up to three of what came before, each time deeper; all
    different."""
    rng = random.Random(seed)
    made = [*LEAVES, *REFERRING]
    parts = list(LEAVES)
    while len(made) < count:
        schema = _combined(rng, rng.sample(parts, rng.randrange(1, 4)))
        if schema in made:
            continue
        made.append(schema)
        if len(str(schema)) < _LARGEST_PART:
            parts = [*parts[-24:], schema]
        else:
            parts = [*parts[-23:], rng.choice(LEAVES)]
    return made
