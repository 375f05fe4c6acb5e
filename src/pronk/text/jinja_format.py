"""Any model's own chat template, run as transformers would run it, in the sandbox of `jinja_sandbox.py`.

A template writes text, and control tokens in that text become ids; text that a caller gave must not. So:

1. Every control token's spelling inside the messages and tools is broken by a mark: a character that neither they nor
   the template contain. So are their ends, where a part of a spelling could meet its other part in the template.
2. Rendered text without a mark is tokenized as transformers does, whole. If a mark came through, the text is cut at its
   control tokens, and what lies between is encoded as plain text, the mark taken out again.
3. A template could still glue a caller's text together, by cutting something out of its middle. Where that is possible
   (the text holds part of a spelling), a second rendering with every beginning of a spelling marked must show the same
   control tokens, or the conversation is refused.

Content without control tokens thus gets exactly transformers' ids. What this cannot help: a template that marks its
turns with ordinary text ("### Instruction:") leaves a user free to type the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pronk.errors import ChatFormatError
from pronk.text import jinja_sandbox
from pronk.text.messages import ROLES, AnswerParser, Message, Tool, check_messages, dump_json
from pronk.text.tokenizer import Tokenizer
from pronk.text.tool_parsers import tool_call_tag
from pronk.text.tool_parsers.function_tag import FunctionTag
from pronk.text.tool_parsers.json_calls import JsonCalls
from pronk.text.tool_parsers.pythonic_calls import PythonicCalls
from pronk.text.tool_parsers.reader import CODE_INTERPRETER, AnswerReader
from pronk.text.tool_parsers.syntax import CallSyntax
from pronk.text.tool_parsers.tool_call_tag import ToolCallTag

_WORDS = re.compile(r"\w*")
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True)
class JinjaFormat:
    """A chat format that is a program. `today` reaches templates as `date_string`, which Llama's know."""

    tokenizer: Tokenizer
    source: str
    name: str = "template"
    today: str | None = None

    def __post_init__(self) -> None:
        jinja_sandbox.compile_template(self.source)  # a broken template is refused when it is opened

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.tokenizer.stop_ids

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        check_messages(messages)
        chat, offered = template_messages(messages), [template_tool(tool) for tool in tools]
        dump_json([chat, offered], what="the conversation")  # or what follows might not come to an end
        mark = self._unused_mark(chat, offered)
        text = self._render(*_map_texts((chat, offered), lambda part: self._break_tokens(part, mark)))
        if self._may_be_glued(chat, offered):
            strict = self._render(*_map_texts((chat, offered), lambda part: self._break_beginnings(part, mark)))
            if self._spelling.findall(text) != self._spelling.findall(strict):
                raise ChatFormatError(
                    "a message holds parts of control tokens, which the model's chat template would put together; "
                    "remove them"
                )
        return self._with_bos(self._tokenize(text, mark))

    def parser(self, tools: Sequence[Tool] = ()) -> AnswerParser:
        """Reads the tag that the template teaches, and the syntaxes of Llama models."""
        special = self.tokenizer.special_ids
        tag_id = special.get("<|python_tag|>")
        if not tools:
            return AnswerReader(self.tokenizer, tag_id=tag_id)
        names = frozenset(tool.name for tool in tools)
        syntaxes: list[CallSyntax] = [JsonCalls(names), PythonicCalls(names), FunctionTag(names), ToolCallTag(names)]
        spelled = {special[text]: text for text in (tool_call_tag.OPEN, tool_call_tag.CLOSE) if text in special}
        code = CODE_INTERPRETER in names
        return AnswerReader(self.tokenizer, syntaxes, tag_id=tag_id, code=code, spelled=spelled)

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The template's text for these messages, nothing marked."""
        return self._render(template_messages(messages), [template_tool(tool) for tool in tools])

    def _render(self, chat: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        template = jinja_sandbox.compile_template(self.source)
        values: dict[str, object] = {**self._named_tokens, "tools": tools or None, "documents": None}
        values["add_generation_prompt"] = True
        if self.today is not None:
            values["date_string"] = self.today
        try:
            return jinja_sandbox.render(template, {**values, "messages": chat})
        except ChatFormatError:
            if not any("tool_calls" in message for message in chat):
                raise
            # Most templates take a call's arguments as an object; some insist on OpenAI's JSON string.
            return jinja_sandbox.render(template, {**values, "messages": _with_text_arguments(chat)})

    @cached_property
    def _named_tokens(self) -> dict[str, object]:
        """`bos_token` and its like, as a tokenizer_config.json would name them."""
        vocabulary = self.tokenizer.vocabulary
        ids = {"bos_token": self.tokenizer.bos_id}
        if vocabulary is not None:
            ids |= {"eos_token": vocabulary.eos_id, "unk_token": vocabulary.unknown_id, "pad_token": vocabulary.pad_id}
        ids.setdefault("eos_token", min(self.tokenizer.stop_ids, default=None))
        spelling = {token_id: text for text, token_id in self.tokenizer.special_ids.items()}
        named = {name: self._spell(token_id, spelling) for name, token_id in ids.items() if token_id is not None}
        return {"bos_token": "", "eos_token": "", **named}

    def _spell(self, token_id: int, spelling: dict[int, str]) -> str:
        return spelling[token_id] if token_id in spelling else self.tokenizer.token_text(token_id)

    @cached_property
    def _spelling(self) -> re.Pattern[str]:
        """Any control token, the longest first."""
        texts = sorted((text for text in self.tokenizer.special_ids if text), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or "(?!)")

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """All proper beginnings of control tokens."""
        return frozenset(text[:size] for text in self.tokenizer.special_ids for size in range(1, len(text)))

    @cached_property
    def _endings(self) -> frozenset[str]:
        return frozenset(text[size:] for text in self.tokenizer.special_ids for size in range(1, len(text)))

    def _unused_mark(self, *given: object) -> str:
        used = set(self.source)

        def collect(text: str) -> str:
            used.update(text)
            return text

        _map_texts(given, collect)
        return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)

    def _break_tokens(self, text: str, mark: str) -> str:
        text = self._spelling.sub(lambda match: f"{match[0][0]}{mark}{match[0][1:]}", text)
        body = text.strip()  # templates trim
        longest = max(map(len, self._beginnings), default=0)
        reach = range(1, min(longest, len(body)) + 1)
        if any(body[:size] in self._endings for size in reach) or self._is_inside(body):
            text = text.replace(body, mark + body, 1)
            body = mark + body
        if any(body[-size:] in self._beginnings for size in reach):
            text = text.replace(body, body + mark, 1)
        return text

    def _is_inside(self, text: str) -> bool:
        """Is it the inner part of a control token? Mere words are not: templates compare those with what they know."""
        return not _WORDS.fullmatch(text) and any(text in spelling for spelling in self.tokenizer.special_ids)

    def _break_beginnings(self, text: str, mark: str) -> str:
        firsts = {beginning for beginning in self._beginnings if len(beginning) == 1}
        return "".join(char + mark if char in firsts else char for char in text)

    def _may_be_glued(self, *given: object) -> bool:
        """Does a text hold the first two characters of a control token, which does not follow whole?"""
        starts = sorted(beginning for beginning in self._beginnings if len(beginning) == 2)
        if not starts:
            return False
        start = re.compile("|".join(map(re.escape, starts)))
        found = False

        def look(text: str) -> str:
            nonlocal found
            found = found or start.search(self._spelling.sub("", text)) is not None
            return text

        _map_texts(given, look)
        return found

    def _tokenize(self, text: str, mark: str) -> list[int]:
        # A template that writes ASCII JSON writes the mark as an escape.
        text = text.replace(json.dumps(mark)[1:-1], mark)
        if mark not in text:
            return self.tokenizer.encode(text, bos=False, special=True)
        ids: list[int] = []
        last = 0
        for match in self._spelling.finditer(text):
            ids += self._plain(text[last : match.start()], mark)
            ids.append(self.tokenizer.special_ids[match[0]])
            last = match.end()
        return ids + self._plain(text[last:], mark)

    def _plain(self, text: str, mark: str) -> list[int]:
        text = text.replace(mark, "")
        return self.tokenizer.encode(text, bos=False) if text else []

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Exactly one bos in front, where the vocabulary wants one; a template may write none, or its own."""
        bos_id, vocabulary = self.tokenizer.bos_id, self.tokenizer.vocabulary
        if bos_id is None:
            return ids
        written = next((index for index, token_id in enumerate(ids) if token_id != bos_id), len(ids))
        wanted = written > 0 or (vocabulary is not None and vocabulary.add_bos)
        return [bos_id] * wanted + ids[written:]


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as templates expect them: OpenAI's shape, arguments as objects, and a result's `name` from its call."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    chat = []
    for message in messages:
        item: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            item["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            item["tool_call_id"] = message.tool_call_id
            if message.tool_call_id in names:
                item["name"] = names[message.tool_call_id]
        chat.append(item)
    return chat


def template_tool(tool: Tool) -> dict[str, Any]:
    """A tool in OpenAI's shape."""
    parameters = {"type": "object", "properties": {}} if tool.parameters is None else dict(tool.parameters)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _with_text_arguments(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def as_text(call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        return {**call, "function": {**function, "arguments": dump_json(function["arguments"])}}

    return [
        {**message, "tool_calls": [as_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in chat
    ]


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same data with every text changed, keys included (an argument's name is a caller's text); roles are ours."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            change(key): item if key == "role" and item in ROLES else _map_texts(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_map_texts(item, change) for item in value)
    return value
