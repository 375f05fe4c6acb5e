"""Messages and tools in OpenAI's JSON shape, there and back."""

from __future__ import annotations

from typing import Any

import pytest

from pronk.errors import ChatFormatError
from pronk.text.messages import (
    Message,
    Tool,
    ToolCall,
    messages_from_json,
    messages_to_json,
    tool_call_to_json,
    tools_from_json,
)

CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": {"b": [1]}}'}}
ASKED = {"role": "user", "content": "Hi"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def test_a_conversation_there_and_back() -> None:
    obj = [
        {"role": "system", "content": "Be kind."},
        ASKED,
        CALLED,
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "北京"},
    ]
    messages = messages_from_json(obj)
    assert messages == (
        Message("system", "Be kind."),
        Message("user", "Hi"),
        Message("assistant", "", (ToolCall("c1", "f", {"a": {"b": [1]}}),)),
        Message("tool", "42", (), "c1"),
        Message("assistant", "北京"),
    )
    assert messages_to_json(messages) == obj


def test_what_other_programs_write_is_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages_from_json([{"role": "developer", "content": parts}])[0] == Message("system", "ab")
    empty = {"id": "c", "function": {"name": "f", "arguments": ""}}
    given = {"id": "d", "function": {"name": "g", "arguments": {"x": 1}}}
    messages = messages_from_json([ASKED, {"role": "assistant", "tool_calls": [empty, given]}])
    assert messages[1].tool_calls == (ToolCall("c", "f", {}), ToolCall("d", "g", {"x": 1}))
    assert messages_from_json([ASKED, {"role": "assistant", "content": ""}])[1] == Message("assistant", "")


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        ({}, "messages are a dict; expected a list"),
        ([], "the conversation is empty"),
        (["hi"], "message 0 is a str; expected an object"),
        ([{"content": "x"}], "message 0: 'role' is missing"),
        ([{"role": "bot", "content": "x"}], "message 0 has role 'bot'; expected one of system, user, assistant, tool"),
        ([{"role": 3, "content": "x"}], "message 0: 'role' is 3; expected a string"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": 3}], "content is a int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'; only 'text' is supported"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'text' is missing"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "only an assistant calls"),
        ([{"role": "assistant", "tool_calls": {}}, {"role": "assistant", "tool_calls": "x"}], "message 1's tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "message 0, call 0's function is a null"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "type": "magic"}]}], "type 'magic'"),
        ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]}], "'name' is missing"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "'id' is missing"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1]"}}]}],
            "the arguments of 'f' are a list; expected a JSON object",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}],
            "the arguments of 'f' are not JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[" * 10**5}}]}],
            "the arguments of 'f' are not JSON",
        ),
        ([ASKED, {"role": "tool", "content": "x", "tool_call_id": "c1"}], "message 1 is a tool result, but no"),
        ([CALLED, {"role": "tool", "content": "x", "tool_call_id": "c2"}], "answers call 'c2'; .* are 'c1'"),
        ([CALLED, *[{"role": "tool", "content": "x", "tool_call_id": "c1"}] * 2], "message 2 is a tool result"),
        ([CALLED, {"role": "tool", "content": "x", "tool_call_id": 1}], "tool_call_id is a int"),
    ],
)
def test_bad_messages_are_refused_by_number(obj: object, problem: str) -> None:
    with pytest.raises(ChatFormatError, match=problem):
        messages_from_json(obj)


def test_tools_in_every_shape() -> None:
    schema = {"type": "object", "properties": {}}
    function = {"name": "f", "description": "F", "parameters": schema}
    assert tools_from_json([{"type": "function", "function": function}]) == (Tool("f", "F", schema),)
    assert tools_from_json([function]) == (Tool("f", "F", schema),)
    assert tools_from_json(["code_interpreter", {"name": "g", "description": None}]) == (
        Tool("code_interpreter"),
        Tool("g"),
    )


@pytest.mark.parametrize(
    ("obj", "problem"),
    [
        ("f", "tools are a str"),
        ([3], "tool 0 is a int"),
        ([{"type": "magic", "function": {}}], "type 'magic'"),
        ([{"function": {}}], "'name' is missing"),
        ([{"name": "f", "parameters": []}], "parameters is a list"),
        ([{"name": "f", "description": 3}], "description is a int"),
        (["f", {"name": "f"}], "two tools are called 'f'"),
    ],
)
def test_bad_tools_are_refused(obj: object, problem: str) -> None:
    with pytest.raises(ChatFormatError, match=problem):
        tools_from_json(obj)


def test_arguments_that_are_not_json_are_refused() -> None:
    with pytest.raises(ChatFormatError, match="arguments of the call to 'f'"):
        tool_call_to_json(ToolCall("1", "f", {"x": {1, 2}}))
