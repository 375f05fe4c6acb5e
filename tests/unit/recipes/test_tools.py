"""Tool calls: right by their schemas, said by the user, and held-out tools unlike those of training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from pronk.text.llama3_tools import check_tools
from pronk.text.messages import Tool, messages_from_json, messages_to_json
from recipes.cria.conversation import LANGUAGES, Exchange, Language, Split
from recipes.cria.skills import tools
from recipes.cria.tool_functions import SPLITS, Function, FunctionTool, written_functions
from recipes.cria.tool_values import choices

TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}
CASES = [(language, split) for language in LANGUAGES for split in SPLITS]


@cache
def samples(language: Language, split: Split) -> tuple[Exchange, ...]:
    rng = random.Random(7)
    return tuple(tools.exchange(rng, language, split) for _ in range(300))


def called(split: Split) -> Iterator[tuple[Exchange, Tool, dict[str, Any]]]:
    """The calls of a split's samples, with the tool called."""
    for language in LANGUAGES:
        for exchange in samples(language, split):
            if (call := exchange.expect["call"]) is not None:
                tool = next(tool for tool in exchange.tools if tool.name == call["name"])
                yield exchange, tool, call["arguments"]


def properties(tool: Tool) -> dict[str, Any]:
    assert tool.parameters is not None
    found: dict[str, Any] = tool.parameters["properties"]
    return found


@pytest.mark.parametrize(("language", "split"), CASES)
def test_a_seed_decides_everything(language: Language, split: Split) -> None:
    rng = random.Random(7)
    again = tuple(tools.exchange(rng, language, split) for _ in range(50))
    assert again == samples(language, split)[:50]


@pytest.mark.parametrize(("language", "split"), CASES)
def test_exchanges_are_well_formed(language: Language, split: Split) -> None:
    for exchange in samples(language, split):
        assert (exchange.skill, exchange.language) == ("tools", language)
        assert messages_from_json(messages_to_json(exchange.messages)) == exchange.messages
        assert 1 <= len(exchange.tools) <= 4
        check_tools("json", exchange.tools)
        answer = exchange.messages[-1]
        assert (answer.role, answer.tool_calls) == ("assistant", ())
        lowered = answer.content.lower()
        assert all(text.lower() in lowered for text in exchange.expect["answer_contains"]), exchange
        text = "".join(message.content for message in exchange.messages if message.role != "tool")
        assert not set("{}[]|<>") & set(text)
        assert language == "en" or "'" not in text
        assert "  " not in text


@pytest.mark.parametrize("split", SPLITS)
def test_arguments_follow_the_schema_and_the_user(split: Split) -> None:
    for exchange, tool, arguments in called(split):
        assert tool.parameters is not None
        assert set(tool.parameters.get("required", ())) <= set(arguments) <= set(properties(tool))
        assert exchange.messages[1].tool_calls[0].arguments == arguments
        for name, value in arguments.items():
            schema = properties(tool)[name]
            assert type(value) in TYPES[schema["type"]]
            assert value in schema.get("enum", [value])
            if "enum" not in schema and not isinstance(value, bool):
                assert str(value) in exchange.messages[0].content


def test_every_case_comes_up_in_both_splits() -> None:
    for language, split in CASES:
        assert {exchange.expect["case"] for exchange in samples(language, split)} == set(tools.CASES)


def test_a_toolbox_serves_several_exchanges() -> None:
    rng = random.Random(3)
    box = tools.toolbox(rng, "train", "zh")
    assert all(tools.exchange(rng, "en", "train", box).tools == box for _ in range(20))
    with pytest.raises(TypeError, match=r"expected one made by tools\.toolbox"):
        tools.exchange(rng, "en", "train", (Tool("look"),))


def test_written_functions_share_nothing() -> None:
    def parts(split: Split) -> dict[str, set[str]]:
        functions = written_functions(split)
        slots = [slot for function in functions for slot in function.slots]
        kinds = [slot.kind for slot in slots] + [kind for function in functions for kind in function.result.values()]
        return {
            "domains": {function.domain for function in functions},
            "verbs": {verb for function in functions for verb in function.verbs},
            "nouns": {noun for function in functions for noun in function.nouns},
            "parameters": {name for slot in slots for name in slot.names},
            "choices": {text for kind in kinds if kind.startswith("choice") for text in choices(kind, "en")},
        }

    train, held_out = parts("train"), parts("held_out")
    for what, found in train.items():
        assert not found & held_out[what], what


def test_samples_share_nothing() -> None:
    def parts(split: Split) -> dict[str, set[object]]:
        exchanges = [exchange for language in LANGUAGES for exchange in samples(language, split)]
        offered = [tool for exchange in exchanges for tool in exchange.tools]
        return {
            "requests": {e.messages[0].content for e in exchanges if e.expect["case"] != "talk"},
            "tools": {tool.name for tool in offered},
            "values": {
                value
                for _, tool, found in called(split)
                for name, value in found.items()
                if "enum" not in properties(tool)[name] and not isinstance(value, bool)
            },
        }

    train, held_out = parts("train"), parts("held_out")
    for what, found in train.items():
        assert not found & held_out[what], what


@pytest.mark.parametrize("split", SPLITS)
def test_written_functions_are_complete(split: Split) -> None:
    for function in written_functions(split):
        for language in LANGUAGES:
            assert function.about[language], function
            assert function.do[language], function
            assert function.say[language], function
            assert function.bare[language] or all(slot.optional for slot in function.slots), function
            for template in (*function.do[language], *function.ask[language]):
                _check_slots(function, template)
        assert not {slot.key for slot in function.slots} & set(function.result)


def _check_slots(function: Function, template: str) -> None:
    """Required slots stand outside of brackets, optional ones inside, and all of them stand somewhere."""
    outside, inside = "", ""
    for index, part in enumerate(template.replace("]", "[").split("[")):
        outside, inside = (outside, inside + part) if index % 2 else (outside + part, inside)
    for slot in function.slots:
        assert f"{{{slot.key}}}" in (inside if slot.optional else outside), template


def test_tools_are_short() -> None:
    box: tuple[FunctionTool, ...]
    for seed in range(50):
        box = tools.toolbox(random.Random(seed), "train")
        assert all(len(tool.description.split()) <= 9 and len(properties(tool)) <= 3 for tool in box)
