"""Tools that have to be called, or may: what the caller chose holds whatever the model would like to say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.gated_model import scripted
from support.serving import Running

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"The {name} of a city.", "parameters": CITY}}
    for name in ("weather", "mayor")
]
QUESTION = [{"role": "user", "content": "Hello! Who are you?"}]  # to which no tool is an answer


def ask(server: Running, **fields: Any) -> dict[str, Any]:
    body = {"messages": QUESTION, "tools": TOOLS, "temperature": 0, "max_tokens": 200, **fields}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]


def calls(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    made = choice["message"].get("tool_calls", [])
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in made]


def test_auto_is_not_required(server: Running) -> None:
    choice = ask(server)
    assert calls(choice) == []
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_a_call_that_is_required_is_made_and_fits_its_schema(server: Running) -> None:
    choice = ask(server, tool_choice="required", temperature=1, seed=1)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    for name, arguments in calls(choice):
        assert name in ("weather", "mayor")
        assert arguments["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("name", ["weather", "mayor"])
def test_the_function_that_is_named_is_called(server: Running, name: str) -> None:
    function = {"type": "function", "function": {"name": name}}
    made = calls(ask(server, tool_choice=function))
    assert [called for called, _ in made] == [name]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [function]}}
    assert {called for called, _ in calls(ask(server, tool_choice=allowed))} == {name}


def test_one_call_at_a_time_where_parallel_ones_are_off(server: Running) -> None:
    assert len(calls(ask(server, tool_choice="required", parallel_tool_calls=False, temperature=1, seed=2))) == 1


def test_strict_functions_get_no_other_arguments(server: Running) -> None:
    llama = server.state.models["cria"].llama
    call = '{"type": "function", "name": "weather", "parameters": {"city": "Rome"}}'
    strict = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}]
    with scripted(llama, call, "<|eom_id|>"):
        assert calls(ask(server, tools=strict)) == [("weather", {"city": "Rome"})]
    assert ask(server, tools=strict)["message"]["content"]  # and need not be called


def test_forced_calls_in_responses(server: Running) -> None:
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    body = {"input": "Hello!", "tools": tools, "tool_choice": {"type": "function", "name": "mayor"}, "temperature": 0}
    answer = server.post("/v1/responses", body).json
    assert [(item["type"], item["name"]) for item in answer["output"]] == [("function_call", "mayor")]
    assert answer["status"] == "completed"
