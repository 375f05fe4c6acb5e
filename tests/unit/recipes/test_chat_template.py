"""cria's template, which other programs read, writes what pronk's own format writes."""

from __future__ import annotations

from pathlib import Path

import pytest

import recipes.cria
from pronk.text import tiktoken_file
from pronk.text.chat import chat_format
from pronk.text.messages import Message, Tool, ToolCall
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from recipes.cria import corpus, plan, tokenizer

TEMPLATE = (Path(recipes.cria.__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city."},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["city"],
    },
)
CALL = Message("assistant", tool_calls=(ToolCall("call", "get_weather", {"city": "小镇", "unit": "celsius"}),))
RESULT = Message("tool", '{"degrees": 21}', tool_call_id="call")
CONVERSATIONS = {
    "question": ((Message("user", "Hello"),), ()),
    "system": ((Message("system", "Be kind."), Message("user", "你好")), ()),
    "turns": ((Message("user", "1+1"), Message("assistant", "2"), Message("user", " and 2+2?\n")), ()),
    "tools": ((Message("user", "Weather?"),), (WEATHER, Tool("tell_joke", "A joke."))),
    "call": ((Message("system", "Be brief."), Message("user", "Weather?"), CALL, RESULT), (WEATHER,)),
}


@pytest.fixture(scope="module")
def reader() -> Tokenizer:
    return build_tokenizer(tiktoken_file.read(tokenizer.train(corpus.texts(plan.SMOKE), 768)))


def test_the_template_is_recognised(reader: Tokenizer) -> None:
    assert chat_format(reader, TEMPLATE).name == "llama3.1"


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_template_and_format_write_the_same(reader: Tokenizer, name: str) -> None:
    messages, tools = CONVERSATIONS[name]
    expected = chat_format(reader, variant="llama3.1").encode(messages, tools)
    found = chat_format(reader, TEMPLATE, variant="template").encode(messages, tools)
    assert reader.decode(found) == reader.decode(expected)
    assert found == expected
