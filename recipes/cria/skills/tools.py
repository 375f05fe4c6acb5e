"""Calling tools: the right one with the arguments that the user gave, then what came back; or no call if none is due.

Nothing here can be learned by heart. A function has other names in every conversation, many of its words and most
values are made up, and held-out tools and values are those that training never has.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pronk.text.messages import Message, Tool, ToolCall, dump_json
from recipes.cria.conversation import Exchange, Language, Split
from recipes.cria.tool_functions import (
    Function,
    FunctionTool,
    close_up,
    composed_family,
    offer,
    written_functions,
)
from recipes.cria.tool_values import Setting, Value, draw
from recipes.cria.tool_words import phrases

Case = Literal["call", "none", "missing", "talk"]
CASES: Mapping[Case, float] = {"call": 0.72, "none": 0.12, "missing": 0.07, "talk": 0.09}
ERROR_SHARE = 0.1  # of the calls
ID_SHARE = 0.35  # of the results that only report success
ENGLISH_TOOLS = 0.25  # of the Chinese training exchanges
WRITTEN: Mapping[Split, float] = {"train": 0.4, "held_out": 0.25}  # of the functions, the others are put together
NEAR = 0.3  # of the toolboxes: a tool and some that are like it
_CALL_ID = "call"
_OPTIONAL = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class _Scene:
    """One user before one toolbox."""

    rng: random.Random
    setting: Setting
    tools: tuple[FunctionTool, ...]

    def phrase(self, name: str) -> str:
        return self.rng.choice(phrases(f"{name}_{self.setting.user}"))


def toolbox(rng: random.Random, split: Split, language: Language = "en") -> tuple[FunctionTool, ...]:
    """One to four tools, described in the language, at times much alike."""
    count = rng.choices((1, 2, 3, 4), (35, 40, 20, 5))[0]
    functions: list[Function] = []
    near = rng.random() < NEAR
    written = written_functions(split)
    if rng.random() < WRITTEN[split]:
        functions.append(rng.choice(written))
        siblings = [f for f in written if f.domain == functions[0].domain and f is not functions[0]]
        if near and siblings:
            functions.append(rng.choice(siblings))
    else:
        functions += composed_family(rng, split, count if near else 1)
    domains = {function.domain for function in functions}
    while len(functions) < count:
        other = rng.choice(written) if rng.random() < WRITTEN[split] else composed_family(rng, split, 1)[0]
        if other.domain not in domains:
            domains.add(other.domain)
            functions.append(other)
    rng.shuffle(functions)
    return _offered(rng, functions[:count], language, split)


def exchange(rng: random.Random, language: Language, split: Split, toolbox: Sequence[Tool] | None = None) -> Exchange:
    """`toolbox` is one that this module's `toolbox` made, if the conversation has one already."""
    tools = _tools(rng, language, split) if toolbox is None else tuple(map(_own, toolbox))
    scene = _Scene(rng, Setting(split, language, tools[0].language), tools)
    case = rng.choices(tuple(CASES), tuple(CASES.values()))[0]
    able = [tool for tool in tools if tool.function.bare[language] and any(map(tool.is_required, tool.slots))]
    if case == "none":
        return _none(scene)
    if case == "missing" and able:
        return _missing(scene, rng.choice(able))
    if case == "talk":
        return _talk(scene)
    return _called(scene, rng.choice(tools))


def _tools(rng: random.Random, language: Language, split: Split) -> tuple[FunctionTool, ...]:
    english = language == "en" or (split == "train" and rng.random() < ENGLISH_TOOLS)
    return toolbox(rng, split, "en" if english else "zh")


def _own(tool: Tool) -> FunctionTool:
    if not isinstance(tool, FunctionTool):
        raise TypeError(f"tool {tool.name!r} is a {type(tool).__name__}; expected one made by tools.toolbox")
    return tool


def _offered(
    rng: random.Random, functions: Iterable[Function], language: Language, split: Split
) -> tuple[FunctionTool, ...]:
    offered: dict[str, FunctionTool] = {}
    for function in functions:
        while (tool := offer(rng, function, language, split)).name in offered:
            pass
        offered[tool.name] = tool
    return tuple(offered.values())


def _called(scene: _Scene, tool: FunctionTool) -> Exchange:
    values = _values(scene, tool)
    arguments = {tool.names[key]: value.json for key, value in values.items()}
    call = ToolCall(_CALL_ID, tool.name, arguments)
    result, answer, contains = _outcome(scene, tool, values)
    messages = (
        Message("user", _request(scene, tool.function, values)),
        Message("assistant", tool_calls=(call,)),
        Message("tool", dump_json(result), tool_call_id=_CALL_ID),
        Message("assistant", answer),
    )
    return _exchange(scene, "call", messages, {"name": tool.name, "arguments": arguments}, contains)


def _none(scene: _Scene) -> Exchange:
    """A request that none of the tools can serve."""
    rng, split = scene.rng, scene.setting.split
    domains = [tool.function.domain for tool in scene.tools]
    while True:
        written = rng.random() < WRITTEN[split]
        function = rng.choice(written_functions(split)) if written else composed_family(rng, split, 1)[0]
        if function.domain not in domains:
            break
    asked = offer(rng, function, scene.setting.tools, split)
    request = _request(scene, function, _values(scene, asked))
    messages = (Message("user", request), Message("assistant", scene.phrase("none")))
    return _exchange(scene, "none", messages, None, [scene.phrase("none_contains")])


def _missing(scene: _Scene, tool: FunctionTool) -> Exchange:
    """A request without the values that the function cannot do without."""
    language = scene.setting.user
    labels = [slot.label[language] for slot in tool.slots if tool.is_required(slot)]
    joined = {"en": " and the ", "zh": "和"}[language].join(labels)
    bare = _fill(scene.rng.choice(tool.function.bare[language]), {})
    request = _framed(scene.phrase("do_frames"), "do", bare)
    answer = scene.phrase("missing").format(labels=joined)
    return _exchange(scene, "missing", (Message("user", request), Message("assistant", answer)), None, labels)


def _talk(scene: _Scene) -> Exchange:
    """A word that asks for nothing."""
    topic = scene.rng.choice(("thanks", "thanks", "hello", "bye"))
    answer = scene.phrase(f"{topic}_answer")
    messages = (Message("user", scene.phrase(topic)), Message("assistant", answer))
    return _exchange(scene, "talk", messages, None, [])


def _exchange(
    scene: _Scene,
    case: Case,
    messages: tuple[Message, ...],
    call: Mapping[str, Any] | None,
    contains: list[str],
) -> Exchange:
    expect = {"case": case, "call": call, "answer_contains": contains}
    return Exchange("tools", scene.setting.user, messages, scene.tools, expect)


def _values(scene: _Scene, tool: FunctionTool) -> dict[str, Value]:
    """What the user says: every required value, and half of the others. No two are the same."""
    values: dict[str, Value] = {}
    for slot in tool.slots:
        if not tool.is_required(slot) and scene.rng.random() < 0.5:
            continue
        said = [value.said for value in values.values()]
        while (value := draw(scene.rng, slot.kind, scene.setting)).said in said:
            pass
        values[slot.key] = value
    return values


def _request(scene: _Scene, function: Function, values: Mapping[str, Value]) -> str:
    language = scene.setting.user
    said = {key: value.said for key, value in values.items()}
    if function.ask[language] and scene.rng.random() < 0.5:
        return _framed(scene.phrase("ask_frames"), "ask", _fill(scene.rng.choice(function.ask[language]), said))
    do = _fill(scene.rng.choice(function.do[language]), said)
    frame = scene.phrase("do_frames")
    texts = tuple(said[slot.key] for slot in function.slots if slot.kind == "text" and slot.key in said)
    # A text that stands last ends with the sentence, or nobody could tell where it ends.
    while texts and do.endswith(texts) and len(frame.partition("{do}")[2]) > 1:
        frame = scene.phrase("do_frames")
    return _framed(frame, "do", do)


def _framed(frame: str, slot: str, text: str) -> str:
    whole = frame.replace(f"{{{slot}}}", text)
    return whole[0].upper() + whole[1:]


def _fill(template: str, said: Mapping[str, str]) -> str:
    """The template with its slots; of its bracketed parts, those whose slots have a value."""

    def kept(part: re.Match[str]) -> str:
        return part[1] if all(key in said for key in _SLOT.findall(part[1])) else ""

    return close_up(_SLOT.sub(lambda slot: said[slot[1]], _OPTIONAL.sub(kept, template)))


def _outcome(scene: _Scene, tool: FunctionTool, values: Mapping[str, Value]) -> tuple[dict[str, Any], str, list[str]]:
    """What the tool returns, what the assistant says of it, and what of it has to be said."""
    if scene.rng.random() < ERROR_SHARE:
        error = _error(scene, tool)
        return {"error": error}, scene.phrase("failed").format(error=error), [error]
    if tool.function.result:
        return _told(scene, tool.function, values)
    return _reported(scene, tool.function, values)


def _error(scene: _Scene, tool: FunctionTool) -> str:
    language = scene.setting.tools
    label = scene.rng.choice([slot.label[language] for slot in tool.slots] or [""])
    errors = phrases(f"errors_{language}")
    return scene.rng.choice([error for error in errors if label or "{label}" not in error]).format(label=label)


def _told(scene: _Scene, function: Function, values: Mapping[str, Value]) -> tuple[dict[str, Any], str, list[str]]:
    language = scene.setting.user
    results = {key: draw(scene.rng, kind, scene.setting) for key, kind in function.result.items()}
    said = {key: value.said for key, value in results.items()}
    if "joke" in function.result or scene.rng.random() < 0.65:
        known = {key: value.said for key, value in values.items()}
        answer = _fill(scene.rng.choice(function.say[language]), {**known, **said})
    elif language == "en":
        answer = ", ".join(f"{key.replace('_', ' ')}: {text}" for key, text in said.items())
        answer = f"{answer[0].upper()}{answer[1:]}."
    else:
        answer = f"结果是{'，'.join(said.values())}。"
    return {key: value.json for key, value in results.items()}, answer, list(said.values())


def _reported(scene: _Scene, function: Function, values: Mapping[str, Value]) -> tuple[dict[str, Any], str, list[str]]:
    rng, language = scene.rng, scene.setting.user
    if rng.random() < ID_SHARE:
        number = draw(rng, rng.choice(("code", "int 20 9999")), scene.setting)
        result = {"status": "ok", rng.choice(("id", "number", "code")): number.json}
        return result, scene.phrase("done_id").format(id=number.said), [number.said]
    report = rng.choice(({"status": "ok"}, {"ok": True}, {"status": "done"}, {"result": "ok"}))
    done = scene.phrase("done")
    if not function.say[language] or rng.random() < 0.3:
        return report, done, []
    say = _fill(rng.choice(function.say[language]), {key: value.said for key, value in values.items()})
    space = " " if language == "en" else ""
    return report, f"{done}{space}{say}" if rng.random() < 0.5 else say, []
