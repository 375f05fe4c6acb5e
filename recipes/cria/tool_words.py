"""The wordings and word lists of `word_lists/tools_words.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

WORD_LISTS = Path(__file__).parent / "word_lists"


@cache
def phrases(name: str) -> tuple[str, ...]:
    """Alternatives, which "|" stands between."""
    return alternatives(_lists()[name])


@cache
def entries(name: str) -> tuple[tuple[str, ...], ...]:
    """A list of words: (word, Chinese) or (word, Chinese, kind of value)."""
    return tuple(tuple(entry.strip().split("=", 2)) for entry in _lists()[name].split(","))


def alternatives(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())


def read_yaml(name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
    found: dict[str, Any] = yaml.load((WORD_LISTS / name).read_text(encoding="utf-8"), Loader=loader)
    return found


@cache
def _lists() -> dict[str, str]:
    return {name: str(text) for name, text in read_yaml("tools_words.yaml").items()}
