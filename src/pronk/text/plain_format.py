"""No chat format: a base model, which knows no turns, goes on with the conversation as one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pronk.errors import ChatFormatError
from pronk.text.messages import AnswerParser, Delta, Message, Tool, check_messages
from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PlainFormat:
    """An answer continues the text of the message before it; every other message begins a line of its own."""

    tokenizer: Tokenizer
    name: str = "plain"

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.tokenizer.stop_ids

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        check_messages(messages)
        if tools or any(message.tool_calls or message.role == "tool" for message in messages):
            raise ChatFormatError("the plain format knows no tools; use a model that was taught some")
        text = ""
        for message in messages:
            text += message.content if message.role == "assistant" or not text else "\n" + message.content
        vocabulary = self.tokenizer.vocabulary
        return self.tokenizer.encode(text, bos=vocabulary is None or vocabulary.add_bos)

    def parser(self, tools: Sequence[Tool] = ()) -> AnswerParser:
        return _Text(StreamDecoder(self.tokenizer, continuation=True))


@dataclass(frozen=True)
class _Text:
    decoder: StreamDecoder

    def feed(self, ids: Sequence[int]) -> Delta:
        return Delta("".join(self.decoder.feed(token) for token in ids))

    def finish(self) -> Delta:
        return Delta(self.decoder.finish())
