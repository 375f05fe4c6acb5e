"""Whatever a model says under a tool grammar, the chat format's parser reads it back as calls that fit the schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import pytest

from pronk.engine.tool_grammar import tool_grammar
from pronk.errors import RequestError
from pronk.text.chat import chat_format, read_answer
from pronk.text.messages import Answer, ChatFormat, Tool
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind
from support.eager_engine import fake_engine, run, sampled
from support.engine_fakes import tiny_llama3
from support.vocabularies import sentencepiece

WEATHER = Tool(
    "get_weather",
    "Weather of a city",
    {
        "type": "object",
        "properties": {
            "unit": {"enum": ["c", "f"]},
            "city": {"type": "string", "maxLength": 5, "pattern": "^(?!x)"},  # a pattern that no automaton can follow
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "place": {"$ref": "#/$defs/place"},
        },
        "required": ["city", "place"],
        "$defs": {
            "place": {
                "type": "object",
                "properties": {"lat": {"type": "number", "minimum": 0, "maximum": 9}, "home": {"type": "boolean"}},
                "required": ["lat", "home"],
            }
        },
    },
)
TIDY = Tool("tidy-up", "", {"properties": {"how": {"type": ["null", "boolean"]}}, "uniqueItems": True})
NOW = Tool("now", "The time")
TOOLS = [WEATHER, NOW]
SEARCH, CODE = Tool("brave_search"), Tool("code_interpreter")
TAGGED = "{% for m in messages %}{{ m.content }}{% endfor %}<tool_call>"

FORMS: dict[str, Any] = {
    "json": lambda: chat_format(tiny_llama3(), variant="llama3.1"),
    "tag": lambda: chat_format(tiny_llama3(), variant="llama3.1", tool_style="tag"),
    "pythonic": lambda: chat_format(tiny_llama3(), variant="llama3.2"),
    "template": lambda: chat_format(tiny_llama3(), "{{ messages[0].content }}", variant="template"),
    "tool_call as text": lambda: chat_format(tiny_llama3(), TAGGED, variant="template"),
    "tool_call as tokens": lambda: chat_format(
        build_tokenizer(sentencepiece(extra={"<tool_call>": TokenKind.CONTROL, "</tool_call>": TokenKind.CONTROL})),
        TAGGED,
        variant="template",
    ),
}


def answers(
    form: Any, tools: Sequence[Tool], choice: str, parallel: bool = True, script: str = "", special: bool = False
) -> list[Answer]:
    """What the parser reads of some answers that ended by themselves. `script`: what the model wants to say first."""
    ids = form.tokenizer.encode(script, bos=False, special=special) if script else []
    engine = fake_engine(form.tokenizer, script=ids)
    grammar = tool_grammar(form, tools, choice, parallel)
    wanted = [sampled(grammar, seed, stop_ids=form.stop_ids) for seed in range(8)]
    return [read_answer(form, ids, tools) for _, last, ids in run(engine, *wanted) if last.finish_reason == "stop"]


def assert_right(answer: Answer, tools: Sequence[Tool]) -> None:
    for call in answer.tool_calls:
        tool = next(tool for tool in tools if tool.name == call.name)
        if tool.parameters is not None:
            schema = json.loads(json.dumps(tool.parameters).replace('"pattern": "^(?!x)"', '"minLength": 0'))
            assert jsonschema_rs.is_valid({**schema, "additionalProperties": False}, dict(call.arguments)), call
        elif tool is NOW:
            assert call.arguments == {}
        else:
            assert list(call.arguments) == ["code" if tool is CODE else "query"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("parallel", [True, False])
def test_a_required_call_is_read_back_in_every_format(name: str, parallel: bool) -> None:
    form = FORMS[name]()
    found = answers(form, TOOLS, "required", parallel)
    assert len(found) > 4
    for answer in found:
        assert answer.content == ""
        assert_right(answer, TOOLS)
    counts = {len(answer.tool_calls) for answer in found}
    assert (max(counts) > 1) if parallel else counts == {1}
    assert {call.name for answer in found for call in answer.tool_calls} == {"get_weather", "now"}


@pytest.mark.parametrize("name", FORMS)
def test_a_named_tool_is_called_and_no_other(name: str) -> None:
    for answer in answers(FORMS[name](), TOOLS, "get_weather", False):
        assert [call.name for call in answer.tool_calls] == ["get_weather"]
        assert_right(answer, TOOLS)


def test_built_in_tools_are_called_after_the_python_tag() -> None:
    tools, form = [SEARCH, CODE, NOW], FORMS["json"]()
    for tool in (SEARCH, CODE):
        found = answers(form, tools, tool.name)
        assert found
        for answer in found:
            assert [call.name for call in answer.tool_calls] == [tool.name]
            assert_right(answer, tools)
    kinds = {call.name for answer in answers(form, tools, "required") for call in answer.tool_calls}
    assert kinds <= {"now", "brave_search", "code_interpreter"}


BEGINNINGS = [
    '{"name": "get_weather", ',
    '{"type": "function", "name": "now", ',
    '\n {"name":"get_weather","arguments":',
    "[get_weather(",
    "[now()",
    "<function=get_weather>",
    "Let me look. <function=now>{",
]


@pytest.mark.parametrize("script", BEGINNINGS)
@pytest.mark.parametrize("parallel", [True, False])
def test_what_begins_as_a_call_becomes_one(script: str, parallel: bool) -> None:
    form = FORMS["json"]()
    found = answers(form, TOOLS, "auto", parallel, script)
    assert found
    for answer in found:
        assert answer.tool_calls
        assert parallel or len(answer.tool_calls) == 1
        assert answer.content == ("Let me look. " if script.startswith("Let") else "")
        assert_right(answer, TOOLS)


@pytest.mark.parametrize("name", ["tool_call as text", "tool_call as tokens"])
def test_what_begins_as_a_tagged_call_becomes_one(name: str) -> None:
    found = answers(FORMS[name](), TOOLS, "auto", False, "he <tool_call>", special=True)
    assert found
    for answer in found:
        assert len(answer.tool_calls) == 1
        assert_right(answer, TOOLS)


@pytest.mark.parametrize(
    ("script", "tools"),
    [("<|python_tag|>", TOOLS), ("Let me. <|python_tag|>[", [NOW, SEARCH, CODE]), ("<|python_tag|>brave", [SEARCH])],
)
def test_what_follows_the_python_tag_is_a_call(script: str, tools: list[Tool]) -> None:
    found = answers(FORMS["json"](), tools, "auto", True, script, special=True)
    assert found
    for answer in found:
        assert answer.tool_calls
        assert_right(answer, tools)


@pytest.mark.parametrize(
    "text", ["It is warm.", '{"name": "Bob", "id": 7}', "[1, 2]", "[f(1)]", "a <function=x> b", '{"a": {"b": []}}', ""]
)
def test_auto_leaves_text_alone(text: str) -> None:
    form = FORMS["json"]()
    stop = form.tokenizer.special_ids["<|eot_id|>"]
    engine = fake_engine(form.tokenizer, script=[*form.tokenizer.encode(text, bos=False), stop])
    grammar = tool_grammar(form, [*TOOLS, SEARCH], "auto", True)
    ((said, last, ids),) = run(engine, sampled(grammar, stop_ids=form.stop_ids))
    assert (said, last.stopped_by) == (text, stop)
    assert read_answer(form, ids, TOOLS) == Answer(text)


@pytest.mark.parametrize(
    ("form", "tools", "choice", "message"),
    [
        ("json", [], "required", "tool_choice is 'required' and there are no tools"),
        ("json", TOOLS, "nope", "names 'nope', which is none of the tools: get_weather, now"),
        ("plain", TOOLS, "auto", "plain knows no tools"),
        ("llama3", TOOLS, "auto", "llama3 was taught no tools"),
        ("json", [Tool("f", "", {"type": "object", "$ref": "http://x/y"})], "f", "the tool 'f' cannot be enforced"),
        ("pythonic", [Tool("f", "", {"properties": {"a-b": {}}})], "f", "'f' has an argument that is no Python name"),
    ],
)
def test_what_cannot_be_is_refused(form: str, tools: list[Tool], choice: str, message: str) -> None:
    chat: ChatFormat = FORMS[form]() if form in FORMS else chat_format(tiny_llama3(), variant=form)
    with pytest.raises(RequestError, match=message):
        tool_grammar(chat, tools, choice, True)


def test_a_tool_that_is_no_python_name_is_called_in_the_other_forms() -> None:
    found = answers(FORMS["json"](), [TIDY], "auto", False, '{"name": "tidy-up", ')
    assert found
    for answer in found:
        assert [call.name for call in answer.tool_calls] == ["tidy-up"]
        assert set(answer.tool_calls[0].arguments) <= {"how"}
