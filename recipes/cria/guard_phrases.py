"""What guard messages are made of: verb phrases, harmful and harmless, and the frames that they stand in.

Held-out phrases are pairs of verb and object that training never sees together; each of their words is seen in others.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from recipes.cria.conversation import Language, Split
from recipes.cria.guard_prompt import CATEGORIES

_DATA = Path(__file__).parent / "word_lists"
_HELD_OUT_EVERY = 5  # one pair in so many


@dataclass(frozen=True)
class Phrases:
    """Verb phrases of one split, group by group, so that a small group weighs as much as a large one."""

    groups: tuple[tuple[str, ...], ...]

    def pick(self, rng: random.Random) -> str:
        return rng.choice(rng.choice(self.groups))


@dataclass(frozen=True)
class GuardWords:
    """What messages of one language and split are made of."""

    unsafe: dict[str, Phrases]
    near_misses: dict[str, Phrases]
    about: dict[str, Phrases]
    everyday: Phrases
    topics: tuple[str, ...]
    frames: tuple[str, ...]
    topic_frames: tuple[str, ...]
    joint_frames: tuple[str, ...]
    complies: tuple[str, ...]
    informs: tuple[str, ...]
    refuses: tuple[str, ...]
    agent_small_talk: tuple[str, ...]
    user_small_talk: tuple[str, ...]

    def phrases(self) -> Iterator[str]:
        by_category = (*self.unsafe.values(), *self.near_misses.values(), *self.about.values())
        return (phrase for phrases in (*by_category, self.everyday) for group in phrases.groups for phrase in group)


@functools.cache
def guard_words(language: Language, split: Split) -> GuardWords:
    data = yaml.safe_load((_DATA / f"guard_{language}.yaml").read_text(encoding="utf-8"))
    lists = {name: _items(text) for name, text in data["lists"].items()}
    join = " " if language == "en" else ""
    # Two groups may share a phrase: training's claim on it comes first.
    trained = frozenset(guard_words(language, "train").phrases()) if split == "held_out" else frozenset()

    def phrases(groups: Sequence[dict[str, str]]) -> Phrases:
        made = []
        for group in groups:
            objects = lists.get(group["objects"]) or _items(group["objects"])
            pairs = _pairs(_items(group["verbs"]), objects, join, split)
            made.append(tuple(phrase for phrase in pairs if phrase not in trained))
        return Phrases(tuple(group for group in made if group))

    def side(entry: dict[str, str]) -> tuple[str, ...]:
        return _items(entry[split])

    about = data["about"]
    everyday = [group["objects"] for group in data["everyday"]]
    nouns = [data[category]["nouns"] for category in CATEGORIES]
    return GuardWords(
        unsafe={category: phrases(data[category]["unsafe"]) for category in CATEGORIES},
        near_misses={category: phrases(data[category]["safe"]) for category in CATEGORIES},
        about={category: phrases([{"verbs": about, "objects": data[category]["nouns"]}]) for category in CATEGORIES},
        everyday=phrases(data["everyday"]),
        topics=tuple(topic for text in nouns + everyday for topic in _items(text)),
        frames=side(data["frames"]),
        topic_frames=side(data["topic_frames"]),
        joint_frames=_items(data["frames"]["both"]),
        complies=side(data["agent"]["complies"]),
        informs=side(data["agent"]["informs"]),
        refuses=side(data["agent"]["refuses"]),
        agent_small_talk=side(data["small_talk"]["agent"]),
        user_small_talk=side(data["small_talk"]["user"]),
    )


def _pairs(verbs: Sequence[str], objects: Sequence[str], join: str, split: Split) -> tuple[str, ...]:
    """Each verb with each object; a diagonal of the table is held out, so that no row and no column is."""
    return tuple(
        verb.replace("{}", thing) if "{}" in verb else verb + join + thing
        for row, verb in enumerate(verbs)
        for column, thing in enumerate(objects)
        if ((row + column) % _HELD_OUT_EVERY == 0) == (split == "held_out")
    )


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split("|"))


def to_second_person(phrase: str) -> str:
    """What the user calls his own is the agent's "your". Chinese has few such words, and 我的 changes alike."""
    phrase = re.sub(r"\bmyself\b", "yourself", phrase)
    phrase = re.sub(r"\bmy\b", "your", phrase)
    phrase = re.sub(r"\b(me|I)\b", "you", phrase)
    return phrase.replace("you am", "you are").replace("我", "你")
