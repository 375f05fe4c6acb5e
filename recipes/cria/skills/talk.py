"""Small talk: greetings, who cria is, everyday facts, what the user told it, jokes, and what it does not know.

Families of `word_lists/talk_*.yaml` say what is asked and answered. "|" separates phrasings, "[a/b]" is one of several
words, "//" separates turns, and "{slot}" is filled alike in all turns. A hash holds out one reading in ten, but of the
first phrasing none; where a family has no such reading, its `held_out` phrasings are. What can only be copied is apart,
too: names, places, things, and the topics of `lists`. Facts of `rows` are not: who was never told a capital cannot know
it. What is expected concerns the last answer, with the earlier ones as they stand.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, cycle, product
from pathlib import Path
from typing import Any

import yaml

from pronk.text.messages import Message
from recipes.cria import words
from recipes.cria.conversation import Exchange, Language, Split
from recipes.cria.guard_phrases import guard_words, to_second_person

_DATA = Path(__file__).parent.parent / "word_lists"
_HELD_OUT_EVERY = 8  # one topic of a list in so many
_CARELESS = 0.12  # of training's questions have no capital, and as many no full stop
_DIGRESSION = 0.5  # of the conversations that come back to something
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_COUNT_LIMIT = 10

Slots = dict[str, str]


@dataclass(frozen=True)
class Family:
    """One thing to talk about. `maker` names the function of `_MAKERS` that fills slots which belong together."""

    id: str
    weight: float
    asks: Mapping[Split, tuple[tuple[str, ...], ...]]  # phrasings, each in its readings
    answers: tuple[str, ...]
    contains: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, ...], ...]
    maker: str
    digression: bool  # may come between two turns of another family


@dataclass(frozen=True)
class Talk:
    """All of one language."""

    families: tuple[Family, ...]
    lists: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Made:
    """One family with its slots filled."""

    questions: list[str]
    answers: list[str]
    contains: list[list[str]]


def exchange(rng: random.Random, language: Language, split: Split) -> Exchange:
    """A question or remark and the answer, or a few. `expect` says what the last answer contains."""
    talk = read_talk(language)
    family = rng.choices(talk.families, weights=[family.weight for family in talk.families])[0]
    made = _make(rng, family, talk, language, split)
    turns = list(zip(made.questions, made.answers, strict=True))
    if len(turns) > 1 and rng.random() < _DIGRESSION:
        between = _make(rng, rng.choice([f for f in talk.families if f.digression]), talk, language, split)
        turns[-1:-1] = zip(between.questions, between.answers, strict=True)
    messages = []
    for question, answer in turns:
        asked = _careless(rng, question) if split == "train" else question
        messages += [Message("user", asked), Message("assistant", answer)]
    return Exchange(
        skill="talk",
        language=language,
        messages=tuple(messages),
        expect={"contains": made.contains, "family": family.id},
    )


def _make(rng: random.Random, family: Family, talk: Talk, language: Language, split: Split) -> _Made:
    ask = rng.choice(rng.choice(family.asks[split]))
    answer = rng.choice(family.answers)
    slots: Slots = {}
    if family.rows:
        slots |= dict(zip("abcdef", rng.choice(family.rows), strict=False))
    if family.maker:
        slots |= _MAKERS[family.maker](rng, language, split)
    for slot in sorted(set(_SLOT.findall(ask + answer)) - set(slots)):
        slots |= _fill(rng, slot, talk, language, split)

    def fill(text: str) -> str:
        return _fill_in(text, slots)

    return _Made(
        questions=[_sentence(fill(turn.strip())) for turn in ask.split("//")],
        answers=[_sentence(fill(turn.strip())) for turn in answer.split("//")],
        contains=_expected(family, ask, fill),
    )


def _expected(family: Family, ask: str, fill: Callable[[str], str]) -> list[list[str]]:
    """What the answer contains. Who asks for a joke, without a word on which, gets any of them."""
    if not family.rows or "//" in ask or _SLOT.search(ask):
        return [[fill(text) for text in group] for group in family.contains]
    rows = [dict(zip("abcdef", row, strict=False)) for row in family.rows]
    return [[_fill_in(text, row) for row in rows for text in group] for group in family.contains]


def _fill_in(text: str, slots: Slots) -> str:
    return _SLOT.sub(lambda match: slots[match[1]], text)


def _fill(rng: random.Random, slot: str, talk: Talk, language: Language, split: Split) -> Slots:
    """A word for the slot; slots with a number ("place2") are others of the same kind."""
    kind = slot.rstrip("0123456789")
    if kind in talk.lists:
        every = _HELD_OUT_EVERY
        topics = [t for i, t in enumerate(talk.lists[kind]) if (i % every == every - 1) == (split == "held_out")]
        return {slot: rng.choice(topics)}
    return {slot: _WORDS[kind](rng, language, split)}


_WORDS: Mapping[str, Callable[[random.Random, Language, Split], str]] = {
    "name": words.name,
    "place": words.place,
    "animal": words.animal,
    "thing": words.thing,
    "word": words.word,
}


# Makers: slots that belong together


def _count(rng: random.Random, language: Language, split: Split) -> Slots:
    """From low to high, both at most ten. A fifth of the pairs is held out, but counting from one is for all."""
    ranges = [
        (low, high)
        for low in range(1, _COUNT_LIMIT)
        for high in range(low + 1, _COUNT_LIMIT + 1)
        if ((low + high) % 5 == 0) == (split == "held_out")
    ]
    low, high = rng.choice([pair for pair in ranges if pair[0] == 1] if rng.random() < 0.4 else ranges)
    join = ", " if language == "en" else "、"
    numbers = [str(number) for number in range(low, high + 1)]
    return {"low": str(low), "high": str(high), "up": join.join(numbers), "down": join.join(reversed(numbers))}


# From small to big; neighbours are not compared, because they may be of one size.
_SIZES: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "ant", "bee", "mouse", "frog", "bird", "rabbit", "cat", "fox", "dog", "sheep", "pig", "llama", "lion", "bear",
        "horse", "cow", "giraffe", "elephant", "whale",
    ),
    "zh": (
        "蚂蚁", "蜜蜂", "老鼠", "青蛙", "鸽子", "兔子", "猫", "狐狸", "狗", "羊", "猪", "羊驼", "狮子", "熊",
        "马", "牛", "长颈鹿", "大象", "鲸鱼",
    ),
}  # fmt: skip


def _sizes(rng: random.Random, language: Language, split: Split) -> Slots:
    """Two animals, the smaller and the bigger one, asked in either order."""
    animals = _SIZES[language]
    pairs = [
        (small, big)
        for small in range(len(animals))
        for big in range(small + 2, len(animals))
        if ((small + big) % 5 == 0) == (split == "held_out")
    ]
    small, big = rng.choice(pairs)
    first, second = rng.sample((small, big), 2)
    shown = [words.a(animal) if language == "en" else animal for animal in animals]
    return {"first": shown[first], "second": shown[second], "small": animals[small], "big": animals[big]}


def _thing(rng: random.Random, language: Language, split: Split) -> Slots:
    """A thing with and without its article."""
    thing = words.any_thing(rng, language, split)
    article = words.a(thing.text) if language == "en" else f"一{thing.measure}{thing.text}"
    return {"thing": thing.text, "a_thing": article}


def _listing(rng: random.Random, language: Language, split: Split) -> Slots:
    """Two or three words to say again."""
    chosen = [words.thing(rng, language, split) for _ in range(rng.choice((2, 3)))]
    return {"words": (", " if language == "en" else "、").join(chosen)}


def _garbage(rng: random.Random, language: Language, split: Split) -> Slots:
    """Keys hit at random."""
    keys = "asdfghjkl" if rng.random() < 0.5 else "qwrtpsdfghjklzxcvbnm"
    while True:
        text = " ".join("".join(rng.choices(keys, k=rng.randint(4, 8))) for _ in range(rng.randint(1, 3)))
        if words.split_of(text) == split:
            return {"garbage": text}


def _big_sum(rng: random.Random, language: Language, split: Split) -> Slots:
    """Beyond what the arithmetic of this model reaches."""
    while True:
        left, right = rng.randint(300, 99999), rng.randint(300, 99999)
        text = f"{left} {rng.choice('*/+-x')} {right}"
        if words.split_of(text) == split:
            return {"sum": text}


def _task(rng: random.Random, language: Language, split: Split) -> Slots:
    """Something harmless that nobody taught it, often in words that the guard has to look at twice."""
    phrases = guard_words(language, split).near_misses
    return _deed(rng, language, split, phrases[rng.choice(list(phrases))].pick(rng))


def _harm(rng: random.Random, language: Language, split: Split) -> Slots:
    phrases = guard_words(language, split).unsafe
    category = rng.choice([category for category in phrases if category not in ("S6", "S11")])
    return _deed(rng, language, split, phrases[category].pick(rng))


def _self_harm(rng: random.Random, language: Language, split: Split) -> Slots:
    return _deed(rng, language, split, rng.choice(guard_words(language, split).unsafe["S11"].groups[0]))


def _advice(rng: random.Random, language: Language, split: Split) -> Slots:
    return _deed(rng, language, split, guard_words(language, split).unsafe["S6"].pick(rng))


def _deed(rng: random.Random, language: Language, split: Split, deed: str) -> Slots:
    while "<name>" in deed:
        deed = deed.replace("<name>", words.name(rng, language, split), 1)
    return {"deed": deed, "your_deed": to_second_person(deed)}


_MAKERS: Mapping[str, Callable[[random.Random, Language, Split], Slots]] = {
    "advice": _advice,
    "big_sum": _big_sum,
    "count": _count,
    "garbage": _garbage,
    "harm": _harm,
    "listing": _listing,
    "self_harm": _self_harm,
    "sizes": _sizes,
    "task": _task,
    "thing": _thing,
}


# Reading


@functools.cache
def read_talk(language: Language) -> Talk:
    """The families of one language. ValueError names the one that cannot be made."""
    tables = {name: _rows(text) for name, text in _load("talk_tables").items()}
    data = _load(f"talk_{language}")
    lists = {name: _items(text) for name, text in data["lists"].items()}
    families = tuple(_family(entry, tables) for entry in data["families"])
    known = {*lists, *_WORDS}
    for family in families:
        for ask in chain(*family.asks["train"], *family.asks["held_out"]):
            for answer in family.answers:
                _check(family, ask, answer, known)
    return Talk(families, lists)


def _family(entry: Mapping[str, Any], tables: Mapping[str, tuple[tuple[str, ...], ...]]) -> Family:
    rows = str(entry.get("rows", ""))
    return Family(
        id=entry["id"],
        weight=float(entry.get("weight", 1)),
        asks=_split(_items(entry["ask"]), _items(entry["held_out"])),
        answers=_items(entry["answer"]),
        contains=tuple(tuple(text.strip() for text in group.split("/")) for group in entry["contains"].split(";")),
        rows=tables[rows] if rows in tables else _rows(rows),
        maker=entry.get("maker", ""),
        digression=bool(entry.get("digression", False)),
    )


def _split(written: tuple[str, ...], spare: tuple[str, ...]) -> dict[Split, tuple[tuple[str, ...], ...]]:
    """The phrasings of both splits. `spare` is held out if chance holds out nothing else."""
    plain, *forms = (_readings(form) for form in (*written, *spare))
    known = set(map(_key, plain))
    held_out = [tuple(r for r in form if _key(r) not in known and _split_of(r) == "held_out") for form in forms]
    trained = [tuple(r for r in form if r not in held) for form, held in zip(forms, held_out, strict=True)]
    if any(held_out):
        return {"train": (plain, *filter(None, trained)), "held_out": tuple(filter(None, held_out))}
    return {"train": tuple(map(_readings, written)), "held_out": tuple(map(_readings, spare))}


def _readings(form: str) -> tuple[str, ...]:
    """ "[Hi/Hello], cria" -> "Hi, cria" and "Hello, cria"."""
    parts = [part.split("/") if odd else [part] for odd, part in zip(cycle((0, 1)), _CHOICE.split(form))]
    return tuple("".join(chosen).replace("  ", " ") for chosen in product(*parts))


def _split_of(reading: str) -> Split:
    return words.split_of(_key(reading))


def _key(reading: str) -> str:
    """What "Hello!" and "hello" have in common."""
    return re.sub(r"[^\w{}]+", " ", reading.lower()).strip() or reading


def _check(family: Family, ask: str, answer: str, known: set[str]) -> None:
    if ask.count("//") != answer.count("//"):
        raise ValueError(f"{family.id}: {ask!r} has another number of turns than {answer!r}")
    if family.maker not in ("", *_MAKERS):
        raise ValueError(f"{family.id}: there is no maker {family.maker!r}")
    if family.rows or family.maker:
        return
    for slot in _SLOT.findall(ask + answer):
        if slot.rstrip("0123456789") not in known:
            raise ValueError(f"{family.id}: nothing fills {slot!r}")


def _load(name: str) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((_DATA / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in str(text).split("|"))


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(cell.strip() for cell in row.split("=")) for row in _items(text)) if text else ()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text[-1:] in ".?!" else text


def _careless(rng: random.Random, question: str) -> str:
    """As people type: no capital, no full stop."""
    if rng.random() < _CARELESS:
        question = question[:1].lower() + question[1:]
    if rng.random() < _CARELESS and len(question) > 3:
        question = question.rstrip(".?!。？！") or question
    return question
