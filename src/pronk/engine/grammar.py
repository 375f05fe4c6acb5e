"""Answers that follow a grammar by construction: before each choice, the tokens that may come next.

Built on llguidance (https://github.com/guidance-ai/llguidance): an Earley parser over lexemes, which walks a trie of
the vocabulary's bytes. The model keeps its own choice among the allowed tokens: text that the grammar forces is not
written for it, nor in a tokenization that is not its own. What a grammar may cost is bounded: grammars come from users.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pronk.errors import RequestError
from pronk.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_T = TypeVar("_T")
Kind = Literal["json_object", "json_schema", "regex", "lark", "choice"]
KINDS: tuple[str, ...] = get_args(Kind)

_MOST_CHARACTERS = {"json_schema": 1 << 18, "regex": 1 << 14, "lark": 1 << 18, "choice": 1 << 18}
_MOST_MULTIPLE = 10_000  # an automaton that divides by N has N states
_COMPILE_SECONDS = 10.0
_AT_ONCE = 0.1  # seconds, after which a compilation leaves the cores to others: what is ordinary has ended by then
_NICE = 10  # of its thread from then on: a tenth of an ordinary share
_COMPILERS = threading.BoundedSemaphore(2)  # a compilation past its time cannot be stopped; more than two never run
_STARTING = threading.Lock()  # the stack's size is a setting of the whole process
_STACK = 256 << 20  # bytes of address space: llguidance follows chains of rules by recursion
_CACHED, _CACHED_CHARACTERS = 64, 1 << 20

# Forced text stays the model's to tokenize (see above).
_OPTIONS = '%llguidance {"no_forcing": true}'
# A space, or a line's end and an indentation: enough for every layout, and no room for endless blanks.
_JSON_LAYOUT = {"whitespace_pattern": r"[ ]|\n[ \t]{0,20}"}
_LIMITS = {
    "max_items_in_row": 10_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 500_000,
    "step_max_items": 200_000,
    "max_lexer_states": 50_000,  # up to 2 kB each
    "max_grammar_size": 500_000,
    "verbose_errors": False,  # or messages would hold the parser's state
}


@dataclass(frozen=True)
class Grammar:
    """What an answer must be. Raises RequestError for a source that is no text or too long, or an unknown kind.

    source: the schema as JSON text; the regular expression, which the whole answer matches (Rust's syntax, without
    look-around; `.` is no line's end); the grammar in llguidance's dialect of Lark, where `<|python_tag|>` is that
    token; for "choice" a JSON list of texts, one of which is the answer. "json_object" is any JSON object and needs no
    source.
    """

    kind: Kind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(f"the grammar's kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if not isinstance(self.source, str):
            raise RequestError(f"the grammar's source is {type(self.source).__name__}, expected text")
        most = _MOST_CHARACTERS.get(self.kind, 0)
        if len(self.source) > most:
            raise RequestError(
                f"the {self.what} has {len(self.source)} characters, at most {most} are allowed; make it shorter"
            )
        try:
            self.source.encode()
        except UnicodeEncodeError:
            raise RequestError(f"the {self.what} holds half of a surrogate pair, which is no character") from None

    @property
    def what(self) -> str:
        """Its kind as messages call it."""
        return {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}.get(
            self.kind, self.kind
        )

    @staticmethod
    def json_object() -> Grammar:
        return Grammar("json_object")

    @staticmethod
    def json_schema(schema: Mapping[str, Any] | bool | str) -> Grammar:
        """A schema as parsed JSON or as its text."""
        if isinstance(schema, str):
            return Grammar("json_schema", schema)
        try:
            return Grammar("json_schema", json.dumps(schema, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"the JSON schema cannot be written as JSON: {error}") from None

    @staticmethod
    def regex(pattern: str) -> Grammar:
        return Grammar("regex", pattern)

    @staticmethod
    def lark(text: str) -> Grammar:
        return Grammar("lark", text)

    @staticmethod
    def choice(texts: Sequence[str]) -> Grammar:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise RequestError(f"the choices are {texts!r}, expected a list of texts")
        return Grammar("choice", json.dumps(list(texts)))


class GrammarCompiler:
    """Grammars for one tokenizer. Compiles in bounded time and memory and keeps what was used last; thread-safe.

    `stop_ids` may end an answer exactly where the grammar may end. The tokenizer's vocabulary is read at the first
    grammar: a fifth of a second for 128k tokens, and nothing for those who use none.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_ids: Collection[int], *, compile_seconds: float = _COMPILE_SECONDS
    ) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = sorted(set(stop_ids))
        self._seconds = compile_seconds
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()  # least recently used first

    def check(self, grammar: Grammar) -> None:
        """Raises RequestError for a grammar that is wrong, allows no text, or costs too much to compile."""
        self._compile(grammar)

    def matcher(self, grammar: Grammar, stop_ids: Collection[int]) -> GrammarMatcher:
        """For one answer that `stop_ids` end: a request's own ones, which may be other ones than the compiler's."""
        compiled = self._compile(grammar)
        with self._lock:
            copy = compiled.deep_copy()
        special = frozenset(self._tokenizer.special_ids.values())
        return GrammarMatcher(copy, self._tokenizer.vocab_size, frozenset(stop_ids), frozenset(self._stop_ids), special)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        with self._lock:
            if found := self._compiled.get(grammar):
                self._compiled.move_to_end(grammar)
                return found
        source = _lark(grammar)
        vocabulary = self._read_vocabulary()
        compiled = _bounded(lambda: _build(vocabulary, source), self._seconds, grammar)
        if compiled.is_error():
            raise RequestError(f"the {grammar.what} cannot be used: {_reason(compiled.get_error(), grammar)}")
        with self._lock:
            self._compiled[grammar] = compiled
            characters = sum(len(kept.source) for kept in self._compiled)
            while len(self._compiled) > _CACHED or (characters > _CACHED_CHARACTERS and len(self._compiled) > 1):
                characters -= len(self._compiled.popitem(last=False)[0].source)
        return compiled

    def _read_vocabulary(self) -> LLTokenizer:
        with self._reading:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary(self._tokenizer, self._stop_ids)
            return self._vocabulary


class GrammarMatcher:
    """Where one answer stands in its grammar. What it says depends on the answer's ids alone."""

    def __init__(
        self,
        matcher: LLMatcher,
        vocabulary: int,
        stop_ids: frozenset[int],
        compiled_stops: frozenset[int],
        special: frozenset[int],
    ) -> None:
        self._matcher = matcher
        self._read = 0
        self._mask = np.zeros((vocabulary + 31) // 32, np.uint32)
        # Stops that the compiler knows are in llguidance's mask where the grammar may end.
        self._added = [i for i in stop_ids - compiled_stops if i < vocabulary]
        self._ignored = compiled_stops - stop_ids
        self._special = special

    def allowed(self, answer: Sequence[int]) -> NDArray[np.uint32]:
        """Bit (i % 32) of word (i // 32): token i may come after the answer's ids so far. Good until the next call.

        Raises RequestError where the answer does not follow the grammar, or the grammar turns out to cost too much.
        """
        self._follow(answer)
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        ending = self._matcher.is_accepting()
        for token in self._added:
            # A control token may be part of the grammar; text that ends the answer may do so only where it may end.
            self._set(token, ending or (token in self._special and self._has(token)))
        if ending:
            for token in self._ignored:
                self._set(token, False)
        return self._mask

    def complete(self, answer: Sequence[int]) -> bool:
        """Nothing can follow but a stop."""
        self._follow(answer)
        if self._matcher.is_stopped():
            return True
        return bool(self._ignored) and self._matcher.is_accepting() and not self.allowed(answer).any()

    def _follow(self, answer: Sequence[int]) -> None:
        for token in answer[self._read :]:
            self._matcher.consume_token(token)
            self._check()
        self._read = len(answer)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"the answer cannot follow its grammar any further: {_short(self._matcher.get_error())}")

    def _has(self, token: int) -> bool:
        return bool(self._mask[token // 32] >> np.uint32(token % 32) & np.uint32(1))

    def _set(self, token: int, allowed: bool) -> None:
        bit = np.uint32(1 << token % 32)
        self._mask[token // 32] = self._mask[token // 32] | bit if allowed else self._mask[token // 32] & ~bit


def problem_with(grammar: Grammar, **options: bool) -> str:
    """Why a JSON schema cannot be enforced, or "". `options`: as for `lark_json`. Bounded as a compilation is."""
    from llguidance import LLMatcher

    try:
        source = _lark(grammar, **options)
        message = _bounded(lambda: LLMatcher.validate_grammar(source, limits=_limits()), _COMPILE_SECONDS, grammar)
    except RequestError as error:
        return str(error)
    return _reason(message, grammar) if message and not message.startswith("WARNING") else ""


def lark_json(schema: Mapping[str, Any] | bool, **options: bool) -> str:
    """The Lark expression for JSON that a schema describes, in the layouts that we allow. `lenient`: passes over what
    cannot be enforced."""
    bare = {} if schema is True else {"not": {}} if schema is False else dict(schema)
    try:
        return f"%json {json.dumps({**bare, 'x-guidance': {**_JSON_LAYOUT, **options}}, ensure_ascii=False)}"
    except RecursionError:
        raise RequestError("the JSON schema is nested too deeply") from None


def lark_text(text: str) -> str:
    """The Lark expression for exactly this text."""
    return json.dumps(text)


def lark_regex(pattern: str) -> str:
    """The Lark expression for text that matches, "/" escaped; \\d is 0 to 9."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, 'd')}/"


def _lark(grammar: Grammar, **options: bool) -> str:
    """The grammar in llguidance's dialect of Lark. Raises RequestError."""
    if grammar.kind == "lark":
        return f"{grammar.source}\n{_OPTIONS}\n"  # at the end, so that lines keep their numbers in messages
    if grammar.kind == "json_object":
        start = lark_json({"type": "object"})
    elif grammar.kind == "regex":
        start = lark_regex(grammar.source)
    elif grammar.kind == "choice":
        start = _choice(_parsed(grammar))
    else:
        schema = _parsed(grammar)
        if not isinstance(schema, (dict, bool)):
            raise RequestError(f"the JSON schema is {_kind(schema)}, expected an object")
        if schema is False:
            raise RequestError("the JSON schema is false, which allows no text")
        _check_schema(schema, grammar)
        start = lark_json(schema, **options)
    return f"{_OPTIONS}\nstart: {start}\n"


def _choice(texts: Any) -> str:
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError("the choice is no list of texts, expected at least one text")
    return f"CHOICE\nCHOICE: {' | '.join(map(lark_text, texts))}"


def _parsed(grammar: Grammar) -> Any:
    try:
        return json.loads(grammar.source)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the {grammar.what} is not JSON: {error}") from None


def _check_schema(value: Any, grammar: Grammar) -> None:
    """Refuse what llguidance would take long for, or would read as no text can say it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
            step = item.get("multipleOf")
            if isinstance(step, (int, float)) and (step > _MOST_MULTIPLE or 0 < step < 1 / _MOST_MULTIPLE):
                raise RequestError(
                    f"the {grammar.what} has multipleOf {step}, expected {1 / _MOST_MULTIPLE} to {_MOST_MULTIPLE}"
                )


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")


def _bounded(build: Callable[[], _T], seconds: float, grammar: Grammar) -> _T:
    """Runs `build` in a thread with a deep stack; RequestError when it takes longer than `seconds`."""
    late = RequestError(f"the {grammar.what} took more than {seconds:g} s to compile; make it simpler")
    if not _COMPILERS.acquire(timeout=seconds):
        raise late
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(build())
        except BaseException as error:  # for the thread that waits
            failures.append(error)
        finally:
            _COMPILERS.release()

    with _STARTING:
        before = threading.stack_size(_STACK)
        try:
            thread = threading.Thread(target=run, name="grammar", daemon=True)
            thread.start()
        except BaseException:
            _COMPILERS.release()
            raise
        finally:
            threading.stack_size(before)
    thread.join(min(_AT_ONCE, seconds))
    if thread.is_alive():
        _step_back(thread)
        thread.join(max(seconds - _AT_ONCE, 0.0))
    if failures:
        raise failures[0]
    if not results:
        raise late
    return results[0]


def _step_back(thread: threading.Thread) -> None:
    """The engine's threads go first, while there is not a core for everybody. Only Linux has this for one thread."""
    if sys.platform == "linux" and thread.native_id:
        with contextlib.suppress(OSError):  # it has just ended
            os.setpriority(os.PRIO_PROCESS, thread.native_id, _NICE)


def _build(vocabulary: LLTokenizer, source: str) -> LLMatcher:
    from llguidance import LLMatcher

    matcher = LLMatcher(vocabulary, source, log_level=0, limits=_limits())
    if not matcher.is_error():
        matcher.compute_bitmask()  # a grammar without any text fails here
    return matcher


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(**cast("dict[str, Any]", _LIMITS))


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        names = {token: text for text, token in tokenizer.special_ids.items()}
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(names)
        self.tokens = [
            names[token].encode() if token in names else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"), bos=False)


def _vocabulary(tokenizer: Tokenizer, stop_ids: list[int]) -> LLTokenizer:
    from llguidance import LLTokenizer

    if not stop_ids:
        raise RequestError("a grammar needs a token that ends the answer, and this vocabulary has none")
    wrapper = cast("Any", _Vocabulary(tokenizer, stop_ids[0]))
    return LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size, eos_token=stop_ids)


def _reason(message: str, grammar: Grammar) -> str:
    """llguidance's message as one line about the user's text: places in ours are left out."""
    if message.startswith("NoExtension"):
        return "it allows no text"
    lines = [line.strip() for line in message.splitlines()]
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    first = lines[0] if lines else ""
    if grammar.kind != "lark":
        first = re.sub(r"^(at )?\d+\(\d+\): ", "", first).removeprefix("failed to compile JSON schema: ")
    return _short("; ".join([first.removesuffix(":"), *causes]) if first or causes else message)


def _short(message: str) -> str:
    line = " ".join(message.replace("<non-verbose/>", "").split())
    return line if len(line) <= 300 else line[:300] + "…"
