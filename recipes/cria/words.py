"""Names, places, things, animals and made-up words: what sentences are filled with.

Real ones come from `word_lists/`, made ones from syllables. Whether a word is for training or held out is a property of
the word itself (a hash), so no other list has to be kept, and a word never changes sides when a list grows. Of a thing,
only the noun counts: no training text has the noun of a held-out thing as its subject, in any colour.

Some of training's things and animals are made up too. A model that only ever saw two hundred nouns learns those, and
says the likeliest of them; one that meets new ones all the time has to copy.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from recipes.cria.conversation import Language, Split

ThingKind = Literal["hard", "soft", "food", "nature"]
THING_KINDS: tuple[ThingKind, ...] = ("hard", "soft", "food", "nature")
HELD_OUT_SHARE = 10  # one word in so many is held out
MADE_UP_SHARE = 0.35  # of training's things and animals
_WORD_LISTS = Path(__file__).parent / "word_lists"


@dataclass(frozen=True)
class Thing:
    """Something to hold. `text` is what a user asks for ("red kite", "红色的风筝"); Chinese counts it by `measure`."""

    text: str
    noun: str
    kind: ThingKind
    measure: str = ""


def split_of(word: str) -> Split:
    """Which side a word is on: the same for ever, on every machine."""
    return "held_out" if zlib.crc32(word.encode()) % HELD_OUT_SHARE == 0 else "train"


def name(rng: random.Random, language: Language, split: Split) -> str:
    """A personal name: half of the English ones are made up, and half of the Chinese ones are nicknames."""
    if language == "en":
        return (_real_name if rng.random() < 0.5 else _made_name)(rng, split)
    return (_nickname if rng.random() < 0.5 else _given_name)(rng, split)


def known_name(rng: random.Random, language: Language, split: Split) -> str:
    """A name that nobody gave and that comes easily: a real one in English, 小 and a character in Chinese."""
    if language == "en":
        return _real_name(rng, split)
    return until(split, lambda: f"小{rng.choice(_list('zh', 'nickname.characters'))}")


def gender(name: str) -> Literal["he", "she"]:
    """How a story speaks of someone. A made-up name goes by its ending, so that there is something to learn."""
    if name in _list("en", "girls"):
        return "she"
    return "she" if name not in _list("en", "boys") and name.endswith(("a", "i")) else "he"


def place(rng: random.Random, language: Language, split: Split) -> str:
    """A town: half of them real."""
    if rng.random() < 0.5:
        return rng.choice(_side(language, "towns", split))
    return until(split, lambda: _made_town(rng, language))


def animal(rng: random.Random, language: Language, split: Split, *, known: bool = False) -> str:
    """A kind of animal, in one or two words. `known`: none that is made up."""
    if split == "train" and not known and rng.random() < MADE_UP_SHARE:
        return _noun(rng, language)
    return rng.choice(_side(language, "animals", split))


def thing(rng: random.Random, language: Language, split: Split) -> str:
    """Something to hold, without an article: "kite" or, as often, "red kite"."""
    return any_thing(rng, language, split).text


def any_thing(
    rng: random.Random, language: Language, split: Split, kinds: tuple[ThingKind, ...] = THING_KINDS,
    *, known: bool = False,
) -> Thing:  # fmt: skip
    """`thing`, with what a story has to know of it. Kinds are as likely as they have words. `known`: none made up."""
    made_up = split == "train" and not known and rng.random() < MADE_UP_SHARE
    pairs = [(kind, noun) for kind in kinds for noun in _things(language, kind, split)]
    kind, entry = rng.choice(pairs)
    measure, _, noun = entry.rpartition("|")
    if made_up:
        noun = _noun(rng, language)
    if rng.random() < 0.5:
        return Thing(noun, noun, kind, measure)
    fitting = [a for a in _list(language, "adjectives.any") + _list(language, f"adjectives.{kind}") if a not in noun]
    text = rng.choice(fitting) + (" " if language == "en" else "") + noun
    return Thing(text, noun, kind, measure)


def word(rng: random.Random, language: Language, split: Split) -> str:
    """A word that nobody knows: all there is to do with it is to copy it."""
    return until(split, lambda: _made_word(rng, language))


@cache
def chinese_characters() -> frozenset[str]:
    """Every character that a Chinese name, place, word, thing or animal is made of, on either side."""
    entries = (entry.rpartition("|")[2].replace("{}", "") for entries in _lists("zh").values() for entry in entries)
    return frozenset("".join(entries))


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    vowel = noun[0].lower() in "aeio" or (noun[0].lower() == "u" and noun[:3] not in ("uni", "uku"))
    return f"{'an' if vowel else 'a'} {noun}"


def _real_name(rng: random.Random, split: Split) -> str:
    return rng.choice(_side("en", "girls", split) + _side("en", "boys", split))


def _made_name(rng: random.Random, split: Split) -> str:
    def make() -> str:
        middle = rng.choice(_list("en", "name.middle")) if rng.random() < 0.4 else ""
        return rng.choice(_list("en", "name.first")) + middle + rng.choice(_list("en", "name.last"))

    return until(split, make)


def _nickname(rng: random.Random, split: Split) -> str:
    def make() -> str:
        character = rng.choice(_list("zh", "nickname.characters"))
        return rng.choice(_list("zh", "nickname.frames")).replace("{}", character)

    return until(split, make)


def _given_name(rng: random.Random, split: Split) -> str:
    """With or without its surname."""

    def make() -> str:
        given = "".join(rng.sample(_list("zh", "given.characters"), rng.choice((1, 2, 2))))
        return given if len(given) == 2 and rng.random() < 0.5 else rng.choice(_list("zh", "surnames")) + given

    return until(split, make)


def _made_town(rng: random.Random, language: Language) -> str:
    parts = ("first", "last") if language == "en" else ("first", "middle", "last")
    return "".join(rng.choice(_list(language, f"town.{part}")) for part in parts)


def _made_word(rng: random.Random, language: Language) -> str:
    if language == "zh":
        return "".join(rng.sample(_list("zh", "word.characters"), rng.choice((2, 2, 3))))
    middle = rng.choice(_list("en", "word.middle")) if rng.random() < 0.5 else ""
    return rng.choice(_list("en", "word.first")) + middle + rng.choice(_list("en", "word.last"))


def _noun(rng: random.Random, language: Language) -> str:
    """A noun that nobody knows, and of training: parts of two English words, or any Chinese characters."""
    if language == "zh":
        return until("train", lambda: "".join(rng.sample(_characters(), rng.choice((1, 2, 2, 2, 3)))))

    def make() -> str:
        first, last = rng.choice(_nouns()), rng.choice(_nouns())
        return first[: rng.randint(1, len(first) - 1)] + last[rng.randint(1, len(last) - 1) :]

    while not 3 <= len(noun := until("train", make)) <= 9 or noun in _nouns():
        pass
    return noun


@cache
def _characters() -> tuple[str, ...]:
    return tuple(sorted(chinese_characters()))


@cache
def _nouns() -> tuple[str, ...]:
    lists = ("animals", *(f"things.{kind}" for kind in THING_KINDS))
    return tuple(noun for name in lists for noun in _list("en", name) if noun.isalpha())


def until(split: Split, make: Callable[[], str]) -> str:
    """Made again and again, until it is on that side."""
    while split_of(made := make()) != split:
        pass
    return made


def _things(language: Language, kind: ThingKind, split: Split) -> tuple[str, ...]:
    return _side(language, f"things.{kind}", split)


@cache
def _side(language: Language, list_name: str, split: Split) -> tuple[str, ...]:
    """The entries of one split. Before a "|" stands a measure word, which is on no side."""
    return tuple(entry for entry in _list(language, list_name) if split_of(entry.rpartition("|")[2]) == split)


def _list(language: Language, list_name: str) -> tuple[str, ...]:
    return _lists(language)[list_name]


@cache
def _lists(language: Language) -> dict[str, tuple[str, ...]]:
    lists: dict[str, tuple[str, ...]] = {}
    for block in (_WORD_LISTS / f"{language}.txt").read_text(encoding="utf-8").split("\n[")[1:]:
        heading, _, body = block.partition("]\n")
        lists[heading] = tuple(entry.strip() for entry in body.replace("\n", ",").split(",") if entry.strip())
    return lists
