"""What a caller of chat and complete gets: results when they are whole, and the streams that build them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Generic, TypeVar

from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import FinishReason, Output, Timings, Usage
from pronk.engine.runner import Outputs
from pronk.text.messages import AnswerParser, Message, ToolCall, message_to_json
from pronk.text.stream import StopStrings


@dataclass(frozen=True)
class Piece:
    """What one step adds. `text` may be empty while half a character, the start of a stop string or of a tool call is
    held back. `index` says to which of several prompts it belongs; the last piece of each has its finish_reason."""

    text: str
    token_ids: tuple[int, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """`token_ids` are the answer's, without a stop token. finish_reason is "stop" (`stopped_by` says which id or
    string), "length" (max_tokens), "context" (it is full), "deadline" or "cancelled"."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    stopped_by: int | str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of JSON's types; logprobs only where they were asked for."""
        return _to_json(self)


@dataclass(frozen=True)
class ChatResult:
    """The answer as a message that can be put behind the question for the next turn; the rest is as in Completion."""

    message: Message
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    stopped_by: int | str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def text(self) -> str:
        return self.message.content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.message.tool_calls

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of JSON's types: the text, and the message in OpenAI's shape."""
        return {"text": self.text, **_to_json(self), "message": message_to_json(self.message)}


def _to_json(result: Completion | ChatResult) -> dict[str, Any]:
    values = asdict(result)
    for name in ("logprobs", "prompt_logprobs"):
        if not values.get(name):
            values.pop(name, None)
    return values


@dataclass
class _Gathered:
    """One request's outputs so far."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    last: Output | None = None

    def add(self, output: Output, piece: Piece) -> None:
        self.text.append(piece.text)
        self.token_ids += output.ids
        self.tool_calls += piece.tool_calls
        self.logprobs += output.logprobs
        self.prompt_logprobs = self.prompt_logprobs or output.prompt_logprobs
        if output.finish_reason:
            self.last = output

    def fields(self) -> dict[str, Any]:
        """What Completion and ChatResult have in common."""
        assert self.last is not None, "the stream has not ended"
        return {
            "token_ids": tuple(self.token_ids),
            "finish_reason": self.last.finish_reason,
            "usage": self.last.usage,
            "timings": self.last.timings,
            "stopped_by": self.last.stopped_by,
            "logprobs": tuple(self.logprobs),
        }


Result = TypeVar("Result")


class _Stream(Iterator[Piece], Generic[Result]):
    """Pieces as they come. Leaving the loop early and dropping the stream, or `close`, cancels what has not ended and
    frees its memory at once; after the last piece, or after `close`, the result says how far it came."""

    def __init__(self, outputs: Outputs, ids: Sequence[str]) -> None:
        self._outputs = outputs
        self._index = {request_id: index for index, request_id in enumerate(ids)}
        self._gathered = [_Gathered() for _ in ids]
        self._error: Exception | None = None

    def __next__(self) -> Piece:
        output = next(self._outputs)
        if output.error:
            self._error = output.error
            self._outputs.cancel()
            raise self._error
        index = self._index[output.request_id]
        piece = self._piece(output, index)
        self._gathered[index].add(output, piece)
        return piece

    def _piece(self, output: Output, index: int) -> Piece:
        return Piece(output.text, output.ids, (), output.logprobs, index, output.finish_reason)

    def close(self) -> None:
        """Cancel what has not ended. Calling it again, or after the end, does nothing."""
        self._outputs.cancel()
        for _ in self:
            pass

    def __enter__(self) -> _Stream[Result]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def results(self) -> list[Result]:
        """One for each prompt, in their order. Reads the rest of the stream first, where there is one."""
        for _ in self:
            pass
        if self._error:
            raise self._error
        return [self._result(gathered) for gathered in self._gathered]

    @property
    def result(self) -> Result:
        """The first prompt's. Reads the rest of the stream first, where there is one."""
        return self.results[0]

    @abstractmethod
    def _result(self, gathered: _Gathered) -> Result:
        """What the caller gets of one request that has ended."""


class CompletionStream(_Stream[Completion]):
    """With `echo`, each prompt's text comes before its first piece."""

    def __init__(self, outputs: Outputs, ids: Sequence[str], echo: Sequence[str] = ()) -> None:
        super().__init__(outputs, ids)
        self._echo = list(echo)

    def _piece(self, output: Output, index: int) -> Piece:
        text = output.text
        if self._echo:
            text, self._echo[index] = self._echo[index] + text, ""
        return Piece(text, output.ids, (), output.logprobs, index, output.finish_reason)

    def _result(self, gathered: _Gathered) -> Completion:
        return Completion("".join(gathered.text), prompt_logprobs=gathered.prompt_logprobs, **gathered.fields())


class ChatStream(_Stream[ChatResult]):
    """One answer, read by the chat format's parser; text that may become a tool call is held back until it is clear."""

    def __init__(self, outputs: Outputs, request_id: str, parser: AnswerParser, stop: Sequence[str]) -> None:
        super().__init__(outputs, [request_id])
        self._parser = parser
        self._stop = StopStrings(stop)

    def _piece(self, output: Output, index: int) -> Piece:
        delta = self._parser.feed(output.ids)
        text, calls = self._stop.feed(delta.content), delta.tool_calls
        if output.finish_reason:
            rest = self._parser.finish()
            text += self._stop.feed(rest.content) + self._stop.finish()
            calls += rest.tool_calls
        return Piece(text, output.ids, calls, output.logprobs, index, output.finish_reason)

    def _result(self, gathered: _Gathered) -> ChatResult:
        message = Message("assistant", "".join(gathered.text), tuple(gathered.tool_calls))
        return ChatResult(message, **gathered.fields())
