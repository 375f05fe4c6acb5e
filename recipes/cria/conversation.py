"""What the corpus is made of: exchanges, and conversations of several.

A skill makes exchanges; the corpus strings exchanges of several skills into conversations. What evaluation asks comes
from the same generators with split "held_out", whose names, phrasings, numbers and tools training never sees.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pronk.text.messages import Message, Tool

Language = Literal["en", "zh"]
Split = Literal["train", "held_out"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class Exchange:
    """Something asked and answered. `expect` is what evaluation asserts about the answers, in the skill's own words."""

    skill: str
    language: Language
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    expect: Mapping[str, Any] = field(default_factory=dict)


class Skill(Protocol):
    """A module of `recipes.cria.skills`: one thing that the model can do."""

    def exchange(self, rng: random.Random, language: Language, split: Split) -> Exchange: ...
