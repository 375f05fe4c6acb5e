"""Items of /v1/responses: what goes in, as messages; what comes out, as events in OpenAI's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pronk.server.openai import shapes
from pronk.server.openai.fields import bad_field, unsupported_field
from pronk.server.openai.sampling import check_keys
from pronk.text.messages import ToolCall, tool_call_to_json

_IGNORED = ("id", "status")  # what a client sends back of an item as it got it
_NOTHING: tuple[Any, ...] = (None, [], {}, "")


def chat_messages(items: str | Sequence[Mapping[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """In chat completions' form, which is checked further there. Raises ApiError 400 that names the item."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for index, item in enumerate(items):
        where, kind = f"input[{index}]", item.get("type", "message")
        if kind == "message":
            _check(item, ("type", "role", "content"), where)
            messages.append({"role": item.get("role"), "content": _text(item.get("content"), f"{where}.content")})
        elif kind == "function_call":
            _check(item, ("type", "call_id", "name", "arguments"), where)
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            _calling(messages).append({"id": item.get("call_id"), "type": "function", "function": function})
        elif kind == "function_call_output":
            _check(item, ("type", "call_id", "output"), where)
            text = _text(item.get("output"), f"{where}.output")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        else:
            raise unsupported_field(f"{where}.type", f"it is {str(kind)[:40]!r}")
    return messages


def _check(item: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    check_keys({key: value for key, value in item.items() if value not in _NOTHING}, (*known, *_IGNORED), where)


def _calling(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls of the assistant's turn that the items are in."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    calls: list[dict[str, Any]] = messages[-1].setdefault("tool_calls", [])
    return calls


def _text(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("input_text", "output_text", "text"):
            raise bad_field(f"{where}[{index}].type", f"is {str(kind)[:40]!r}; only texts are supported")
        _check({k: v for k, v in part.items() if k != "logprobs"}, ("type", "text"), f"{where}[{index}]")
        if not isinstance(part.get("text"), str):
            raise bad_field(f"{where}[{index}].text", "is no string")
        texts.append(part["text"])
    return "".join(texts)


def chat_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Functions stand in tools themselves here, and one level deeper in chat completions."""
    if tools is None:
        return None
    wrapped = []
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise unsupported_field(
                f"tools[{index}].type", f"it is {str(tool.get('type'))[:40]!r}, expected 'function'"
            )
        check_keys(tool, ("type", "name", "description", "parameters", "strict"), f"tools[{index}]")
        wrapped.append({"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}})
    return wrapped


def chat_tool_choice(choice: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") == "function":
        check_keys(choice, ("type", "name"), "tool_choice")
        return {"type": "function", "function": {"name": choice.get("name")}}
    if choice.get("type") == "allowed_tools":
        check_keys(choice, ("type", "mode", "tools"), "tool_choice")
        tools = choice.get("tools")
        named = [chat_tool_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": named}}
    return dict(choice)


def chat_format(text: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`text.format` as response_format: a schema stands one level deeper there."""
    if text is None:
        return None
    if text.get("verbosity") not in (None, "medium"):
        raise unsupported_field("text.verbosity")
    check_keys(text, ("format", "verbosity"), "text")
    wanted = text.get("format")
    if wanted is None:
        return None
    if not isinstance(wanted, Mapping):
        raise bad_field("text.format", "is no object")
    if wanted.get("type") != "json_schema":
        return dict(wanted)
    return {"type": "json_schema", "json_schema": {k: v for k, v in wanted.items() if k != "type"}}


@dataclass
class Output:
    """The output items of one response as they grow, and the events that tell of it."""

    items: list[dict[str, Any]] = field(default_factory=list)
    with_logprobs: bool = False
    _open: bool = False  # whether the last item is a message that still grows

    def text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if not self._open:
            item: dict[str, Any] = {
                "id": shapes.new_id("msg_"), "type": "message", "status": "in_progress", "role": "assistant",
                "content": [],
            }  # fmt: skip
            self.items.append(item)
            self._open = True
            yield self._event("response.output_item.added", item={**item, "content": []})
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._in_part("response.content_part.added", part={**part})
            item["content"].append(part)
        part = self.items[-1]["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._in_part("response.output_text.delta", delta=text, logprobs=logprobs)

    def call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self.close("completed")
        function = tool_call_to_json(call)["function"]
        item = {
            "id": shapes.new_id("fc_"), "type": "function_call", "status": "in_progress", "call_id": call.id,
            "name": function["name"], "arguments": "",
        }  # fmt: skip
        self.items.append(item)
        yield self._event("response.output_item.added", item={**item})
        arguments = function["arguments"]
        yield self._of_item("response.function_call_arguments.delta", delta=arguments)
        item |= {"status": "completed", "arguments": arguments}
        yield self._of_item("response.function_call_arguments.done", name=item["name"], arguments=arguments)
        yield self._event("response.output_item.done", item={**item})

    def close(self, status: str) -> Iterator[dict[str, Any]]:
        """The message that was growing is whole, or as far as it came."""
        if not self._open:
            return
        self._open = False
        item = self.items[-1]
        part = item["content"][0]
        yield self._in_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        yield self._in_part("response.content_part.done", part={**part})
        item["status"] = status
        yield self._event("response.output_item.done", item={**item})

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"type": kind, "output_index": len(self.items) - 1, **more}

    def _of_item(self, kind: str, **more: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self.items[-1]["id"], **more)

    def _in_part(self, kind: str, **more: Any) -> dict[str, Any]:
        return self._of_item(kind, content_index=0, **more)
