"""Messages, tools and answers: what chat formats translate to and from token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]


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
