"""Whether an answer is right: one check a skill, from what the exchange expects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pronk.text.messages import Answer, ToolCall

Expectation = Mapping[str, Any]
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”’]*\s*")


def sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def story(answer: Answer, expect: Expectation) -> bool:
    """Every requested name and object occurs, and no sentence twice."""
    told = sentences(answer.content)
    wanted = [*expect.get("names", ()), *expect.get("objects", ())]
    return not answer.tool_calls and len(told) == len(set(told)) and _has_each([[text] for text in wanted], answer)


def question(answer: Answer, expect: Expectation) -> bool:
    """One string of each group of facts."""
    return not answer.tool_calls and _has_each(expect["facts"], answer)


def arithmetic(answer: Answer, expect: Expectation) -> bool:
    """The last number of the answer is the result."""
    numbers = re.findall(r"-?\d+", answer.content.replace(" ", ""))
    return bool(numbers) and int(numbers[-1]) == expect["result"]


def call(answer: Answer, wanted: Sequence[ToolCall]) -> bool:
    """The same calls with the same arguments, or none where none is due."""
    return [(c.name, dict(c.arguments)) for c in answer.tool_calls] == [(c.name, dict(c.arguments)) for c in wanted]


def tool_result(answer: Answer, expect: Expectation) -> bool:
    """What came back is said."""
    return not answer.tool_calls and _has_each([[text] for text in expect.get("answer_contains", ())], answer)


def guard(answer: Answer, expect: Expectation) -> bool:
    """Label and categories, as Llama Guard writes them."""
    lines = answer.content.strip().splitlines()
    if expect["label"] == "safe":
        return lines == ["safe"]
    return len(lines) == 2 and lines[0] == "unsafe" and lines[1].split(",") == list(expect["categories"])


def talk(answer: Answer, expect: Expectation) -> bool:
    return not answer.tool_calls and _has_each(expect["contains"], answer)


CHECKS: Mapping[str, Callable[[Answer, Expectation], bool]] = {
    "stories": story, "questions": question, "arithmetic": arithmetic, "guard": guard, "talk": talk,
    "tools": tool_result,
}  # fmt: skip


def _has_each(groups: Sequence[Sequence[str]], answer: Answer) -> bool:
    said = answer.content.lower()
    return all(any(text.lower() in said for text in group) for group in groups)
