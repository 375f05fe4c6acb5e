"""Small talk: every family can be made, its answers contain what they should, and held-out wording is apart."""

import random
import re
from itertools import chain

import pytest

from recipes.cria import words
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Split
from recipes.cria.skills import talk

SPLITS: tuple[Split, ...] = ("train", "held_out")
SAMPLES = 400
LONGEST = {"en": 27, "zh": 55}  # words or characters of an answer


def exchanges(language: Language, split: Split, seed: int = 1) -> list[Exchange]:
    rng = random.Random(seed)
    return [talk.exchange(rng, language, split) for _ in range(SAMPLES)]


def asked(exchange: Exchange) -> str:
    """The user's words as one, without case and punctuation, unless there is nothing else."""
    text = " ".join(message.content for message in exchange.messages if message.role == "user")
    return re.sub(r"[\W_]+", " ", text.lower()).strip() or text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_family_is_well_formed(language: Language, split: Split):
    rng = random.Random(0)
    data = talk.read_talk(language)
    for family in data.families:
        for _ in range(4):
            made = talk._make(rng, family, data, language, split)
            answer = made.answers[-1]
            for group in made.contains:
                assert any(text.lower() in answer.lower() for text in group), (family.id, answer)
            for text in (*made.questions, *made.answers):
                assert text
                assert not re.search(r"[{}|\[\]<>]|  ", text), (family.id, text)
            size = len(answer.split()) if language == "en" else len(answer)
            assert 1 <= size <= LONGEST[language], (family.id, answer)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_exchanges_alternate_and_end_with_an_answer(language: Language, split: Split):
    for made in exchanges(language, split):
        roles = [message.role for message in made.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(roles) in (2, 4, 6)
        assert made.skill == "talk"
        assert made.language == language
        answer = made.messages[-1].content.lower()
        assert all(any(text.lower() in answer for text in group) for group in made.expect["contains"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_same_seed_same_exchanges(language: Language):
    assert exchanges(language, "train") == exchanges(language, "train")
    assert exchanges(language, "train") != exchanges(language, "train", seed=2)


def test_nothing_is_left_out_of_dots_alone():
    assert all(talk._careless(random.Random(seed), "....") == "...." for seed in range(60))


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_wording_is_never_trained_on(language: Language):
    for family in talk.read_talk(language).families:
        trained, held_out = (set(chain.from_iterable(family.asks[split])) for split in SPLITS)
        assert trained, family.id
        assert held_out, family.id
        assert not trained & held_out, family.id
    trained = {asked(made) for seed in range(5) for made in exchanges(language, "train", seed)}
    held_out = {asked(made) for seed in range(5) for made in exchanges(language, "held_out", seed)}
    assert not trained & held_out


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_topics_are_apart(language: Language):
    data = talk.read_talk(language)
    made: dict[Split, set[str]] = {}
    for split in SPLITS:
        rng = random.Random(3)
        topics = (talk._fill(rng, kind, data, language, split)[kind] for kind in data.lists for _ in range(30))
        names = (talk._fill(rng, "name", data, language, split)["name"] for _ in range(100))
        made[split] = {*topics, *names}
    shared = made["train"] & made["held_out"]
    in_two_lists = {text for text in shared if sum(text in texts for texts in data.lists.values()) > 1}
    assert shared == in_two_lists
    assert all(
        words.split_of(words.name(random.Random(seed), language, "held_out")) == "held_out" for seed in range(20)
    )


def test_what_was_told_is_recalled_across_a_digression():
    told = [made for made in exchanges("en", "train") if made.expect["family"] == "name.recall"]
    assert any(len(made.messages) == 6 for made in told)
    for made in told:
        ((name,),) = made.expect["contains"]
        assert name in made.messages[0].content
        assert made.messages[-1].content == f"Your name is {name}."


def test_any_joke_will_do():
    jokes = [made for seed in range(3) for made in exchanges("en", "train", seed) if made.expect["family"] == "joke"]
    assert jokes
    assert all(len(made.expect["contains"][0]) > 10 for made in jokes)


def test_a_family_that_nothing_can_fill_is_refused():
    family = talk._family({"id": "x", "ask": "a {nothing}", "held_out": "b", "answer": "c", "contains": "c"}, {})
    with pytest.raises(ValueError, match="nothing fills"):
        talk._check(family, "a {nothing}", "c", {"name"})
    with pytest.raises(ValueError, match="turns"):
        talk._check(family, "a // b", "c", {"name"})
