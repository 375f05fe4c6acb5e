"""Messages, tools and answers: what chat formats translate to and from token ids.

The JSON form is OpenAI's chat shape: `role`, `content`, `tool_calls[].function.arguments` as a JSON string,
`tool_call_id`. It is read strictly: a message that another program got wrong is refused by its number, never repaired.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pronk.errors import ChatFormatError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """One call that the model made. `arguments` is parsed JSON; `id` is ours, and ties a result to its call."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Tool:
    """A function offered to the model. `parameters` is a JSON schema; "code_interpreter", "brave_search" and
    "wolfram_alpha" are Llama 3.1's built-in tools and need only their name."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Message:
    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a model's answer says, once it is whole."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Delta:
    """What one step adds to an answer: text that may be shown, and calls that are now whole."""

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class AnswerParser(Protocol):
    """Reads one answer as it arrives. Text that may yet turn out to be a tool call is held back."""

    def feed(self, ids: Sequence[int]) -> Delta: ...

    def finish(self) -> Delta:
        """What was held back, when the answer ends. A call that never became whole comes out as content."""
        ...


class ChatFormat(Protocol):
    """One model family's way of writing a conversation."""

    @property
    def name(self) -> str: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Ids of the whole prompt, exactly one bos, ending where the assistant speaks. Raises ChatFormatError."""
        ...

    def parser(self, tools: Sequence[Tool] = ()) -> AnswerParser:
        """A fresh parser for the answer that follows such a prompt."""
        ...


def new_call_id() -> str:
    """A fresh id for a call, in the shape that OpenAI's clients expect."""
    return f"call_{uuid.uuid4().hex[:24]}"


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what no chat format can write. Raises ChatFormatError that names the message."""
    if not messages:
        raise ChatFormatError("the conversation is empty; give at least one user message")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise ChatFormatError(f"message {index} has role {message.role!r}; expected one of {', '.join(ROLES)}")
        if message.tool_calls and message.role != "assistant":
            raise ChatFormatError(f"message {index} has tool calls but role {message.role!r}; only an assistant calls")


def dump_json(value: object, *, indent: int | None = None, what: str = "tool") -> str:
    """JSON text for a prompt: non-ASCII as it is, because models read it so. Raises ChatFormatError naming `what`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatFormatError(f"{what} cannot be written as JSON: {error}") from None


def messages_from_json(obj: object) -> tuple[Message, ...]:
    """Messages from OpenAI's JSON shape (a list of objects, already parsed).

    Content is a string, null, or a list of text parts. "developer" is read as "system", and "ipython" as "tool".
    Raises ChatFormatError for a bad role, a missing field, arguments that are no object, or a result without its call.
    """
    if not isinstance(obj, list | tuple):
        raise ChatFormatError(f"messages are a {_kind(obj)}; expected a list of objects")
    messages = tuple(_message_from_json(item, f"message {index}") for index, item in enumerate(obj))
    check_messages(messages)
    _check_results(messages)
    return messages


def messages_to_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The inverse of `messages_from_json`."""
    return [message_to_json(message) for message in messages]


def message_to_json(message: Message) -> dict[str, Any]:
    """One message in OpenAI's shape. A turn that only calls has content null, as their API answers it."""
    content = None if message.tool_calls and not message.content else message.content
    out: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        out["tool_calls"] = [tool_call_to_json(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def tool_call_to_json(call: ToolCall) -> dict[str, Any]:
    """One call in OpenAI's shape: the arguments are a JSON string."""
    arguments = dump_json(dict(call.arguments), what=f"the arguments of the call to {call.name!r}")
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def tools_from_json(obj: object) -> tuple[Tool, ...]:
    """Tools from OpenAI's shape (`{"type": "function", "function": {...}}`), from bare function objects, or from a
    built-in tool's name as a string. Raises ChatFormatError."""
    if not isinstance(obj, list | tuple):
        raise ChatFormatError(f"tools are a {_kind(obj)}; expected a list")
    tools = tuple(_tool_from_json(item, f"tool {index}") for index, item in enumerate(obj))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise ChatFormatError(f"two tools are called {name!r}; give each its own name")
    return tools


def _tool_from_json(item: object, where: str) -> Tool:
    if isinstance(item, str):
        return Tool(item)
    fields = _object(item, where)
    if "function" in fields:
        if fields.get("type", "function") != "function":
            raise ChatFormatError(f"{where} has type {fields['type']!r}; expected 'function'")
        fields = _object(fields["function"], f"{where}'s function")
    description = fields.get("description") or ""
    if not isinstance(description, str):
        raise ChatFormatError(f"{where}'s description is a {_kind(description)}; expected a string")
    parameters = fields.get("parameters")
    if parameters is not None:
        parameters = _object(parameters, f"{where}'s parameters")
    return Tool(_text(fields, "name", where), description, parameters)


def _message_from_json(item: object, where: str) -> Message:
    fields = _object(item, where)
    role = _text(fields, "role", where)
    role = {"developer": "system", "ipython": "tool"}.get(role, role)
    if role not in ROLES:
        raise ChatFormatError(f"{where} has role {role!r}; expected one of {', '.join(ROLES)}")
    calls = fields.get("tool_calls") or []
    if not isinstance(calls, list | tuple):
        raise ChatFormatError(f"{where}'s tool_calls are a {_kind(calls)}; expected a list")
    if fields.get("content") is None and role != "assistant":
        raise ChatFormatError(f"{where} has no content; expected a string or a list of text parts")
    call_id = fields.get("tool_call_id")
    if call_id is not None and not isinstance(call_id, str):
        raise ChatFormatError(f"{where}'s tool_call_id is a {_kind(call_id)}; expected a string")
    return Message(
        role=role,
        content=_content(fields.get("content"), where),
        tool_calls=tuple(_call_from_json(call, f"{where}, call {index}") for index, call in enumerate(calls)),
        tool_call_id=call_id,
    )


def _content(content: object, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise ChatFormatError(f"{where}'s content is a {_kind(content)}; expected a string or a list of text parts")
    texts = []
    for part in content:
        fields = _object(part, f"{where}'s content part")
        if fields.get("type") != "text":
            raise ChatFormatError(
                f"{where} has a content part of type {fields.get('type')!r}; only 'text' is supported"
            )
        texts.append(_text(fields, "text", f"{where}'s content part"))
    return "".join(texts)


def _call_from_json(item: object, where: str) -> ToolCall:
    fields = _object(item, where)
    if fields.get("type", "function") != "function":
        raise ChatFormatError(f"{where} has type {fields['type']!r}; expected 'function'")
    function = _object(fields.get("function"), f"{where}'s function")
    name = _text(function, "name", where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ChatFormatError(f"{where}: the arguments of {name!r} are not JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise ChatFormatError(f"{where}: the arguments of {name!r} are a {_kind(arguments)}; expected a JSON object")
    return ToolCall(_text(fields, "id", where), name, arguments)


def _check_results(messages: Sequence[Message]) -> None:
    """Every tool result answers a call made since the last user message, or earlier; ids are matched when given."""
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            open_calls += [call.id for call in message.tool_calls]
        if message.role != "tool":
            continue
        if not open_calls:
            raise ChatFormatError(f"message {index} is a tool result, but no assistant message before it awaits one")
        if message.tool_call_id is None:
            open_calls.pop(0)
        elif message.tool_call_id in open_calls:
            open_calls.remove(message.tool_call_id)
        else:
            raise ChatFormatError(
                f"message {index} answers call {message.tool_call_id!r}; the calls without a result are "
                f"{', '.join(map(repr, open_calls))}"
            )


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ChatFormatError(f"{where} is a {_kind(value)}; expected an object")
    return value


def _text(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or (not value and key != "text"):
        found = "missing" if key not in fields else f"{value!r}"[:80]
        raise ChatFormatError(f"{where}: {key!r} is {found}; expected a string")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
