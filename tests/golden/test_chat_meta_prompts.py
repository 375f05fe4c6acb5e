"""Every prompt on Meta's prompt pages, token for token, from messages and tools."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pronk.text.chat import chat_format
from pronk.text.messages import Message, Tool
from support.chat import llama3_tokenizer, read_answer, tiktoken_ids

PAGES = {
    "llama3_1_prompt_format.md": "llama3.1",
    "llama3_2_text_prompt_format.md": "llama3.2",
    "llama3_3_prompt_format.md": "llama3.3",
}
HEADER = re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n")
SEARCHES = (Tool("brave_search"), Tool("wolfram_alpha"))
SYSTEM = Message("system", "You are a helpful assistant.")


def prompts(data: Path, page: str) -> dict[str, str]:
    """Section title -> the prompt shown there, as it is in the file."""
    text = (data / "chat" / page).read_text(encoding="utf-8")
    found = {}
    for section in re.split(r"\n(?=##+ (?!##))", text):
        for block in re.findall(r"##### Input Prompt Format\n```\n(.*?)\n```", section, re.DOTALL):
            title = re.findall(r"^##+ (.*)$", text[: text.index(block)], re.MULTILINE)[-2]
            found[title] = block
    return {title: block for title, block in found.items() if HEADER.search(block)}


def turns(block: str, variant: str, data: Path) -> list[Message]:
    """The messages that a prompt shows, assistant's calls read by our own parser."""
    parts = HEADER.split(block.removeprefix("<|begin_of_text|>"))[1:]
    messages = []
    for role, body in zip(parts[:-2:2], parts[1:-2:2], strict=True):
        content = re.sub(r"<\|(eot|eom)_id\|>$", "", body)
        if role == "assistant":
            messages.append(assistant(content, variant, data))
        else:
            messages.append(Message("tool" if role == "ipython" else role, content))
    return messages


def assistant(content: str, variant: str, data: Path) -> Message:
    tools = (*SEARCHES, Tool("get_weather", parameters={}))
    format_ = chat_format(llama3_tokenizer(data), variant=variant)
    answer = read_answer(format_.parser(tools), [tiktoken_ids(data, content)])
    return Message("assistant", answer.content, answer.tool_calls)


@pytest.mark.parametrize("page", PAGES)
def test_every_prompt_of_a_page(shared_data: Path, page: str) -> None:
    blocks = prompts(shared_data, page)
    assert len(blocks) == {"llama3.1": 6, "llama3.2": 5, "llama3.3": 8}[PAGES[page]]
    for title, block in blocks.items():
        messages = turns(block, PAGES[page], shared_data)
        # A page shows the model's words; the format of a call in the middle is what its own section teaches.
        style = "pythonic" if "[get_weather(" in block else None
        format_ = chat_format(llama3_tokenizer(shared_data), variant=PAGES[page], tool_style=style)
        assert format_.encode(messages) == tiktoken_ids(shared_data, block), title


def shown(data: Path, page: str, start: str) -> str:
    blocks = prompts(data, page)
    return next(block for title, block in blocks.items() if title.startswith(start))


def schema(block: str) -> dict:
    """The function that a prompt describes in JSON."""
    decoder = json.JSONDecoder()
    begin = re.search(r"^[\[{]\n? *[{\"]|^\{\"name\"", block, re.MULTILINE)
    assert begin
    value = decoder.raw_decode(block, begin.start())[0]
    value = value[0] if isinstance(value, list) else value
    return value.get("function", value)


def tool(block: str) -> Tool:
    fields = schema(block)
    return Tool(fields["name"], fields["description"], fields["parameters"])


def test_built_in_tools_from_their_names(shared_data: Path) -> None:
    tokenizer = llama3_tokenizer(shared_data)
    block = shown(shared_data, "llama3_1_prompt_format.md", "Builtin Tool Calling")
    dated = chat_format(tokenizer, variant="llama3.1", today="21 September 2024")
    question = Message("user", "Search the web for the latest price of 1oz gold?")
    assert dated.encode([SYSTEM, question], SEARCHES) == tiktoken_ids(shared_data, block)

    block = shown(shared_data, "llama3_1_prompt_format.md", "Built-in tools full interaction")
    messages = turns(block, "llama3.1", shared_data)[1:]
    assert chat_format(tokenizer).encode(messages, SEARCHES) == tiktoken_ids(shared_data, block)


def test_code_interpreter_from_its_name(shared_data: Path) -> None:
    tokenizer = llama3_tokenizer(shared_data)
    code = (Tool("code_interpreter"),)
    block = shown(shared_data, "llama3_1_prompt_format.md", "Builtin Code Interpreter")
    assert chat_format(tokenizer).encode(turns(block, "llama3.1", shared_data)[1:], code) == tiktoken_ids(
        shared_data, block
    )
    block = shown(shared_data, "llama3_2_text_prompt_format.md", "Code Interpreter")
    dated = chat_format(tokenizer, variant="llama3.2", today="24 September 2024")
    assert dated.encode(turns(block, "llama3.2", shared_data)[1:], code) == tiktoken_ids(shared_data, block)


@pytest.mark.parametrize(("title", "style"), [("JSON based", "json"), ("`<function>` based", "tag")])
def test_functions_of_the_3_1_page(shared_data: Path, title: str, style: str) -> None:
    block = shown(shared_data, "llama3_1_prompt_format.md", title)
    dated = chat_format(llama3_tokenizer(shared_data), variant="llama3.1", tool_style=style, today="21 September 2024")
    question = Message("user", "Use tools to get latest trending songs")
    assert dated.encode([SYSTEM, question], [tool(block)]) == tiktoken_ids(shared_data, block)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("llama3_2_text_prompt_format.md", "Zero shot function calling"),
        ("llama3_2_text_prompt_format.md", "Zero shot function calling E2E format"),
        ("llama3_3_prompt_format.md", "Zero shot function calling"),
    ],
)
def test_pythonic_functions_in_the_system_message(shared_data: Path, page: str, title: str) -> None:
    block = prompts(shared_data, page)[title]
    format_ = chat_format(llama3_tokenizer(shared_data), variant=PAGES[page])
    messages = turns(block, PAGES[page], shared_data)[1:]
    assert format_.encode(messages, [tool(block)]) == tiktoken_ids(shared_data, block)


def test_pythonic_functions_in_the_user_message(shared_data: Path) -> None:
    block = shown(shared_data, "llama3_2_text_prompt_format.md", "Zero shot function calling with user message")
    written = block[block.index("[\n    {") : block.index("\n]\n") + 2]
    # The page's own JSON is indented by hand, unevenly; everything around it must be the same.
    block = block.replace(written, json.dumps(json.loads(written), indent=4))
    format_ = chat_format(llama3_tokenizer(shared_data), variant="llama3.2", tools_in="user")
    question = re.search(r"Questions: (.*)\n", block)
    assert question
    assert format_.encode([Message("user", question[1])], [tool(block)]) == tiktoken_ids(shared_data, block)
