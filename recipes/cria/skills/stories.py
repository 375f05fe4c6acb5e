"""Stories on request: a plot's sentences, each in one of several wordings, told of one hero, one friend and one thing.

Plots, wordings and the ways to ask are data (`stories_en.txt`, `stories_zh.txt`). The cast is chosen once and passes
through all sentences, so that they agree; the first sentence presents all of it, so that what was asked for is copied
once in the order of the request, and is near by from then on. Sentences are short and few: each is seen often, in ever
new company.
A story that misses something asked for, repeats a sentence or has the wrong length is thrown away and told again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from pronk.text.messages import Message
from recipes.cria import words
from recipes.cria.conversation import Exchange, Language, Split
from recipes.cria.words import Thing

Mood = Literal["", "bedtime", "funny", "happy", "lesson"]
MOODS: tuple[Mood, ...] = ("", "", "", "", "bedtime", "funny", "happy", "lesson")
WORDS = (45, 105)  # an English story's length
CHARACTERS = (70, 165)  # a Chinese story's length
LLAMAS = ("llama", "cria", "alpaca", "羊驼")  # what a model of this name is asked about most
ELDERS = ("爷爷", "奶奶")
TRIES = 30  # of telling one wish; a made-up noun may be a word that every plot has
PRONOUNS = {
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "it": {"he": "it", "him": "it", "his": "its", "himself": "itself"},
}
MEASURES = {
    "马": "匹",
    "斑马": "匹",
    "牛": "头",
    "驴": "头",
    "猪": "头",
    "大象": "头",
    "蛇": "条",
    "金鱼": "条",
    "龙": "条",
}


@dataclass(frozen=True)
class Figure:
    """Someone in a story: `full` presents them ("a fox named Tam"), `first` and `text` mention them first and later."""

    text: str
    first: str
    full: str
    asked: str = ""
    words: tuple[str, ...] = ()
    kind: str = ""
    gender: Literal["he", "she", "it"] = "it"


@dataclass(frozen=True)
class Cast:
    """What one story is made of. `place` is empty for a story that happens anywhere."""

    hero: Figure
    friend: Figure
    thing: Thing
    second: Thing | None
    place: str
    mood: Mood
    presented: tuple[str, ...]  # everyone and everything, first what was asked for, as it was asked for


@dataclass(frozen=True)
class Wish:
    """What a user asked for, and so what the story has to name."""

    figures: tuple[Figure, ...] = ()
    things: tuple[Thing, ...] = ()
    place: str = ""
    mood: Mood = ""

    def names(self) -> list[str]:
        return [word for figure in self.figures for word in figure.words]

    def required(self) -> list[str]:
        return [*self.names(), *(thing.text for thing in self.things), *([self.place] if self.place else [])]


@dataclass(frozen=True)
class Plot:
    """Each slot is one sentence, in several wordings; `text` is all of them, to search.

    An `own_place` plot says itself where it happens.
    """

    name: str
    lesson: str
    kinds: tuple[str, ...]
    own_place: bool
    slots: tuple[tuple[str, ...], ...]
    text: str

    def mentions(self, noun: str) -> bool:
        """Whether a hero or thing of that name would be confused with something that the plot has anyway."""
        if noun not in self.text:
            return False
        return not noun.isascii() or re.search(rf"\b{re.escape(noun)}s?\b", self.text) is not None


@dataclass
class Book:
    """The data file of one language, parsed."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)


def exchange(rng: random.Random, language: Language, split: Split) -> Exchange:
    """A request and its story; sometimes then another one, or a question about it."""
    first, cast, told = _story(rng, language, split)
    messages = [Message("user", _request(rng, language, split, first)), Message("assistant", told)]
    expect = _expect(first)
    turn = rng.random()
    if turn < 0.14:
        wish, _, told = _story(rng, language, split)
        messages.append(Message("user", _request(rng, language, split, wish, again=True)))
        messages.append(Message("assistant", told))
        expect = _expect(wish)
    elif turn < 0.3:
        question, answer, expect = _recall(rng, language, split, cast)
        messages += [Message("user", question), Message("assistant", answer)]
    return Exchange("stories", language, tuple(messages), expect=expect)


def prose(rng: random.Random, language: Language) -> str:
    """A story of the train split that nobody asked for; half of them begin at once, without presenting anybody."""
    presented = rng.random() < 0.5
    while (told := _tell(rng, language, "train", Wish(mood=rng.choice(MOODS)), presented=presented)) is None:
        pass
    return told[1]


def _story(rng: random.Random, language: Language, split: Split) -> tuple[Wish, Cast, str]:
    """A wish that can be told, and its story."""
    while True:
        wish = _wish(rng, language, split)
        if told := _tell(rng, language, split, wish):
            return wish, *told


# What is asked.


def _wish(rng: random.Random, language: Language, split: Split) -> Wish:
    if rng.random() < 0.12:
        return Wish(mood=rng.choice(MOODS))
    figures, things = rng.choice(
        ((1, 0), (1, 0), (1, 1), (1, 1), (1, 1), (2, 0), (2, 1), (2, 1), (0, 1), (1, 2), (0, 2))
    )
    return Wish(
        figures=_distinct_figures(rng, language, split, figures),
        things=_distinct_things(rng, language, split, things),
        place=_place(rng, language, split) if rng.random() < 0.2 else "",
        mood=rng.choice(MOODS),
    )


def _distinct_figures(rng: random.Random, language: Language, split: Split, count: int) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    while len(figures) < count:
        figure = _figure(rng, language, split)
        if all(_are_distinct(figure, other) for other in figures):
            figures.append(figure)
    return tuple(figures)


def _are_distinct(one: Figure, other: Figure) -> bool:
    return not any(mine in theirs or theirs in mine for mine in _mentions(one) for theirs in _mentions(other))


def _mentions(figure: Figure) -> list[str]:
    return [mention for mention in (figure.text, figure.kind) if mention]


def _distinct_things(
    rng: random.Random, language: Language, split: Split, count: int, *, known: bool = False
) -> tuple[Thing, ...]:
    things: list[Thing] = []
    while len(things) < count:
        thing = words.any_thing(rng, language, split, known=known)
        if all(thing.noun not in other.noun and other.noun not in thing.noun for other in things):
            things.append(thing)
    return tuple(things)


def _figure(rng: random.Random, language: Language, split: Split, *, known: bool = False) -> Figure:
    """Two of three are people; of the animals, every second has a name, and every tenth is a llama. `known`: nothing
    is made up."""
    name = (words.known_name if known else words.name)(rng, language, split)
    if rng.random() < 0.66:
        return _person(rng, language, name)
    kind = words.animal(rng, language, split, known=known)
    llamas = [llama for llama in LLAMAS if words.split_of(llama) == split and llama.isascii() == (language == "en")]
    if llamas and rng.random() < 0.1:
        kind = rng.choice(llamas)
    return _animal(rng, language, kind, name if rng.random() < 0.5 else "")


def _person(rng: random.Random, language: Language, name: str) -> Figure:
    if language == "zh":
        full = f"一个叫{name}的{rng.choice(('孩子', '小朋友'))}"
        return Figure(name, rng.choice((name, f"好朋友{name}")), full, name, (name,))
    gender = words.gender(name)
    full = f"a {'girl' if gender == 'she' else 'boy'} named {name}"
    asked = full if rng.random() < 0.15 else name
    return Figure(name, rng.choice((name, name, full)), full, asked, (name,), gender=gender)


def _animal(rng: random.Random, language: Language, kind: str, name: str) -> Figure:
    if language == "zh":
        noun = kind if len(kind) > 1 else f"小{kind}"
        one = f"一{MEASURES.get(kind, '只')}"
        full = f"{one}叫{name}的{noun}" if name else one + noun
        if not name:
            return Figure(noun, full, full, noun, (kind,), kind)
        asked = rng.choice((f"{noun}{name}", f"叫{name}的{noun}"))
        return Figure(name, f"{noun}{name}", full, asked, (name, kind), kind)
    an_animal = rng.choice((words.a(kind), words.a(kind), f"a little {kind}"))
    if not name:
        return Figure(f"the {kind}", an_animal, an_animal, words.a(kind), (kind,), kind)
    full = f"{an_animal} named {name}"
    asked = rng.choice((f"{words.a(kind)} named {name}", f"{words.a(kind)} called {name}", f"{name} the {kind}"))
    return Figure(name, full, full, asked, (name, kind), kind, words.gender(name))


def _place(rng: random.Random, language: Language, split: Split) -> str:
    if rng.random() < 0.3:
        town = words.place(rng, language, split)
        return f"in {town}" if language == "en" else town
    return rng.choice([place for place in _book(language).lists["places"] if words.split_of(place) == split])


def _request(rng: random.Random, language: Language, split: Split, wish: Wish, *, again: bool = False) -> str:
    """One of many phrasings. Things and place stand in the sentence, or are asked for in one of their own."""
    lists = _book(language).lists
    named = [figure.asked for figure in wish.figures]
    counted = 1.0 if language == "en" else 0.4 if named else 0.0
    things = [_one(language, thing) if rng.random() < counted else thing.text for thing in wish.things]
    suffixes = []
    if named and things and rng.random() < 0.35:
        suffixes.append(rng.choice(lists["suffix.things"]).format(things=_join(language, things)))
        things = []
    if wish.place:
        suffixes.append(rng.choice(lists["suffix.place"]).format(place=wish.place))
    subject = _join(language, named + things)
    story = rng.choice(lists[f"story.{wish.mood}" if wish.mood else "story"])
    if again:
        frames = lists[f"again.{split}"] if subject else lists[f"again.open.{split}"]
    else:
        frames = lists[f"asks.{split}"] if subject else lists[f"open.{split}"]
    asked = _sentences(language, [rng.choice(frames).format(story=story, subject=subject), *suffixes])
    return asked if rng.random() < 0.8 else _casual(asked)


def _casual(request: str) -> str:
    """As people type: no capital, no full stop."""
    return (request[0].lower() + request[1:]).rstrip(".。")


def _recall(
    rng: random.Random, language: Language, split: Split, cast: Cast
) -> tuple[str, str, dict[str, str | list[str]]]:
    """A question about the story just told, its answer, and what the answer has to name."""
    about: Literal["what", "who"] = rng.choice(("what", "who"))
    question = rng.choice(_book(language).lists[f"recall.{about}.{split}"])
    figures = [cast.hero.text, cast.friend.text]
    things = [thing for thing in (cast.thing, cast.second) if thing and about == "what"]
    listed = _join(language, figures + [_one(language, thing) for thing in things])
    frame = "It was about {}." if language == "en" else "讲的是{}的故事。"
    return question, frame.format(listed), _expectation("recall", figures, [thing.text for thing in things])


def _expect(wish: Wish) -> dict[str, str | list[str]]:
    return _expectation("story", wish.names(), [thing.text for thing in wish.things])


def _expectation(answer: str, names: list[str], objects: list[str]) -> dict[str, str | list[str]]:
    return {"answer": answer, "names": names, "objects": objects}


# What is told.


def _tell(
    rng: random.Random, language: Language, split: Split, wish: Wish, *, presented: bool = True
) -> tuple[Cast, str] | None:
    for _ in range(TRIES):
        cast = _cast(rng, language, split, wish)
        plots = _fitting(language, cast)
        told = _render(rng, language, rng.choice(plots), cast, presented) if plots else []
        text = _sentences(language, told)
        if told and _is_good(language, told, text) and all(word in text for word in wish.required()):
            return cast, text
    return None


def _cast(rng: random.Random, language: Language, split: Split, wish: Wish) -> Cast:
    """Whoever and whatever the wish leaves open is chosen here, of what is known: nobody can foresee a made-up name,
    and a model that has to begin one does not know how to end it."""
    figures = list(wish.figures)
    if not figures:
        figures.append(_figure(rng, language, split, known=True))
    if len(figures) < 2:
        stranger = _person(rng, language, words.known_name(rng, language, split))
        figures.append(stranger if rng.random() < 0.4 else _helper(rng, language))
    things = wish.things or _distinct_things(rng, language, split, 1, known=True)
    place = wish.place or (_place(rng, language, split) if rng.random() < 0.4 else "")
    asked = [*(figure.asked for figure in wish.figures), *(_one(language, thing) for thing in wish.things)]
    added = [figure.full for figure in figures if figure not in wish.figures]
    added += [_one(language, thing) for thing in things if thing not in wish.things]
    second = things[1] if len(things) > 1 else None
    return Cast(figures[0], figures[1], things[0], second, place, wish.mood, (*asked, *added))


def _helper(rng: random.Random, language: Language) -> Figure:
    kind, _, full = rng.choice(_book(language).lists["helpers"]).partition("|")
    text = kind if language == "zh" or full == kind else f"the {kind}"
    return Figure(text, full, full, kind=kind)


def _fitting(language: Language, cast: Cast) -> list[Plot]:
    if not _are_distinct(cast.hero, cast.friend):
        return []
    strangers = [*_mentions(cast.hero), *_mentions(cast.friend), cast.thing.noun]
    if cast.second:
        strangers.append(cast.second.noun)
    return [
        plot
        for plot in _book(language).plots
        if cast.thing.kind in plot.kinds
        and not (plot.own_place and cast.place)
        and not any(plot.mentions(noun) for noun in strangers)
    ]


def _render(rng: random.Random, language: Language, plot: Plot, cast: Cast, presented: bool) -> list[str]:
    lists = _book(language).lists
    opening = lists["openings.placed" if cast.place else "openings"]
    slots: list[Sequence[str]] = [opening, *plot.slots]
    if cast.second:
        slots.insert(2, lists["second.first"])
    if presented:
        slots.insert(0, lists["presents"])
    if cast.mood:
        slots.append(lists[f"closings.{cast.mood}" + (f".{plot.lesson}" if cast.mood == "lesson" else "")])
    elif cast.second:
        slots.append(lists["second.last"])
    elif rng.random() < 0.6:
        slots.append(lists["closings"])
    names = _names(rng, language, cast)
    frames = "\n".join(rng.choice(slot) for slot in slots).replace("{B}", "{first}", 1)
    return [_capitalized(sentence) for sentence in frames.format_map(names).split("\n")]


def _names(rng: random.Random, language: Language, cast: Cast) -> Mapping[str, str]:
    """What the placeholders of a plot stand for."""
    hero, friend, second = cast.hero, cast.friend, cast.second
    return {
        "A": hero.text,
        "A1": hero.full if language == "zh" or rng.random() < 0.5 or hero.text.startswith("the ") else hero.text,
        "A2": hero.full,
        "B": friend.text,
        "first": friend.text if friend.kind else friend.first,
        "cast": _join(language, cast.presented),
        "O": cast.thing.text,
        "aO": _one(language, cast.thing),
        "tO": f"那{cast.thing.measure}{cast.thing.text}",
        "jO": f"这{cast.thing.measure}{cast.thing.text}",
        "dO": f"那{cast.thing.measure}{cast.thing.text}" if "的" in cast.thing.text else f"的{cast.thing.text}",
        "two": "两个伙伴" if hero.kind or (friend.kind and friend.kind not in ELDERS) else "两个人",
        "P": second.text if second else "",
        "aP": _one(language, second) if second else "",
        "place": cast.place,
        **PRONOUNS[hero.gender],
    }


def _is_good(language: Language, told: Sequence[str], text: str) -> bool:
    low, high = WORDS if language == "en" else CHARACTERS
    size = len(text.split()) if language == "en" else len(text)
    return low <= size <= high and len(set(told)) == len(told)


def _one(language: Language, thing: Thing) -> str:
    return words.a(thing.text) if language == "en" else f"一{thing.measure}{thing.text}"


def _join(language: Language, parts: Sequence[str]) -> str:
    """ "a, b and c", as a list is read."""
    comma, last = (", ", " and ") if language == "en" else ("、", "和")
    return last.join((comma.join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)


def _sentences(language: Language, parts: Sequence[str]) -> str:
    return (" " if language == "en" else "").join(_capitalized(part) for part in parts)


def _capitalized(text: str) -> str:
    """With a capital where a sentence begins: after a full stop, also one inside quotation marks."""
    return re.sub(r'(^"?|[.!?] "?|\." "?)([a-z])', lambda match: match[1] + match[2].upper(), text)


# The data files.


@cache
def _book(language: Language) -> Book:
    book = Book()
    blocks = re.split(r"\n(?=\[|= )", (Path(__file__).parent / f"stories_{language}.txt").read_text(encoding="utf-8"))
    for block in blocks[1:]:
        heading, _, body = block.partition("\n")
        if heading.startswith("["):
            book.lists[heading.strip("[]")] = body.split("\n")
        else:
            book.plots.append(_plot(heading, body))
    book.lists = {name: [line for line in lines if line] for name, lines in book.lists.items()}
    return book


def _plot(heading: str, body: str) -> Plot:
    name, _, tags = heading.removeprefix("= ").partition(":")
    lesson, *rest = tags.split()
    return Plot(
        name=name,
        lesson=lesson.removeprefix("lesson-"),
        kinds=tuple(tag for tag in rest if tag != "own-place") or words.THING_KINDS,
        own_place="own-place" in rest,
        slots=tuple(tuple(slot.strip().split("\n")) for slot in body.strip().split("\n\n")),
        text=body,
    )
