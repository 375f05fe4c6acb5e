"""Values of arguments and results: how they stand in JSON, and how they are said.

A choice stands in JSON in the language of the tools and is said in the user's; everything else is copied as it is.
Held out are: the words that `words.py` holds out, integers that leave 3 when divided by 5, and of the rest (dates,
times, decimals, codes) those whose text `words.split_of` puts there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.cria import words
from recipes.cria.conversation import Language, Split
from recipes.cria.tool_words import phrases

LATIN_SHARE = 0.2  # of the names and words that a Chinese user says

WHOLE_SHARE = 0.2  # of the decimals


@dataclass(frozen=True)
class Value:
    json: str | int | float | bool
    said: str


@dataclass(frozen=True)
class Setting:
    """Whose values: the split, the user's language and that of the tools' descriptions."""

    split: Split
    user: Language
    tools: Language


def choices(kind: str, language: Language) -> list[str]:
    """What may stand in JSON for a kind "choice red=红色,blue=蓝色"."""
    return [pair.split("=")[language == "zh"] for pair in kind.split(" ", 1)[1].split(",")]


def draw(rng: random.Random, kind: str, setting: Setting) -> Value:
    """A value of the kind, which is its name and what follows: "int 2 90", "file pdf,txt"."""
    name, _, rest = kind.partition(" ")
    if name == "choice":
        index = rng.randrange(len(choices(kind, "en")))
        return Value(choices(kind, setting.tools)[index], choices(kind, setting.user)[index])
    if name == "flag":
        index = rng.randrange(2)
        return Value(index == 0, rest.split("/")[index].split("=")[setting.user == "zh"])
    if name == "int":
        number = integer(rng, setting.split, *map(int, rest.split()))
        return Value(number, str(number))
    if name == "decimal":
        low, high = map(int, rest.split())
        if rng.random() < WHOLE_SHARE:
            return draw(rng, f"int {low} {high}", setting)
        text = words.until(setting.split, lambda: _decimal(rng, low, high))
        return Value(float(text), text)
    text = _text(rng, name, rest, setting)
    return Value(text, text)


def integer(rng: random.Random, split: Split, low: int, high: int) -> int:
    while ((number := rng.randint(low, high)) % 5 == 3) != (split == "held_out"):
        pass
    return number


def _decimal(rng: random.Random, low: int, high: int) -> str:
    """Not a whole number, nor one that ends in 0: JSON has to write it as it is said."""
    return f"{rng.randrange(low, high)}.{rng.choice((rng.randint(1, 9), 5, 25, 75))}"


def _text(rng: random.Random, name: str, rest: str, setting: Setting) -> str:
    split = setting.split
    language: Language = "en" if rng.random() < LATIN_SHARE else setting.user
    made: dict[str, Callable[[], str]] = {
        "person": lambda: words.name(rng, language, split),
        "place": lambda: words.place(rng, language, split),
        "thing": lambda: words.thing(rng, setting.user, split),
        "food": lambda: words.any_thing(rng, setting.user, split, ("food",)).text,
        "word": lambda: _word(rng, language, split),
        "madeup": lambda: words.word(rng, "en", split),
        "text": lambda: _free_text(rng, setting),
        "date": lambda: words.until(split, lambda: _date(rng)),
        "time": lambda: words.until(split, lambda: _time(rng)),
        "square": lambda: words.until(split, lambda: f"{rng.choice('abcdefgh')}{rng.randint(1, 8)}"),
        "code": lambda: words.until(split, lambda: _code(rng)),
        "email": lambda: _email(rng, split),
        "file": lambda: f"{words.word(rng, 'en', split).lower()}.{rng.choice(rest.split(','))}",
        "joke": lambda: rng.choice(phrases(f"jokes_{setting.user}")),
    }
    return made[name]()


def _word(rng: random.Random, language: Language, split: Split) -> str:
    def make() -> str:
        word = words.word(rng, language, split)
        return word.capitalize() if language == "en" and rng.random() < 0.5 else word

    return words.until(split, make)


def _email(rng: random.Random, split: Split) -> str:
    name, host = words.name(rng, "en", split), words.word(rng, "en", split)
    return f"{name}@{host}.{rng.choice(('com', 'org', 'net'))}".lower()


def _free_text(rng: random.Random, setting: Setting) -> str:
    return rng.choice(phrases(f"texts_{setting.user}")).format(
        thing=words.thing(rng, setting.user, setting.split),
        person=words.name(rng, setting.user, setting.split),
        place=words.place(rng, setting.user, setting.split),
    )


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _time(rng: random.Random) -> str:
    return f"{rng.randint(6, 23):02}:{rng.randrange(0, 60, 5):02}"


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHKLMNPRSTUVWXYZ", k=rng.choice((1, 1, 2))))
    dash = rng.choice(("-", "-", ""))
    return f"{letters}{dash}{rng.randint(10, 999)}"
