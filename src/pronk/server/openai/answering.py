"""One chat request on its way: the prompt, the requests to the engine, and their answers read as they come.

Chat completions and responses share this; they differ in what the client sees.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import fastapi

from pronk.engine.request import Output, Request
from pronk.engine.sampling import SamplingParams
from pronk.server.openai.conversation import Offer
from pronk.server.run import Outputs, run
from pronk.server.state import ServedModel, ServerState
from pronk.text.messages import AnswerParser, Message, ToolCall
from pronk.text.stream import StopStrings


@dataclass(frozen=True)
class Part:
    """What one step adds to the index-th answer: text that may be shown, and calls that are whole."""

    index: int
    text: str
    calls: tuple[ToolCall, ...]
    output: Output


class AnswerReader:
    """One answer's outputs, read by the chat format's parser."""

    def __init__(self, parser: AnswerParser, stop: tuple[str, ...]) -> None:
        self._parser = parser
        self._stop = StopStrings(stop)

    def read(self, output: Output) -> tuple[str, tuple[ToolCall, ...]]:
        delta = self._parser.feed(output.ids)
        text, calls = self._stop.feed(delta.content), delta.tool_calls
        if output.finish_reason:
            rest = self._parser.finish()
            text += self._stop.feed(rest.content) + self._stop.finish()
            calls += rest.tool_calls
        return text, calls


def chat_requests(
    model: ServedModel, messages: tuple[Message, ...], offer: Offer, params: SamplingParams,
    id: str, count: int = 1, priority: int = 0, continues: bool = False,
) -> list[Request]:  # fmt: skip
    """`count` answers to one conversation; with a seed, the i-th uses seed + i. With `continues` its last message is
    the answer's beginning. Takes a while for a long prompt: not for the event loop. Raises ChatFormatError."""
    form = model.llama.chat_format
    if not params.ignore_eos:
        params = replace(params, stop_ids=form.stop_ids | set(params.stop_ids))
    begun = messages[-1].content if continues else ""
    prompt = tuple(form.encode(messages[:-1] if continues else messages, offer.shown))
    if begun:
        prompt += tuple(model.llama.tokenizer.encode(begun, bos=False))
    return [Request(prompt, params.nth(i), f"{id}-{i}", priority=priority) for i in range(count)]


class Answers:
    """The answers to `requests`, part by part. `start` hands them to the engine; what can be refused is refused there,
    before the first byte is sent."""

    def __init__(self, outputs: Outputs, readers: dict[str, tuple[int, AnswerReader]]) -> None:
        self._outputs = outputs
        self._readers = readers

    @classmethod
    async def start(
        cls, state: ServerState, model: ServedModel, requests: list[Request], offer: Offer,
        connection: fastapi.Request,
    ) -> Answers:  # fmt: skip
        form = model.llama.chat_format
        readers = {
            request.id: (i, AnswerReader(form.parser(offer.callable), tuple(request.params.stop)))
            for i, request in enumerate(requests)
        }
        return cls(await run(state, model, requests, connection), readers)

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Leaving the iteration early cancels what has not ended."""
        async with self._outputs as outputs:
            async for output in outputs:
                index, reader = self._readers[output.request_id]
                text, calls = reader.read(output)
                yield Part(index, text, calls, output)
