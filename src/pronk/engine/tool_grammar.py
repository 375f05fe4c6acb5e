"""Grammars for tool calls: a call that a chat format's parser reads, with arguments that its tool's schema allows.

"required" and a tool's name force a call in the form that the chat format teaches. "auto" leaves the model free to
answer in text; only where it begins a call, in whichever of the forms that the parser reads, it must bring it to a good
end. So text may be anything but a call's beginning (`_exclusions`).

Lark here is llguidance's: a lexeme is as long as it can be, so free text and the beginnings of calls must part at a
place that one lexeme decides: the heads, up to the arguments.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pronk.engine.grammar import Grammar, lark_json, lark_regex, lark_text, problem_with
from pronk.errors import RequestError
from pronk.text.llama3_format import PYTHON_TAG, Llama3Format
from pronk.text.llama3_tools import CODE_INTERPRETER, is_builtin
from pronk.text.messages import ChatFormat, Tool
from pronk.text.tokenizer import Tokenizer
from pronk.text.tool_parsers.syntax import CALL_KEYS
from pronk.text.tool_parsers.tool_call_tag import CLOSE, OPEN

Choice = Literal["auto", "required"]
_Style = Literal["json", "tag", "pythonic", "tool_call"]

_SPACE = r"[ \t\n]{0,8}"
_ANY = r"(.|\n)"
# A string that JSON and Python read alike; searches are written as Python calls.
_STRING = r'"([^"\\\x00-\x1f]|\\["\\nt])*"'


def tool_grammar(form: ChatFormat, tools: Sequence[Tool], choice: Choice | str, parallel: bool) -> Grammar:
    """choice: "auto", "required", or the name of the tool to call. Without `parallel` it is one call at most.

    Of a tool's schema, what llguidance cannot enforce (`not`, `if`, `uniqueItems`, ...) is passed over; arguments that
    it does not name are not allowed unless it says so. Raises RequestError for a format without tools, a tool that was
    not given, or a schema that no grammar can be made of.
    """
    style, tokenizer = _style(form)
    if not tools:
        raise RequestError(f"tool_choice is {choice!r} and there are no tools; give some")
    chosen = tools if choice in ("auto", "required") else [tool for tool in tools if tool.name == choice]
    if not chosen:
        names = ", ".join(tool.name for tool in tools)
        raise RequestError(f"tool_choice names {choice!r}, which is none of the tools: {names}")
    also_tags = not isinstance(form, Llama3Format)
    grammar = _Lark(tokenizer, tools, parallel, also_tags)
    start = grammar.auto(tools) if choice == "auto" else grammar.forced(style, chosen)
    return Grammar.lark(grammar.text(start))


def _style(form: ChatFormat) -> tuple[_Style, Tokenizer]:
    """How this format's model was taught to call."""
    if isinstance(form, Llama3Format):
        if form.tool_style is None:
            raise RequestError(f"{form.name} was taught no tools; use a Llama 3.1 or later model")
        return form.tool_style, form.tokenizer
    from pronk.text.jinja_format import JinjaFormat  # brings jinja2

    if not isinstance(form, JinjaFormat):
        raise RequestError(f"the chat format {form.name} knows no tools; use a model that was taught some")
    if OPEN in form.source:
        return "tool_call", form.tokenizer
    if "<function=" in form.source:
        return "tag", form.tokenizer
    return ("pythonic" if "func_name1(" in form.source else "json"), form.tokenizer


@dataclass(frozen=True)
class _Own:
    """One of the caller's own functions. `number` tells its rules from others'."""

    number: int
    name: str
    schema: Mapping[str, Any]

    @property
    def arguments(self) -> str:
        return f"args_{self.number}"


class _Lark:
    """Writes rules as they are asked for. A method that returns text returns the name of a rule, or an expression."""

    def __init__(self, tokenizer: Tokenizer, tools: Sequence[Tool], parallel: bool, also_tags: bool) -> None:
        self._special = tokenizer.special_ids
        self._parallel = parallel
        self._also_tags = also_tags
        self._rules: dict[str, str] = {}
        self._own = {
            tool.name: _Own(i, tool.name, _arguments(tool)) for i, tool in enumerate(tools) if not is_builtin(tool)
        }
        self._searches = [tool.name for tool in tools if is_builtin(tool) and tool.name != CODE_INTERPRETER]

    def text(self, start: str) -> str:
        return "\n".join(f"{name}: {body}" for name, body in {"start": start, **self._rules}.items())

    # --- what an answer may be ---

    def forced(self, style: _Style, tools: Sequence[Tool]) -> str:
        """A call of one of these, or several of them."""
        own = [self._own[tool.name] for tool in tools if tool.name in self._own]
        ways = []
        if own:
            tag = f"{PYTHON_TAG}? " if PYTHON_TAG in self._special and style in ("json", "pythonic") else ""
            ways.append(tag + self._calls(style, own))
        searches = [tool.name for tool in tools if tool.name in self._searches]
        ways += [f"{PYTHON_TAG} {self._search(name)}" for name in searches]
        if any(is_builtin(tool) and tool.name == CODE_INTERPRETER for tool in tools):
            ways.append(f"{PYTHON_TAG} {self._code()}")
        return _one_of(ways)

    def auto(self, tools: Sequence[Tool]) -> str:
        """Text, or calls in any form that is read, or text and then calls in a form that has a marker."""
        own = list(self._own.values())
        code = any(is_builtin(tool) and tool.name == CODE_INTERPRETER for tool in tools)
        at_start = [self._search(name) for name in self._searches]
        if own:
            at_start.append(self._calls("json", own))
            if named := [tool for tool in own if _callable_in_python(tool)]:
                at_start.append(self._calls("pythonic", named))
        self._add("TEXT", f"PLAIN & /{_ANY}+/")
        self._exclusions()
        ways = ["TEXT?", *at_start]
        if own:
            ways.append(self._calls("tag", own, after_text=True))
            if self._also_tags:
                ways.append(self._calls("tool_call", own, after_text=True))
        if PYTHON_TAG in self._special:
            tagged = [*at_start, self._calls("tag", own)] if own else at_start
            if tagged or code:
                ways.append(f"TEXT? {PYTHON_TAG} {_one_of([*tagged, *([self._code()] if code else [])])}")
        return _one_of(ways)

    def _calls(self, style: _Style, tools: Sequence[_Own], *, after_text: bool = False) -> str:
        """Calls in one form, one after the other. after_text: free text may come before the first."""
        write: Callable[[_Own, str], str] = {
            "json": self._json, "tag": self._tag, "tool_call": self._tool_call, "pythonic": self._pythonic
        }[style]  # fmt: skip
        first = _one_of([write(tool, "after text" if after_text else "first") for tool in tools])
        if self._parallel:
            more = _one_of([write(tool, "next") for tool in tools])
            between = {"json": r"/; ?|\n/ ", "pythonic": "", "tag": r"/\n?/ ", "tool_call": r"/\n?/ "}[style]
            first = f"{first} ({between}{more})*"
        return self._add(f"{style}_calls{'_after_text' * after_text}_{self._same(tools)}", first + self._close(style))

    def _close(self, style: _Style) -> str:
        return ' "]"' if style == "pythonic" else ""

    def _same(self, tools: Sequence[_Own]) -> str:
        return "_".join(str(tool.number) for tool in tools) if len(tools) == 1 else str(len(tools))

    # --- the forms ---

    def _json(self, tool: _Own, place: str) -> str:
        """{"type": "function", "name": "f", "parameters": {...}}; the type may be missing."""
        self._add(f"JSON_{tool.number}", lark_regex(_SPACE + _json_head(tool)))
        return self._add(f"json_{tool.number}", f"JSON_{tool.number} {self._args(tool)} /{_SPACE}\\}}/")

    def _tag(self, tool: _Own, place: str) -> str:
        head = self._marked(f"<function={tool.name}>", f"tag_{tool.number}", place)
        return f'{head} {self._args(tool)} "</function>"'

    def _tool_call(self, tool: _Own, place: str) -> str:
        special = OPEN in self._special and CLOSE in self._special
        body = self._json(tool, place)
        if special:  # control tokens part text and call by themselves
            return f"{'TEXT? ' if place == 'after text' else ''}{OPEN} {body} /{_SPACE}/ {CLOSE}"
        head = self._marked_regex(OPEN + _SPACE + _json_head(tool), f"tool_call_{tool.number}", place)
        return f"{head} {self._args(tool)} {lark_regex(f'{_SPACE}}}{_SPACE}{CLOSE}')}"

    def _marked(self, marker: str, name: str, place: str) -> str:
        return self._marked_regex(re.escape(marker), name, place)

    def _marked_regex(self, marker: str, name: str, place: str) -> str:
        """A beginning that may stand after text, which it ends as soon as it is there."""
        if place != "after text":
            return self._add(f"{name.upper()}_OPEN", lark_regex(marker))
        self._add(f"{name.upper()}_LEAD", f"PLAIN {lark_regex(marker)}")
        return self._add(f"{name}_lead[lazy]", f"{name.upper()}_LEAD", called=f"{name}_lead")

    def _pythonic(self, tool: _Own, place: str) -> str:
        """[f(a=1, b="x")]: keyword arguments, each a JSON value, which Python (with true, false, null) reads alike."""
        if not _callable_in_python(tool):
            raise RequestError(
                f"the tool {tool.name!r} has an argument that is no Python name, which pythonic calls need; rename it"
            )
        opening = rf"{_SPACE}\[{tool.name}\(" if place != "next" else rf", ?{tool.name}\("
        head = self._add(f"PY_{tool.number}_{place.upper()}", lark_regex(opening))
        required = set(tool.schema.get("required", ()))
        shared = {key: tool.schema[key] for key in ("$defs", "definitions") if key in tool.schema}
        # From the last argument to the first: what may follow when none was written yet, and when some were.
        none_yet, some = "", ""
        properties = tool.schema.get("properties", {})
        for i, name in reversed(list(enumerate(properties))):
            value = properties[name] if isinstance(properties[name], bool) else {**properties[name], **shared}
            this = self._add(f"value_{tool.number}_{i}", f"{lark_text(f'{name}=')} {lark_json(value, **_TOLERANT)}")
            here, later = f"{this} {some}".strip(), f"/, ?/ {this} {some}".strip()
            if name not in required:
                here, later = (
                    (f"({here} | {none_yet})" if none_yet else f"({here})?"),
                    (f"({later} | {some})" if some else f"({later})?"),
                )
            none_yet = self._add(f"first_{tool.number}_{i}", here)
            some = self._add(f"rest_{tool.number}_{i}", later)
        return self._add(f"py_{tool.number}_{place}".replace(" ", "_"), f'{head} {none_yet} ")"')

    def _search(self, name: str) -> str:
        """brave_search.call(query="...")"""
        self._add("STRING", f"/{_STRING}/")
        head = self._add(f"SEARCH_{self._searches.index(name)}", lark_regex(rf"{_SPACE}{name}\.call\(query="))
        return self._add(head.lower(), f'{head} STRING ")"')

    def _code(self) -> str:
        self._exclusions()
        return self._add("CODE", rf"PLAIN & /[ \n]*[^\s]{_ANY}*/")

    def _exclusions(self) -> None:
        """Free text: PLAIN neither begins like a call (CALLISH) nor has a call's marker anywhere (MARKED)."""
        names = "|".join(re.escape(name) for name in self._own) or "[^\\s\\S]"
        quoted = "|".join(re.escape(json.dumps(name, ensure_ascii=False)) for name in self._own) or "[^\\s\\S]"
        keys = "|".join(sorted(CALL_KEYS))
        json_object, with_name = rf'\s*\{{\s*"({keys})"{_ANY}*', rf'{_ANY}*"name"\s*:\s*({quoted}){_ANY}*'
        searches = "|".join(self._searches) or "[^\\s\\S]"
        ways = [
            f"({lark_regex(json_object)} & {lark_regex(with_name)})",
            lark_regex(rf"\s*\[\s*({names})\s*\({_ANY}*"),
            lark_regex(rf"\s*({searches})\.call\({_ANY}*"),
        ]
        self._add("CALLISH", " | ".join(ways))
        self._add("PLAIN", f"~CALLISH & ~MARKED & /{_ANY}*/")
        tags = f"|{OPEN}" if self._also_tags else ""
        self._add("MARKED", lark_regex(rf"{_ANY}*(<function=\s*({names})\s*>{tags}){_ANY}*"))

    def _args(self, tool: _Own) -> str:
        return self._add(tool.arguments, lark_json(tool.schema, **_TOLERANT))

    def _add(self, name: str, body: str, called: str | None = None) -> str:
        self._rules[name.replace(" ", "_")] = body
        return (called or name).replace(" ", "_")


def _json_head(tool: _Own) -> str:
    """A regular expression for a JSON call up to its arguments."""
    name, s = re.escape(json.dumps(tool.name, ensure_ascii=False)), _SPACE
    colon, comma = f"{s}:{s}", f"{s},{s}"
    typed = f'("type"{colon}"function"{comma})?'
    return rf'\{{{s}{typed}"name"{colon}{name}{comma}"(parameters|arguments)"{colon}'


def _one_of(ways: Sequence[str]) -> str:
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"


# What no grammar can enforce is passed over: the call is worth more than its last detail.
_TOLERANT = {"lenient": True}


def _arguments(tool: Tool) -> Mapping[str, Any]:
    """A schema that can be enforced, for the object that holds a tool's arguments. Raises RequestError."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema: Mapping[str, Any] = _closed({**tool.parameters, "type": "object"})
    reason = problem_with(Grammar.json_schema(schema), **_TOLERANT)
    if reason:
        schema = _without_patterns(schema)
        if reason := problem_with(Grammar.json_schema(schema), **_TOLERANT):
            raise RequestError(f"the parameters of the tool {tool.name!r} cannot be enforced: {reason}")
    return schema


def _closed(schema: Any) -> Any:
    """Objects have the properties that they name, unless they say otherwise or are put together from parts."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
            out[key] = {name: _closed(item) for name, item in value.items()}
        elif key in ("items", "prefixItems", "additionalProperties", "anyOf", "oneOf"):
            out[key] = _closed(value)
        else:
            out[key] = value
    open_ended = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
    if "properties" in out and not open_ended & out.keys():
        out["additionalProperties"] = False
    return out


def _without_patterns(schema: Any) -> Any:
    """Without the regular expressions, some of which no automaton can follow."""
    if isinstance(schema, list):
        return [_without_patterns(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: _without_patterns(item) for key, item in schema.items() if key != "pattern" or not isinstance(item, str)
    }


def _callable_in_python(tool: _Own) -> bool:
    """Can its arguments be written as keywords, each by its own schema?"""
    names = [*tool.name.split("."), *tool.schema.get("properties", {})]
    right = all(name.isidentifier() and not keyword.iskeyword(name) for name in names)
    return right and not {"$ref", "anyOf", "oneOf", "allOf"} & tool.schema.keys()
