"""Llama 3's chat format and its 3.1, 3.2 and 3.3 forms, as Meta's own code and prompt pages define them.

Source: llama-models `models/llama3/chat_format.py` (3.1 and later), meta-llama/llama3 `llama/tokenizer.py` (3.0).

Ids are put together from pieces, as Meta does: control tokens by id, texts encoded as plain text. No text can become
a control token, so nobody forges a turn, and there is one bos. It also fixes the ids where texts meet: a header's two
newlines and content that begins with a third stay apart, which re-encoding rendered text would merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pronk.errors import ChatFormatError
from pronk.text import llama3_tools as wording
from pronk.text.llama3_tools import CODE_INTERPRETER, ToolStyle
from pronk.text.messages import AnswerParser, Message, Tool, ToolCall, check_messages
from pronk.text.tokenizer import Tokenizer
from pronk.text.tool_parsers.builtin_calls import BuiltinCalls
from pronk.text.tool_parsers.function_tag import FunctionTag
from pronk.text.tool_parsers.json_calls import JsonCalls
from pronk.text.tool_parsers.pythonic_calls import PythonicCalls
from pronk.text.tool_parsers.reader import AnswerReader

PYTHON_TAG = "<|python_tag|>"
HEADER_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TOOL_TOKENS = (PYTHON_TAG, "<|eom_id|>")
_STOPS = ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
_IPYTHON = "Environment: ipython"


@dataclass(frozen=True)
class Llama3Format:
    """One member of the family. The differences between members are these fields.

    tool_style: how the caller's own functions are described and called; None where the model was not taught any.
    tools_in: where they are described. `today`: a date such as "21 September 2024" for Meta's two date lines; without
    it a prompt depends on nothing but the request.
    """

    tokenizer: Tokenizer
    name: str
    tool_style: ToolStyle | None
    tools_in: Literal["system", "user"] = "user"
    strips_content: bool = False
    today: str | None = None

    @property
    def stop_ids(self) -> frozenset[int]:
        special = self.tokenizer.special_ids
        return self.tokenizer.stop_ids | {special[text] for text in _STOPS if text in special}

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        check_messages(messages)
        if tools or any(message.tool_calls or message.role == "tool" for message in messages):
            self._check_tools(tools)
        own = [tool for tool in tools if not wording.is_builtin(tool)]
        messages = self._with_tools(messages, [tool for tool in tools if wording.is_builtin(tool)], own)
        ipython = any(message.role == "system" and _IPYTHON in message.content for message in messages)
        own_names = frozenset(tool.name for tool in own)
        ids = [self._special("<|begin_of_text|>")]
        for message in messages:
            ids += self._header("ipython" if message.role == "tool" else message.role)
            ids += self._text(message.content)
            ids += self._calls(message.tool_calls, own_names, ipython)
        return ids + self._header("assistant")

    def parser(self, tools: Sequence[Tool] = ()) -> AnswerParser:
        """All of Meta's syntaxes are read whatever the style: the models mix them, and names decide."""
        tag_id = self.tokenizer.special_ids.get(PYTHON_TAG)
        if not tools:
            return AnswerReader(self.tokenizer, tag_id=tag_id)
        names = frozenset(tool.name for tool in tools)
        searches = frozenset(tool.name for tool in tools if wording.is_builtin(tool)) - {CODE_INTERPRETER}
        syntaxes = (JsonCalls(names), PythonicCalls(names), FunctionTag(names), BuiltinCalls(searches))
        return AnswerReader(self.tokenizer, syntaxes, tag_id=tag_id, code=CODE_INTERPRETER in names)

    def _check_tools(self, tools: Sequence[Tool]) -> None:
        if self.tool_style is None:
            raise ChatFormatError(
                f"{self.name} was taught no tools; use a Llama 3.1 or later model, or choose one of "
                f"tool_style={'|'.join(wording.TOOL_STYLES)}"
            )
        builtin = next((tool for tool in tools if wording.is_builtin(tool)), None)
        if builtin and PYTHON_TAG not in self.tokenizer.special_ids:
            raise ChatFormatError(f"{builtin.name!r} is built into Llama 3.1; {self.name} has no {PYTHON_TAG} token")
        wording.check_tools(self.tool_style, tools)

    def _with_tools(self, messages: Sequence[Message], builtin: Sequence[Tool], own: Sequence[Tool]) -> list[Message]:
        """The conversation with system and user messages that describe the tools."""
        style = self.tool_style
        instructions = messages[0].content if messages[0].role == "system" else ""
        spoken = list(messages[1:] if messages[0].role == "system" else messages)
        # In the 3.1 styles the environment is on for the caller's own functions too; pythonic calls do without.
        environment = bool(builtin) or (bool(own) and style != "pythonic" and self._has(PYTHON_TAG))
        if not environment and not own and self.today is None:
            return list(messages)
        described = wording.tools_text(style, own) if own and style else ""
        if described and style == "pythonic" and self.tools_in == "system":
            head = wording.system_text(builtin, environment, self.today, "")
            system = "\n".join(filter(None, (head, described, instructions)))
        else:
            system = wording.system_text(builtin, environment, self.today, instructions)
            if described and self.tools_in == "system":
                system = "\n".join(filter(None, (system, described)))
            elif described and style == "pythonic":
                spoken = _ask_with_tools(own, spoken)
            elif described:
                spoken.insert(0, Message("user", described))
        return [Message("system", system), *spoken] if system else spoken

    def _calls(self, calls: Sequence[ToolCall], own_names: frozenset[str], ipython: bool) -> list[int]:
        """What ends a turn: its calls, if it makes any, and eot, or eom where it awaits the tool environment."""
        if not calls or self.tool_style is None:
            return [self._special("<|eot_id|>")]
        builtin = [call for call in calls if call.name in wording.BUILTIN_TOOLS and call.name not in own_names]
        if builtin and (len(calls) > 1 or not self._has(PYTHON_TAG)):
            raise ChatFormatError(
                f"an assistant message calls {builtin[0].name!r}, a built-in tool of Llama 3.1, which makes one call a "
                "message; split the message"
            )
        if builtin:
            text, tag, eom = wording.builtin_call_text(builtin[0]), True, True
        else:
            text = wording.calls_text(self.tool_style, calls)
            eom = self.tool_style == "json" and ipython
            tag = eom or self.tool_style == "pythonic"
        ids = [self._special(PYTHON_TAG)] if tag and self._has(PYTHON_TAG) else []
        ids += self.tokenizer.encode(text, bos=False)
        return [*ids, self._special("<|eom_id|>" if eom and self._has("<|eom_id|>") else "<|eot_id|>")]

    def _header(self, role: str) -> list[int]:
        return [
            self._special("<|start_header_id|>"),
            *self.tokenizer.encode(role, bos=False),
            self._special("<|end_header_id|>"),
            *self.tokenizer.encode("\n\n", bos=False),
        ]

    def _text(self, content: str) -> list[int]:
        content = content.strip() if self.strips_content else content
        return self.tokenizer.encode(content, bos=False) if content else []

    def _has(self, text: str) -> bool:
        return text in self.tokenizer.special_ids

    def _special(self, text: str) -> int:
        return self.tokenizer.special_ids[text]


def _ask_with_tools(tools: Sequence[Tool], spoken: list[Message]) -> list[Message]:
    for index, message in enumerate(spoken):
        if message.role == "user":
            asked = replace(message, content=wording.question_with_tools(tools, message.content))
            return [*spoken[:index], asked, *spoken[index + 1 :]]
    raise ChatFormatError("the tools go into the first user message, and there is none")
