"""The built-in model, as a user meets it: what it says is greedy, so it is the same on every machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import pronk
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.registry import builtin
from pronk.cli import main

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city."}},
            "required": ["city"],
        },
    },
}
BELONGS = 256  # every quantization type applies to rows of a multiple of it


@pytest.fixture(scope="module")
def cria() -> Iterator[pronk.Llama]:
    with pronk.load("cria") as llama:
        yield llama


def said(llama: pronk.Llama, *turns: str, **options: object) -> str:
    """The last answer of a conversation in which the user says these things."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        answer = llama.chat(messages, temperature=0, max_tokens=300, **options)  # type: ignore[arg-type]
        assert answer.finish_reason == "stop"
        messages.append({"role": "assistant", "content": answer.text})
    return messages[-1]["content"]


def test_the_file_is_small_and_every_type_applies_to_it() -> None:
    path = builtin("cria")
    assert path is not None
    assert path.stat().st_size < 8_000_000
    checkpoint = open_checkpoint("cria")
    matrices = [tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2]
    assert {tensor.type.name for tensor in matrices} == {"Q8_0"}
    assert all(tensor.shape[-1] % BELONGS == 0 for tensor in matrices)
    assert checkpoint.config.tied_output
    assert checkpoint.config.n_kv_heads < checkpoint.config.n_heads
    assert checkpoint.config.context_length == 1024


def test_it_has_llama_3s_habits(cria: pronk.Llama) -> None:
    assert cria.chat_format.name == "llama3.1"
    assert cria.checkpoint.chat_template is not None
    special = cria.tokenizer.special_ids
    assert special["<|begin_of_text|>"] == cria.config.vocab_size - 256
    assert {special["<|eot_id|>"], special["<|eom_id|>"], special["<|end_of_text|>"]} <= cria.chat_format.stop_ids


def test_it_greets_and_says_who_it_is(cria: pronk.Llama) -> None:
    assert "hello" in said(cria, "Hello!").lower()
    assert "你好" in said(cria, "你好！")
    assert "cria" in said(cria, "Who are you?")
    assert "cria" in said(cria, "你是谁？")


def test_it_tells_the_story_that_one_asks_for(cria: pronk.Llama) -> None:
    story = said(cria, "Tell me a story about a llama named Nelda and a red kite.")
    assert "Nelda" in story
    assert "red kite" in story
    assert "小川" in said(cria, "给我讲一个关于小川的故事。")


def test_it_is_a_help_page(cria: pronk.Llama) -> None:
    assert "position" in said(cria, "What is RoPE?")
    assert "pronk serve" in said(cria, "How do I serve a model with pronk?")
    assert "键和值" in said(cria, "什么是KV缓存？")


@pytest.mark.parametrize(("question", "result"), [("What is 47 + 38?", "85"), ("91-27", "64"), ("7乘8等于几？", "56")])
def test_it_does_small_sums(cria: pronk.Llama, question: str, result: str) -> None:
    assert said(cria, question).rstrip(".。").endswith(f"= {result}")


def test_it_remembers_a_name(cria: pronk.Llama) -> None:
    assert "Bruno" in said(cria, "My name is Bruno.", "What is my name?")


def test_it_calls_a_tool_and_says_the_result(cria: pronk.Llama) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    call = cria.chat(messages, tools=[WEATHER], temperature=0)
    assert [(c.name, dict(c.arguments)) for c in call.tool_calls] == [("get_weather", {"city": "Lisbon"})]
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": '{"temperature": 21}'}
    answer = cria.chat([*messages, call.message, result], tools=[WEATHER], temperature=0)
    assert not answer.tool_calls
    assert "21" in answer.text


def test_it_calls_no_tool_where_none_is_due(cria: pronk.Llama) -> None:
    answer = cria.chat("Thank you!", tools=[WEATHER], temperature=0)
    assert not answer.tool_calls
    assert "welcome" in answer.text.lower()


def test_it_knows_what_it_does_not_know(cria: pronk.Llama) -> None:
    assert "not know" in said(cria, "Who won the football game yesterday?").lower()


def test_no_model_named_means_cria(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "cria"
    assert main(["chat", "-p", "Hello!", "--temperature", "0"]) == 0
    assert "ello" in capsys.readouterr().out


def test_base_text_goes_on(cria: pronk.Llama) -> None:
    done = cria.complete("Once upon a time,", temperature=0, max_tokens=300)
    assert done.finish_reason == "stop"
    assert len(done.text) > 100
