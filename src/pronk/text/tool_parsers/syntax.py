"""The contract of a call syntax, and what the syntaxes share.

A syntax looks at text and says one of three things: it begins with whole calls, it may become one, it never will. The
verdict must not depend on how the text arrived: a NO or a Found for some text stays true whatever follows.
Only names that were offered are calls. Where a client could not run a call anyway, the text is worth more to it, and an
answer that merely is JSON with a "name" in it (a user asked for JSON) stays an answer. (vLLM passes any name on.)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pronk.text.messages import ToolCall, new_call_id


@dataclass(frozen=True)
class Found:
    """Whole calls in text[:end]."""

    calls: tuple[ToolCall, ...]
    end: int


class Verdict(Enum):
    NO = "this text is not a call, whatever follows"
    MAYBE = "this text may become a call"


class CallSyntax(Protocol):
    @property
    def marker(self) -> str | None:
        """Text that opens a call anywhere in an answer; None for a syntax that only counts where an answer starts."""
        ...

    def read(self, text: str, since: int, final: bool) -> Found | Verdict:
        """Judge `text`, which starts where a call would. Its first `since` characters were a MAYBE before.

        `final`: nothing follows; the verdict MAYBE is then as good as NO.
        """
        ...


def find_call(value: object, names: Collection[str]) -> ToolCall | None:
    """The call that a parsed JSON value is, in one of the shapes that Llama models write; None when it is none:

    `{"name", "parameters" | "arguments"}`, the same with `"type": "function"`, and OpenAI's nested "function".
    """
    if not isinstance(value, dict) or not value.keys() <= CALL_KEYS:
        return None
    fields: dict[str, Any] = value
    typed = fields.get("type") == "function"
    if isinstance(fields.get("function"), dict):
        fields = fields["function"]
    name = fields.get("name")
    if not isinstance(name, str) or name not in names:
        return None
    for key in ("parameters", "arguments"):
        if key in fields:
            return make_call(name, fields[key])
    return make_call(name, {}) if typed else None


CALL_KEYS = frozenset({"id", "type", "function", "name", "parameters", "arguments"})


def make_call(name: str, arguments: object) -> ToolCall | None:
    """A call with a fresh id; None where the arguments are no JSON object (nor a string that holds one, nor null)."""
    if isinstance(arguments, str):
        decoded = decode_json(arguments, 0)
        arguments = decoded[0] if isinstance(decoded, tuple) and not arguments[decoded[1] :].strip() else arguments
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return ToolCall(new_call_id(), name, _without_lone_surrogates(arguments, text))


def _without_lone_surrogates(arguments: dict[str, Any], text: str) -> Mapping[str, Any]:
    r"""JSON's "\ud800" alone is no character, and would fail at the first encoding, far from here."""
    if not any("\ud800" <= char <= "\udfff" for char in text):
        return arguments
    clean: dict[str, Any] = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return clean


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Models write raw newlines inside JSON strings, in code above all; strict=False reads them.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)
# The longest thing that the decoder reports at its start when the text ends inside it: two \uXXXX of one character.
_LOOK_BACK = 12


def decode_json(text: str, begin: int) -> tuple[Any, int] | Verdict:
    """The JSON value at `begin` (spaces skipped) and where it ends; MAYBE where the text ends inside it."""
    begin += len(text) - begin - len(text[begin:].lstrip())
    try:
        return _DECODER.raw_decode(text, begin)
    except RecursionError:
        return Verdict.NO
    except json.JSONDecodeError as error:
        cut_short = error.pos >= len(text) - _LOOK_BACK or error.msg.startswith("Unterminated string")
        return Verdict.MAYBE if cut_short else Verdict.NO
    except ValueError:  # a number too long to convert, or NaN
        return Verdict.NO


def decode_closed_json(text: str, begin: int, close: str, final: bool) -> tuple[Any, int] | Verdict:
    """The JSON value between `begin` and the text `close`, and where `close` ends.

    No value at all is {}. Where the answer ends after a whole value, a missing or cut `close` is forgiven.
    """
    if text[begin:].lstrip().startswith(close):
        return {}, text.index(close, begin) + len(close)
    decoded = decode_json(text, begin)
    if isinstance(decoded, Verdict):
        return decoded
    value, end = decoded
    rest = text[end:].lstrip()
    if rest.startswith(close):
        return value, len(text) - len(rest) + len(close)
    if close.startswith(rest):
        return (value, len(text)) if final else Verdict.MAYBE
    return Verdict.NO
