"""Messages and tools of a request: what of OpenAI's shapes is understood, and what of them the answer has to be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pronk.engine.grammar import Grammar
from pronk.errors import ChatFormatError, RequestError
from pronk.server.errors import ApiError
from pronk.server.openai.fields import bad_field, unsupported_field
from pronk.server.openai.sampling import check_keys, check_size
from pronk.server.settings import ServerSettings
from pronk.text.messages import ChatFormat, Message, Tool, messages_from_json, tools_from_json

# What a client sends back of an answer as it got it, and what asks for nothing.
_EMPTY: tuple[Any, ...] = (None, [], {}, "")
_MESSAGE = ("role", "content", "tool_calls", "tool_call_id")


def read_messages(items: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Raises ApiError 400 that names the message and the field."""
    names: dict[str, str] = {}  # of functions, by the ids of their calls
    for index, item in enumerate(items):
        for key, value in item.items():
            if key in _MESSAGE or value in _EMPTY:
                continue
            where = f"messages[{index}].{key}"[:200]
            if key == "name" and item.get("role") == "tool":
                _check_name(value, names, item.get("tool_call_id"), where)
                continue
            raise unsupported_field(where)
        _note_calls(item.get("tool_calls"), names)
        _check_parts(item.get("content"), f"messages[{index}].content")
    try:
        return messages_from_json(items)
    except ChatFormatError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from None


def _check_name(value: Any, names: Mapping[str, str], call: Any, where: str) -> None:
    """A tool message may say again which function it is the result of."""
    called = names.get(call) if isinstance(call, str) else None
    if value != called:
        raise bad_field(where, f"is {str(value)[:60]!r}, but the call that it answers was to {called!r}; leave it out")


def _note_calls(calls: Any, names: dict[str, str]) -> None:
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(call.get("id"), str):
            names[call["id"]] = str(function.get("name"))


def _check_parts(content: Any, where: str) -> None:
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, Mapping):
            if part.get("type") != "text":
                raise bad_field(
                    f"{where}[{index}].type", f"is {str(part.get('type'))[:40]!r}; only 'text' is supported"
                )
            check_keys(part, ("type", "text"), f"{where}[{index}]")


@dataclass(frozen=True)
class Offer:
    """The functions of a request. `shown` are described in the prompt, `callable` may be called; `choice` is "auto",
    "required" or the name of the one to call; `strict`: calls have to follow their schemas."""

    shown: tuple[Tool, ...] = ()
    callable: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    strict: bool = False

    def grammar(self, form: ChatFormat) -> Grammar | None:
        """What the answer has to be, where calls are forced, strict, or one at a time. Raises ApiError 400."""
        if not self.callable or (self.choice == "auto" and self.parallel and not self.strict):
            return None
        from pronk.engine.tool_grammar import tool_grammar

        try:
            return tool_grammar(form, self.callable, self.choice, self.parallel)
        except (RequestError, ChatFormatError) as error:
            raise ApiError(400, str(error), param="tools", code="invalid_value") from None


def read_offer(
    tools: Sequence[Mapping[str, Any]] | None,
    choice: str | Mapping[str, Any] | None,
    parallel: bool | None,
    settings: ServerSettings,
) -> Offer:
    """`tools` in the form of chat completions. Raises ApiError 400."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise bad_field("tool_choice", "asks for a call, and there are no tools; give some")
        return Offer()
    check_size("tools", len(json.dumps(tools)), settings)
    strict = False
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise unsupported_field(
                f"tools[{index}].type", f"it is {str(tool.get('type'))[:40]!r}, expected 'function'"
            )
        check_keys(tool, ("type", "function"), f"tools[{index}]")
        function = tool.get("function")
        if isinstance(function, Mapping):
            check_keys(function, ("name", "description", "parameters", "strict"), f"tools[{index}].function")
            strict = strict or function.get("strict") is True
    try:
        offered = tools_from_json(tools)
    except ChatFormatError as error:
        raise ApiError(400, str(error), param="tools", code="invalid_value") from None
    chosen, names = _choice(choice, [tool.name for tool in offered])
    if chosen == "none":
        return Offer()
    return Offer(
        offered, tuple(tool for tool in offered if tool.name in names), chosen, parallel is not False, strict
    )  # fmt: skip


def _choice(choice: str | Mapping[str, Any] | None, names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """tool_choice as a word or a function's name, and the functions that may be called."""
    if choice is None:
        return "auto", names
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise bad_field("tool_choice", f"is {choice[:40]!r}; expected 'none', 'auto', 'required' or a function")
        return choice, names
    kind = choice.get("type")
    if kind == "function":
        check_keys(choice, ("type", "function"), "tool_choice")
        name = _function_name(choice, "tool_choice", names)
        return name, [name]
    if kind == "allowed_tools":
        check_keys(choice, ("type", "allowed_tools"), "tool_choice")
        allowed = choice.get("allowed_tools")
        if not isinstance(allowed, Mapping) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
            raise bad_field("tool_choice.allowed_tools", "is no object with a mode and a list of tools")
        check_keys(allowed, ("mode", "tools"), "tool_choice.allowed_tools")
        if allowed.get("mode") not in ("auto", "required"):
            raise bad_field("tool_choice.allowed_tools.mode", "is not 'auto' or 'required'")
        where = "tool_choice.allowed_tools.tools"
        return allowed["mode"], [_function_name(tool, where, names) for tool in allowed["tools"]]
    raise unsupported_field("tool_choice.type", f"it is {str(kind)[:40]!r}, expected 'function' or 'allowed_tools'")


def _function_name(choice: Any, where: str, names: Sequence[str]) -> str:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in names:
        raise bad_field(where, f"names {str(name)[:60]!r}, and the tools are {', '.join(names)}")
    return str(name)
