from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from recipes.cria import words
from recipes.cria.conversation import LANGUAGES, Language, Split

Draw = Callable[[random.Random, Language, Split], str]
DRAWS: tuple[Draw, ...] = (words.name, words.place, words.thing, words.animal, words.word)

by_draw = pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
by_language = pytest.mark.parametrize("language", LANGUAGES)


def drawn(draw: Draw, language: Language, split: Split, count: int = 1500) -> list[str]:
    rng = random.Random(1)
    return [draw(rng, language, split) for _ in range(count)]


@by_draw
@by_language
def test_splits_are_disjoint(draw: Draw, language: Language) -> None:
    train, held_out = set(drawn(draw, language, "train")), set(drawn(draw, language, "held_out"))
    assert len(held_out) > 3
    assert not train & held_out


@by_draw
@by_language
def test_a_seed_settles_the_draw(draw: Draw, language: Language) -> None:
    assert drawn(draw, language, "train", 50) == drawn(draw, language, "train", 50)


@pytest.mark.parametrize(("draw", "least"), [(words.name, 600), (words.thing, 700), (words.word, 900)])
@by_language
def test_there_are_many(draw: Draw, least: int, language: Language) -> None:
    assert len(set(drawn(draw, language, "train"))) >= least


@by_language
def test_a_held_out_noun_is_held_out_in_every_colour(language: Language) -> None:
    nouns = {kind: words._side(language, f"things.{kind}", "held_out") for kind in words.THING_KINDS}
    rng = random.Random(2)
    for _ in range(500):
        thing = words.any_thing(rng, language, "held_out")
        assert any(thing.text.endswith(entry.rpartition("|")[2]) for entry in nouns[thing.kind])
        assert (thing.measure != "") == (language == "zh")


@by_language
def test_training_meets_nouns_of_no_list(language: Language) -> None:
    """And evaluation none: what is held out is real."""
    rng = random.Random(4)
    listed = {
        entry.rpartition("|")[2]
        for name, entries in words._lists(language).items()
        if name == "animals" or name.startswith("things.")
        for entry in entries
    }
    for split, expected in (("train", words.MADE_UP_SHARE), ("held_out", 0.0)):
        nouns = [words.any_thing(rng, language, split).noun for _ in range(1000)]
        nouns += [words.animal(rng, language, split) for _ in range(1000)]
        made_up = sum(noun not in listed for noun in nouns) / len(nouns)
        assert made_up == pytest.approx(expected, abs=0.05 if expected else 0)


def test_every_list_has_both_sides() -> None:
    for language in LANGUAGES:
        for kind in words.THING_KINDS:
            assert words._side(language, f"things.{kind}", "train")
            assert words._side(language, f"things.{kind}", "held_out")


def test_no_list_has_an_entry_twice() -> None:
    for language in LANGUAGES:
        for name, entries in words._lists(language).items():
            if name != "nickname.frames":
                assert sorted(set(entries)) == sorted(entries), name


@pytest.mark.parametrize(("noun", "want"), [("old kite", "an old kite"), ("umbrella", "an umbrella"), ("top", "a top")])
def test_articles(noun: str, want: str) -> None:
    assert words.a(noun) == want


def test_gender_follows_the_list_and_then_the_ending() -> None:
    assert [words.gender(name) for name in ("Alice", "Luca", "Mirola", "Tadren")] == ["she", "he", "she", "he"]
