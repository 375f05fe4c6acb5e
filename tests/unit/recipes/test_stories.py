from __future__ import annotations

import random
import re
from functools import cache

import pytest

from recipes.cria import words
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Split
from recipes.cria.skills import stories

by_language = pytest.mark.parametrize("language", LANGUAGES)
by_split = pytest.mark.parametrize("split", ["train", "held_out"])


@cache
def samples(language: Language, split: Split) -> tuple[Exchange, ...]:
    rng = random.Random(4)
    return tuple(stories.exchange(rng, language, split) for _ in range(250))


def told(language: Language, split: Split) -> list[str]:
    """Every answer that is a story."""
    return [made.messages[1].content for made in samples(language, split)]


@by_language
def test_a_seed_settles_the_exchange(language: Language) -> None:
    made = [[stories.exchange(random.Random(seed), language, "train") for seed in range(20)] for _ in range(2)]
    assert made[0] == made[1]
    assert stories.prose(random.Random(3), language) == stories.prose(random.Random(3), language)


@by_language
@by_split
def test_the_last_answer_names_what_was_asked_for(language: Language, split: Split) -> None:
    for made in samples(language, split):
        answer = made.messages[-1].content
        assert all(word in answer for word in [*made.expect["names"], *made.expect["objects"]])


@by_language
@by_split
def test_turns_alternate_and_no_placeholder_is_left(language: Language, split: Split) -> None:
    for made in samples(language, split):
        assert made.skill == "stories"
        assert [message.role for message in made.messages] in (["user", "assistant"], ["user", "assistant"] * 2)
        assert not any(re.search(r"[{}|]|  ", message.content) for message in made.messages)


@by_language
@by_split
def test_stories_are_short_and_repeat_no_sentence(language: Language, split: Split) -> None:
    for story in told(language, split):
        sentences = re.split(r"(?<=[.!?]) " if language == "en" else r"(?<=。)(?!”)", story)
        assert len(set(sentences)) == len(sentences), story
        low, high = (45, 105) if language == "en" else (70, 165)
        assert low <= (len(story.split()) if language == "en" else len(story)) <= high


@by_language
@by_split
def test_the_first_sentence_presents_all_that_was_asked_for(language: Language, split: Split) -> None:
    for made in samples(language, split):
        if made.expect["answer"] == "story":
            first = re.split(r"(?<=[.。])", made.messages[-1].content)[0]
            assert all(word in first for word in [*made.expect["names"], *made.expect["objects"]])


@by_language
def test_requests_and_their_words_are_disjoint(language: Language) -> None:
    train, held_out = samples(language, "train"), samples(language, "held_out")
    assert not {made.messages[0].content for made in train} & {made.messages[0].content for made in held_out}
    for key in ("names", "objects"):
        here, there = ({word for made in side for word in made.expect[key]} for side in (train, held_out))
        helpers = {line.partition("|")[0] for line in stories._book(language).lists["helpers"]}
        assert not (here & there) - helpers - {f"the {helper}" for helper in helpers}


@by_language
def test_phrasings_are_held_out(language: Language) -> None:
    lists = stories._book(language).lists
    pairs = [name for name in lists if name.endswith(".train")]
    assert len(pairs) == 6
    for name in pairs:
        assert not set(lists[name]) & set(lists[name.removesuffix("train") + "held_out"])


@by_language
def test_plots_are_many_and_varied(language: Language) -> None:
    plots = stories._book(language).plots
    assert len({plot.name for plot in plots}) >= 25
    for plot in plots:
        assert len(plot.slots) >= 6
        assert all(len(set(slot)) == len(slot) >= 3 for slot in plot.slots)
        assert set(plot.kinds) <= set(words.THING_KINDS)


@by_language
def test_stories_are_hardly_ever_the_same(language: Language) -> None:
    rng = random.Random(5)
    assert len({stories.prose(rng, language) for _ in range(200)}) == 200


def test_english_is_ascii_and_chinese_punctuation_is_full_width() -> None:
    assert all(story.isascii() for story in told("en", "train"))
    assert not any(re.search(r"[A-Za-z.,!?:\" ]", story) for story in told("zh", "train"))


def test_capitals_begin_sentences() -> None:
    assert stories._capitalized('the fox said, "stop." the "end" came! "no?" it asked. "yes." it') == (
        'The fox said, "stop." The "end" came! "No?" it asked. "Yes." It'
    )


@by_language
def test_half_of_the_prose_begins_as_a_book_does(language: Language) -> None:
    """Or a text that somebody begins would be like nothing that training had."""
    rng = random.Random(8)
    begun = [stories.prose(rng, language) for _ in range(100)]
    frames = tuple(frame.partition("{cast}")[0] for frame in stories._book(language).lists["presents"])
    assert all(frames)
    assert 30 < sum(text.startswith(frames) for text in begun) < 70


def test_what_nobody_asked_for_is_not_made_up() -> None:
    people = {*words._list("en", "girls"), *words._list("en", "boys")}
    things = {noun for kind in words.THING_KINDS for noun in words._things("en", kind, "train")}
    for seed in range(60):
        cast = stories._cast(random.Random(seed), "en", "train", stories.Wish())
        assert {name for figure in (cast.hero, cast.friend) for name in figure.words[:1] if name[0].isupper()} <= people
        assert cast.thing.noun in {entry.rpartition("|")[2] for entry in things}
