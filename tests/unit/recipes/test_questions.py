"""Questions about pronk and Llama: the files are sound, bad ones are refused by name, and the splits are disjoint."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.cria import words
from recipes.cria.conversation import LANGUAGES, Language, Split
from recipes.cria.skills import questions
from recipes.cria.skills.questions import check, exchange, families, read


def entry(name: str = "llama.what", topic: str = "llama") -> dict[str, Any]:
    return {
        "id": name,
        "en": {
            "ask": [f"{{What is|Define}} {{a|the}} {topic}", f"{topic} meaning"],
            "own_words": f"So the {topic} would be?",
            "answer": "It is an animal.",
            "facts": [["animal", "beast"]],
        },
        "zh": {
            "ask": [f"{{什么是|解释}}{topic}"],
            "own_words": f"{topic}到底是啥？",
            "answer": "是一种动物。",
            "facts": [["动物"]],
        },
    }


def read_and_check(folder: Path, *entries: dict[str, Any]) -> None:
    path = folder / "families.yaml"
    path.write_text(yaml.safe_dump(list(entries), allow_unicode=True), "utf-8")
    check(read(path))


def samples(language: Language, split: Split, count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [exchange(rng, language, split).messages[0].content for _ in range(count)]


def fold(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


# The files


def test_all_files_are_sound() -> None:
    assert families() is families()
    for family in families():
        for wording in family.wordings.values():
            assert all(any(text.lower() in wording.answer.lower() for text in group) for group in wording.facts)


# What is refused


def test_good_families_are_accepted(tmp_path: Path) -> None:
    read_and_check(tmp_path, entry(), entry("alpaca.what", "alpaca"))


def no_own_words(family: dict[str, Any]) -> None:
    del family["en"]["own_words"]


def own_words_of_a_pattern(family: dict[str, Any]) -> None:
    family["en"]["own_words"] = "what is the LLAMA?"


def fact_not_in_the_answer(family: dict[str, Any]) -> None:
    family["zh"]["facts"] = [["植物"]]


def facts_not_nested(family: dict[str, Any]) -> None:
    family["en"]["facts"] = ["animal"]


def nested_braces(family: dict[str, Any]) -> None:
    family["en"]["ask"].append("{What {is|was}|Define} llama")


def language_missing(family: dict[str, Any]) -> None:
    del family["zh"]


def number_for_a_text(family: dict[str, Any]) -> None:
    family["zh"]["answer"] = 7


@pytest.mark.parametrize(
    "spoil",
    [
        no_own_words,
        own_words_of_a_pattern,
        fact_not_in_the_answer,
        facts_not_nested,
        nested_braces,
        language_missing,
        number_for_a_text,
    ],
)
def test_a_bad_family_is_refused_by_name(spoil: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    family = entry()
    spoil(family)
    with pytest.raises(ValueError, match=r"llama\.what"):
        read_and_check(tmp_path, family)


def test_two_families_do_not_share_an_id_or_a_phrasing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llama\.what is the id of two families"):
        read_and_check(tmp_path, entry(), entry("llama.what", "alpaca"))
    other = entry("alpaca.what", "alpaca")
    other["zh"]["ask"].append("什么是LLAMA")
    with pytest.raises(ValueError, match=r"alpaca\.what .*什么是LLAMA.* is asked by llama\.what"):
        read_and_check(tmp_path, entry(), other)
    other["zh"]["ask"].pop()
    other["en"]["own_words"] = "So the LLAMA would be"
    with pytest.raises(ValueError, match=r"alpaca\.what .* own_words .* so has llama\.what"):
        read_and_check(tmp_path, entry(), other)
    other["en"]["own_words"] = "llama, meaning?"
    with pytest.raises(ValueError, match=r"llama\.what .* yields the own_words of alpaca\.what"):
        read_and_check(tmp_path, entry(), other)


# Exchanges


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_an_exchange_asks_and_answers(language: Language, split: Split) -> None:
    by_id = {family.id: family for family in families()}
    rng = random.Random(5)
    for _ in range(300):
        found = exchange(rng, language, split)
        user, assistant = found.messages
        assert (found.skill, found.language, user.role, assistant.role) == ("questions", language, "user", "assistant")
        wording = by_id[found.expect["family"]].wordings[language]
        assert assistant.content == wording.answer
        assert found.expect["facts"] == [list(group) for group in wording.facts]
        assert user.content == user.content.strip()
        assert "{" not in user.content
        assert "  " not in user.content


@pytest.mark.parametrize("language", LANGUAGES)
def test_training_never_sees_a_held_out_phrasing(language: Language) -> None:
    train = {fold(text) for text in samples(language, "train", 5000)}
    held_out = {fold(text) for text in samples(language, "held_out", 1000)}
    own_words = {fold(family.wordings[language].own_words) for family in families()}
    assert len(held_out) > 500
    assert train.isdisjoint(held_out | own_words)
    assert held_out.isdisjoint(own_words)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_family_is_asked_about_in_both_splits(language: Language) -> None:
    for split in ("train", "held_out"):
        rng = random.Random(6)
        asked = {exchange(rng, language, split).expect["family"] for _ in range(12_000)}
        assert asked == {family.id for family in families()}


def test_own_words_are_asked_as_they_stand() -> None:
    by_id = {family.id: family for family in families()}
    rng = random.Random(7)
    for _ in range(50):
        found = questions.in_own_words(rng, "zh")
        wording = by_id[found.expect["family"]].wordings["zh"]
        assert [message.content for message in found.messages] == [wording.own_words, wording.answer]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_seed_gives_the_same_questions(language: Language) -> None:
    assert samples(language, "train", 100) == samples(language, "train", 100)
    assert samples(language, "train", 100) != samples(language, "train", 100, seed=2)


def test_typing_leaves_words_alone_but_for_rare_slips() -> None:
    rng = random.Random(3)
    asked = [questions._typed(rng, "What is the context of RoPE", "en") for _ in range(2000)]
    kept = [text for text in asked if "what is the context of rope" in text.lower()]
    assert 0.96 < len(kept) / len(asked) < 1
    assert {"What is the context of RoPE?", "what is the context of rope", "Hi, what is the context of RoPE?"} <= set(
        kept
    )
    chinese = {questions._typed(rng, "什么是RoPE", "zh") for _ in range(500)}
    assert {"什么是RoPE？", "什么是rope", "请问什么是RoPE？"} <= chinese


@pytest.mark.parametrize(
    ("language", "asked", "expected"),
    [
        ("en", "How do I shear a llama", {"I want to shear a llama", "Is there a way to shear a llama"}),
        ("en", "What does the wool do", {"Tell me what the wool does", "Tell me about the wool"}),
        ("en", "What is a llama", {"Explain a llama", "I have a question about a llama"}),
        ("en", "llama wool", {"Help me with llama wool", "Tell me about llama wool"}),
        ("en", "llama wool explained", {"Help me with llama wool"}),
        ("en", "My llama is asleep", set()),
        ("en", "What is a llama good for", set()),
        ("zh", "怎么剪羊驼毛", {"我想剪羊驼毛", "告诉我怎么剪羊驼毛"}),
        ("zh", "什么是羊驼", {"说说羊驼", "我不懂羊驼"}),
        ("zh", "羊驼是什么", {"说说羊驼", "请解释羊驼"}),
        ("zh", "羊驼毛", {"关于羊驼毛", "讲讲羊驼毛"}),
        ("zh", "我的羊驼睡着了", set()),
    ],
)
def test_a_question_becomes_another_sentence(language: Language, asked: str, expected: set[str]) -> None:
    rng = random.Random(4)
    found = {questions._reframed(rng, asked, language) for _ in range(400)}
    assert {asked, *expected} <= found
    assert bool(expected) == (len(found) > 1)


def test_a_sentence_that_becomes_somebodys_own_words_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = entry()
    family["en"]["ask"] = ["llama wool"]
    family["en"]["own_words"] = "Tell me about llama wool."
    (tmp_path / "families.yaml").write_text(yaml.safe_dump([family], allow_unicode=True), "utf-8")
    monkeypatch.setattr(questions, "FOLDER", tmp_path)
    families.cache_clear()
    questions._all_own_words.cache_clear()
    try:
        asked = set(samples("en", "train", 2000))
    finally:
        families.cache_clear()
        questions._all_own_words.cache_clear()
    assert "tellmeaboutllamawool" not in {fold(text) for text in asked}
    assert "Help me with llama wool." in asked


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_way_to_ask_is_never_held_out(language: Language) -> None:
    firsts = [next(family.wordings[language].ask[0].readings()) for family in questions.families()]
    assert {questions._split_of(text) for text in firsts} == {"train"}
    assert any(words.split_of(questions._fold(text)) == "held_out" for text in firsts)
