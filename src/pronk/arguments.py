"""What callers of `pronk.api` may give, made uniform: prompts, messages, tools, and options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, SupportsIndex, cast

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.engine.config import Speculation, SpeculationKind
from pronk.engine.sampling import SamplingParams
from pronk.errors import CheckpointError, RequestError
from pronk.text.messages import Message, Tool, message_to_json, messages_from_json, tools_from_json

MessageLike = Message | Mapping[str, Any]
ToolLike = Tool | Mapping[str, Any] | str
Prompt = str | Sequence[int]

# Rows for which a step takes about as long as reading the weights; the GPU's number is a guess of ours.
_CPU_ROWS = Speculation().rows
_GPU_ROWS = 64


def sampling_params(params: SamplingParams, options: Mapping[str, Any]) -> SamplingParams:
    """`params` with the options that a caller gave by name."""
    known = [field.name for field in fields(SamplingParams)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise TypeError(f"unknown option {name!r}; {hint}")
    return replace(params, **options)


def speculation(draft: str | Path | None, lookup: bool, most: int, backend: str) -> Speculation | None:
    """How a model is to guess ahead: with a draft model, from its own text, both, or not at all."""
    if draft is None and not lookup:
        return None
    kind: SpeculationKind = "lookup" if draft is None else "both" if lookup else "draft"
    return Speculation(kind, most, rows=_CPU_ROWS if backend == "cpu" else _GPU_ROWS)


def advised(checkpoint: Checkpoint) -> SamplingParams:
    """What the model's files recommend."""
    advice = {f.name: getattr(checkpoint.defaults, f.name) for f in fields(checkpoint.defaults)}
    try:
        return SamplingParams(**{name: value for name, value in advice.items() if value is not None})
    except RequestError as error:
        raise CheckpointError(f"{checkpoint.path}: generation_config.json: {error}") from None


def prompts(prompt: Prompt | Sequence[str] | Sequence[Sequence[int]]) -> tuple[list[Prompt], bool]:
    """The prompts, and whether there may be several."""
    if isinstance(prompt, str):
        return [prompt], False
    items = list(prompt)
    if not items:
        raise RequestError("there is no prompt; give a text, token ids, or a list of either")
    numbers = [isinstance(item, SupportsIndex) for item in items]
    if all(numbers):
        return [cast("list[int]", items)], False
    if any(numbers):
        raise RequestError("a prompt mixes token ids with texts; give a text, token ids, or a list of either")
    return cast("list[Prompt]", items), True


def messages(messages: str | Sequence[MessageLike], system: str | None) -> list[Message]:
    """A text is the user's; `system` comes first. Raises RequestError where it is given twice."""
    if isinstance(messages, str):
        items = [Message("user", messages)]
    elif all(isinstance(message, Message) for message in messages):
        items = cast("list[Message]", list(messages))
    else:
        plain = [message_to_json(m) if isinstance(m, Message) else m for m in messages]
        items = list(messages_from_json(plain))
    if system is None:
        return items
    if any(message.role == "system" for message in items):
        raise RequestError("the system prompt is given twice: as `system` and in the messages")
    return [Message("system", system), *items]


def tools(tools: Sequence[ToolLike]) -> list[Tool]:
    """Raises ChatFormatError for what is no tool."""
    return [tool if isinstance(tool, Tool) else tools_from_json([tool])[0] for tool in tools]
