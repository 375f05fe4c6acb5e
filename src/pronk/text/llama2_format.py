"""Llama 2's chat format, as `chat_completion` in meta-llama/llama `llama/generation.py` writes it.

Every question and answer is `bos [INST] question [/INST] answer eos`, each pair tokenized by itself, so this format
alone has one bos a turn; the last question has no answer, no eos and no trailing space. `[INST]` and `<<SYS>>` are
ordinary text to the tokenizer: ids cannot tell ours from a user's, so content that holds them is refused, as Meta does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pronk.errors import ChatFormatError
from pronk.text.messages import AnswerParser, Message, Tool, check_messages
from pronk.text.tokenizer import Tokenizer
from pronk.text.tool_parsers.reader import AnswerReader

_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


@dataclass(frozen=True)
class Llama2Format:
    """system?, user, assistant, user, ..., ending on user. No tools: Meta defined none for Llama 2."""

    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    name: str = "llama2"

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.tokenizer.stop_ids | {self.eos_id}

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        if tools:
            raise ChatFormatError(
                "Llama 2's chat format has no tools; leave them out, or use a Llama 3.1 or later model"
            )
        turns = _turns(messages)
        ids: list[int] = []
        for question, answer in zip(turns[::2], turns[1::2], strict=False):
            text = f"[INST] {question.strip()} [/INST] {answer.strip()} "
            ids += [self.bos_id, *self.tokenizer.encode(text, bos=False), self.eos_id]
        return [*ids, self.bos_id, *self.tokenizer.encode(f"[INST] {turns[-1].strip()} [/INST]", bos=False)]

    def parser(self, tools: Sequence[Tool] = ()) -> AnswerParser:
        return AnswerReader(self.tokenizer)


def _turns(messages: Sequence[Message]) -> list[str]:
    """Texts of user, assistant, ..., user, the system text folded into the first. Raises ChatFormatError."""
    check_messages(messages)
    for index, message in enumerate(messages):
        for tag in _TAGS:
            if tag in message.content:
                raise ChatFormatError(
                    f"message {index} contains {tag!r}, which Llama 2's format reserves for itself; remove it"
                )
        if message.tool_calls:
            raise ChatFormatError(f"message {index} has tool calls; Llama 2's chat format has none")
    has_system = messages[0].role == "system"
    spoken = messages[has_system:]
    for index, message in enumerate(spoken):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            raise ChatFormatError(
                f"message {index + has_system} has role {message.role!r}, expected {expected!r}: Llama 2's format is "
                "an optional system message, then user and assistant in turn"
            )
    if len(spoken) % 2 == 0:
        last = messages[-1].role
        raise ChatFormatError(
            f"the conversation ends on {last!r}; Llama 2's format answers a user message, so end on one"
        )
    texts = [message.content for message in spoken]
    if has_system:
        texts[0] = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n{texts[0]}"
    return texts
