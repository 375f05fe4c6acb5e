"""Answers under a grammar: always what it says, ended where it ends, in the model's own tokens; and what is refused."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import pronk
from pronk.checkpoints.open import open_tokenizer
from pronk.engine import grammar
from pronk.engine.engine import Engine
from pronk.engine.grammar import Grammar, GrammarCompiler
from pronk.engine.logprobs import token_logprob
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.errors import RequestError
from pronk.text.tokenizers import build_tokenizer
from support.eager_engine import eager, endings, fake_engine, run, sampled, valid
from support.engine_fakes import STOP, ByteTokenizer, tiny_llama3
from support.json_schemas import schemas
from support.vocabularies import byte_level, sentencepiece

SCHEMAS = schemas()

# --- what comes out ---


def test_random_logits_give_json_that_every_schema_accepts() -> None:
    ended = 0
    wanted = [(schema, seed) for schema in SCHEMAS for seed in (1, 2)]
    answers = run(fake_engine(), *(sampled(Grammar.json_schema(schema), seed) for schema, seed in wanted))
    for (schema, _), (text, last, _) in zip(wanted, answers, strict=True):
        if last.finish_reason == "stop":
            ended += 1
            assert valid(schema, text), f"{text} is not {json.dumps(schema)}"
        else:
            assert last.finish_reason == "length"
    assert ended > 0.9 * len(wanted)


@pytest.mark.parametrize("model", ["cria", "random:tiny"])
def test_a_model_gives_json_that_every_schema_accepts(model: str) -> None:
    with pronk.load(model) as llama:
        prompt = tuple(llama.tokenizer.encode("Once", bos=True))
        texts = enumerate(map(llama.tokenizer.token_bytes, range(llama.tokenizer.vocab_size)))
        # Or texts and layouts without a bound would fill the context.
        bias = {token: -8.0 for token, text in texts if text.isspace()} | dict.fromkeys(endings(llama.tokenizer), 8.0)
        wanted = [Request(prompt, sampled(Grammar.json_schema(s), 3, max_tokens=600, logit_bias=bias)) for s in SCHEMAS]
        ended = 0
        for schema, answer in zip(SCHEMAS, llama.run(wanted).results, strict=True):
            if answer.finish_reason == "stop":
                ended += 1
                assert valid(schema, answer.text), f"{answer.text} is not {json.dumps(schema)}"
    assert ended > 0.85 * len(SCHEMAS)  # the others were still in the middle of a number or a list


def test_a_model_that_loves_blanks_comes_to_an_end() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    with pronk.load("random:tiny") as llama:
        texts = enumerate(map(llama.tokenizer.token_bytes, range(llama.tokenizer.vocab_size)))
        bias = {token: 100.0 if text[:1] == b"\n" else 50.0 for token, text in texts if text.isspace()}
        answer = llama.complete("Once", grammar=Grammar.json_schema(schema), logit_bias=bias, max_tokens=200)
    assert set(json.loads(answer.text)) == {"a"}
    assert answer.text.count("\n") >= 3
    assert max(map(len, re.findall(r"\n[ \t]*", answer.text))) == 21


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_object(),
        Grammar.regex(r"(\d{1,3}\.){3}\d{1,3}/[a-f]+\n"),
        Grammar.regex(r"^[^a-zA-Z]{3,9}$"),
        Grammar.choice(["yes", "no", "yes, but", 'say "無"\n', ""]),
        Grammar.lark('start: greeting " " NAME "!"\ngreeting: "hi" | "bye" greeting?\nNAME: /[A-Z][a-z]{1,5}/'),
    ],
    ids=lambda grammar: grammar.kind,
)
def test_every_kind_gives_what_it_says(grammar: Grammar) -> None:
    for text, last, _ in run(fake_engine(), *(sampled(grammar, seed) for seed in range(8))):
        assert last.finish_reason == "stop"
        if grammar.kind == "json_object":
            assert isinstance(json.loads(text), dict)
        elif grammar.kind == "regex":
            assert re.fullmatch(grammar.source, text)
        elif grammar.kind == "choice":
            assert text in json.loads(grammar.source)
        else:
            assert re.fullmatch(r"(bye)*(hi|bye) [A-Z][a-z]{1,5}!", text)


def test_greedy_is_reproducible_alone_beside_others_and_after_preemption() -> None:
    greedy = [sampled(Grammar.regex(f"{letter}[a-z ]{{20,30}}!"), temperature=0) for letter in "abcdefgh"]
    together = run(fake_engine(), *greedy)
    alone = [run(fake_engine(), params)[0] for params in greedy]
    assert [a[2] for a in together] == [a[2] for a in alone]
    crowded = fake_engine(pages=12)
    assert [a[2] for a in run(crowded, *greedy)] == [a[2] for a in alone]
    assert crowded.scheduler.preemptions > 0


# --- where it ends ---


def test_a_complete_answer_ends_without_a_stop_token() -> None:
    ((text, last, ids),) = run(fake_engine(), sampled(Grammar.regex("abc")))
    assert (text, ids, last.finish_reason, last.stopped_by) == ("abc", list(b"abc"), "stop", None)


def test_a_stop_token_comes_only_where_the_grammar_may_end() -> None:
    stop_loving = fake_engine()
    stop_loving.model.logits_of = lambda ids: np.eye(257, dtype=np.float32)[STOP] * 50  # type: ignore[attr-defined]
    ((text, last, _),) = run(stop_loving, sampled(Grammar.regex("[ab]{2,9}"), temperature=0))
    assert (text, last.finish_reason, last.stopped_by) == ("aa", "stop", STOP)


def test_a_cut_answer_says_length_and_a_last_token_that_completes_says_stop() -> None:
    engine = fake_engine()
    (cut,), (whole,) = (run(engine, sampled(Grammar.regex("abc"), max_tokens=n)) for n in (2, 3))
    assert (cut[0], cut[1].finish_reason) == ("ab", "length")
    assert (whole[0], whole[1].finish_reason) == ("abc", "stop")


def test_without_eos_a_grammar_that_may_end_goes_on_until_it_must() -> None:
    endless = sampled(Grammar.regex("a+"), ignore_eos=True, max_tokens=20)
    assert run(fake_engine(), endless)[0][0] == "a" * 20
    bounded = sampled(Grammar.regex("a{1,5}"), ignore_eos=True)
    text, last, _ = run(fake_engine(), bounded)[0]
    assert (text, last.finish_reason) == ("aaaaa", "stop")


def test_a_requests_own_stop_id_counts_where_the_grammar_may_end() -> None:
    engine = fake_engine()
    engine.model.logits_of = lambda ids: np.eye(257, dtype=np.float32)[ord("x")] * 50  # type: ignore[attr-defined]
    text, last, _ = run(engine, sampled(Grammar.regex("[ax]{2,5}"), stop_ids=[ord("x")], temperature=0))[0]
    assert (text, last.finish_reason, last.stopped_by) == ("aa", "stop", ord("x"))


# --- tokens ---


@pytest.mark.parametrize("vocabulary", [sentencepiece(), byte_level()], ids=["sentencepiece", "byte-level"])
def test_every_kind_of_vocabulary(vocabulary: Any) -> None:
    tokenizer = build_tokenizer(vocabulary)
    engine = fake_engine(tokenizer)
    schemas = [{"enum": ["hello world", "hello or"]}, {"type": "array", "items": {"const": "he"}, "maxItems": 2}]
    answers = run(engine, *(sampled(Grammar.json_schema(s)) for s in schemas))
    for schema, (text, last, _) in zip(schemas, answers, strict=True):
        assert last.finish_reason == "stop"
        assert valid(schema, text)


def test_the_model_chooses_how_forced_text_is_cut() -> None:
    tokenizer = open_tokenizer("cria")
    matcher = GrammarCompiler(tokenizer, tokenizer.stop_ids).matcher(Grammar.regex("hello"), tokenizer.stop_ids)

    def allowed(ids: list[int]) -> set[bytes]:
        bits = np.unpackbits(matcher.allowed(ids).view(np.uint8), bitorder="little")
        return {tokenizer.token_bytes(int(token)) for token in np.flatnonzero(bits[: tokenizer.vocab_size])}

    assert allowed([]) >= {b"h", b"he"}
    assert all(b"hello".startswith(piece) for piece in allowed([]))
    byte = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    assert b"e" in allowed([byte[b"h"]])


def test_control_tokens_stand_in_a_grammar_and_their_spelling_is_no_control_token() -> None:
    tokenizer = tiny_llama3()
    tag, eom = (tokenizer.special_ids[name] for name in ("<|python_tag|>", "<|eom_id|>"))
    engine = fake_engine(tokenizer)
    grammar = Grammar.lark('start: <|python_tag|> "x" <|eom_id|>')
    ((_, last, ids),) = run(engine, sampled(grammar))
    assert (ids, last.stopped_by) == ([tag, ord("x")], eom)
    ((text, _, ids),) = run(engine, sampled(Grammar.regex(r"<\|python_tag\|>")))
    assert (text, tag in ids) == ("<|python_tag|>", False)


def test_log_probabilities_stay_the_models() -> None:
    params = sampled(Grammar.regex("zebra"), logprobs=2)
    request = Request((65,), params)
    engine = fake_engine()
    engine.add(request)
    ids, scores = [65], []
    while engine.busy:
        for output in engine.step():
            ids += output.ids
            scores += output.logprobs
    assert scores == [token_logprob(eager(ids[:n]), ids[n], 2) for n in range(1, 6)]


# --- what is refused ---


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("json_schema", "{", "the JSON schema is not JSON"),
        ("json_schema", "[1]", "the JSON schema is a list, expected an object"),
        ("json_schema", "false", "allows no text"),
        ("json_schema", '{"not": {}}', r'the JSON schema cannot be used: Unimplemented keys: \["not"\]'),
        ("json_schema", '{"type": "strin"}', "Invalid type: strin"),
        ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}', "minimum .5. is greater than maximum .3."),
        ("json_schema", '{"$ref": "#"}', "it allows no text"),
        ("json_schema", '{"$ref": "http://localhost/x"}', "http://localhost/x"),
        ("json_schema", '{"type": "string", "pattern": "(?=a)"}', "look-around"),
        ("regex", "(a", "unclosed group"),
        ("regex", r"(a)\1", "backreferences are not supported"),
        ("regex", r"[^\s\S]", "it allows no text"),
        ("lark", 'start: "a" b', 'at 1.8.: unknown name: "b"'),
        ("lark", "start: <|nope|>", "unknown special token"),
        ("lark", "", "no start rule"),
        ("choice", "[]", "expected at least one text"),
        ("choice", '["a", 1]', "no list of texts"),
    ],
)
def test_a_grammar_that_is_wrong_is_refused_with_the_reason(kind: Any, source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        GrammarCompiler(ByteTokenizer(), {STOP}).check(Grammar(kind, source))
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=message):
        fake_engine().add(Request((1,), sampled(Grammar(kind, source))))


HOSTILE: dict[str, tuple[str, str]] = {
    "deep schema": ("json_schema", '{"type":"array","items":' * 10_000 + "{}" + "}" * 10_000),
    "deep regex": ("regex", "(" * 8_000 + "a" + ")" * 8_000),
    "deep lark": ("lark", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000),
    "long chain of rules": ("lark", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4600)) + 'r4600: "a"'),
    "repetition": ("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "exponential automaton": ("regex", "(a|b)*a(a|b){500}"),
    "large classes": ("regex", r"(\w{1,5000}\d{1,5000}){1,50}"),
    "ambiguous": ("lark", 'start: start start | "a" |'),
    "a million items": (
        "json_schema",
        '{"type":"array","minItems":1000000,"items":{"type":"array","minItems":1000000}}',
    ),
    "a division": ("json_schema", '{"type":"integer","multipleOf":1000003}'),
    "exponential references": (
        "json_schema",
        json.dumps(
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    **{f"d{i}": {"allOf": [{"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}] * 2} for i in range(30)},
                    "d30": {"type": "integer"},
                },
            }
        ),
    ),
    "a product of choices": (
        "json_schema",
        json.dumps(
            {"allOf": [{"anyOf": [{"required": [f"{x}{i}"], "type": "object"} for x in "ab"]} for i in range(22)]}
        ),
    ),
    "too long": ("regex", "a" * 100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_refused_or_bounded(name: str) -> None:
    """It may be used where it turns out harmless; the process lives and others are served."""
    kind, source = HOSTILE[name]
    engine = fake_engine()
    with suppress(RequestError):
        engine.add(Request((1,), sampled(Grammar(kind, source), max_tokens=12)))  # type: ignore[arg-type]
    while engine.busy:
        engine.step()
    assert run(engine, sampled(Grammar.regex("ok")))[0][0] == "ok"


def test_a_compilation_past_its_time_is_given_up() -> None:
    compiler = GrammarCompiler(ByteTokenizer(), {STOP}, compile_seconds=0.02)
    slow = Grammar.lark('start: %json {"type": "integer", "multipleOf": 30011}')
    with pytest.raises(RequestError, match=r"the Lark grammar took more than 0.02 s to compile"):
        compiler.check(slow)


def test_what_needs_a_tokenizer_says_so() -> None:
    engine = fake_engine()
    bare = Engine(engine.model, engine.cache, None, engine.config)
    with pytest.raises(RequestError, match="a grammar needs a tokenizer"):
        bare.add(Request((1,), sampled(Grammar.json_object())))
    with pytest.raises(RequestError, match="bad_words needs a tokenizer"):
        bare.add(Request((1,), SamplingParams(bad_words=["x"])))


def test_a_tokenizer_without_stops_has_no_grammars() -> None:
    with pytest.raises(RequestError, match="needs a token that ends the answer"):
        GrammarCompiler(ByteTokenizer(), ()).check(Grammar.json_object())


def test_threads_share_a_compiler_and_its_memory_is_bounded() -> None:
    compiler = GrammarCompiler(ByteTokenizer(), {STOP})
    grammars = [Grammar.regex(f"a{{{i % 70 + 1}}}") for i in range(140)]

    def ends_after(grammar: Grammar) -> int:
        matcher = compiler.matcher(grammar, {STOP})
        return next(n for n in range(1, 100) if matcher.complete([ord("a")] * n))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ends_after, grammars)) == [i % 70 + 1 for i in range(140)]
    assert len(compiler._compiled) <= 64


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_a_long_compilation_steps_back_and_its_caller_does_not() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def build() -> tuple[int, bool]:
        before, end = priority(), time.monotonic() + 60
        while priority() == before and time.monotonic() < end:
            time.sleep(0.01)
        return before, priority() > before

    mine = priority()
    assert grammar._bounded(build, 60.0, Grammar.json_object()) == (mine, True)
    assert priority() == mine
