"""Questions about pronk and Llama: the files are sound, bad ones are refused by name, and the splits are disjoint."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.cria.conversation import LANGUAGES, Language, Split
from recipes.cria.skills import questions
from recipes.cria.skills.questions import check, exchange, families, read


def entry(name: str = "llama.what", topic: str = "llama") -> dict[str, Any]:
    return {
        "id": name,
        "en": {
            "ask": [f"{{What is|Define}} {{a|the}} {topic}", f"{topic} meaning"],
            "held_out": [f"The {topic}?", f"So the {topic} would be?", f"Say what you know of the {topic}."],
            "answer": "It is an animal.",
            "facts": [["animal", "beast"]],
        },
        "zh": {
            "ask": [f"{{什么是|解释}}{topic}"],
            "held_out": [f"{topic}呢？", f"{topic}到底是啥？", f"说说{topic}。"],
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
            assert len(wording.held_out) == 3
            assert all(any(text.lower() in wording.answer.lower() for text in group) for group in wording.facts)


# What is refused


def test_good_families_are_accepted(tmp_path: Path) -> None:
    read_and_check(tmp_path, entry(), entry("alpaca.what", "alpaca"))


def two_held_out(family: dict[str, Any]) -> None:
    family["en"]["held_out"].pop()


def same_held_out_twice(family: dict[str, Any]) -> None:
    family["en"]["held_out"][0] = "So the LLAMA would be"


def held_out_producible(family: dict[str, Any]) -> None:
    family["en"]["held_out"][0] = "what is the LLAMA?"


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
        two_held_out,
        same_held_out_twice,
        held_out_producible,
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
    other["en"]["held_out"][2] = "The llama."
    with pytest.raises(ValueError, match=r"alpaca\.what .* held_out .* so has llama\.what"):
        read_and_check(tmp_path, entry(), other)
    other["en"]["held_out"][2] = "llama, meaning?"
    with pytest.raises(ValueError, match=r"llama\.what .* yields a held_out of alpaca\.what"):
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
        assert (user.content in wording.held_out) == (split == "held_out")


@pytest.mark.parametrize("language", LANGUAGES)
def test_training_never_sees_a_held_out_phrasing(language: Language) -> None:
    held_out = {fold(text) for family in families() for text in family.wordings[language].held_out}
    assert held_out.isdisjoint(fold(text) for text in samples(language, "train", 5000))
    assert held_out.issuperset(fold(text) for text in samples(language, "held_out", 300))


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


def test_a_sentence_that_becomes_a_held_out_one_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = entry()
    family["en"]["ask"] = ["llama wool"]
    family["en"]["held_out"][:2] = ["Tell me about llama wool.", "Hi, llama meaning!"]
    (tmp_path / "families.yaml").write_text(yaml.safe_dump([family], allow_unicode=True), "utf-8")
    monkeypatch.setattr(questions, "FOLDER", tmp_path)
    families.cache_clear()
    questions._held_out.cache_clear()
    try:
        asked = set(samples("en", "train", 2000))
    finally:
        families.cache_clear()
        questions._held_out.cache_clear()
    assert {fold(text) for text in family["en"]["held_out"]}.isdisjoint(fold(text) for text in asked)
    assert "Help me with llama wool." in asked
