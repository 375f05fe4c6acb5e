"""The samplers as a request uses them: their ranges, their state over an answer, and what may never come up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.engine.engine import Engine
from pronk.engine.request import Request
from pronk.engine.samplers import Samplers
from pronk.engine.samplers_text import TokenTexts, tail_of
from pronk.engine.sampling import SAMPLERS, Mirostat, Sampler, SamplingParams
from pronk.errors import RequestError
from pronk.text.tokenizers import build_tokenizer
from support import sampler_chain
from support.eager_engine import fake_engine, run
from support.engine_fakes import STOP, ByteTokenizer, FakeModel, hashed
from support.vocabularies import byte_level, sentencepiece


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"samplers": ("top_k", "top_q")}, "no sampler 'top_q', expected some of penalties, dry, top_n_sigma, top_k"),
        ({"samplers": "mirostat"}, "no sampler 'mirostat'"),
        ({"samplers": ("top_k", "xtc", "top_k")}, "samplers has 'top_k' twice"),
        ({"mirostat": 1}, r"mirostat is 1, expected 0 \(off\) or 2"),
        ({"mirostat": True}, "mirostat is True"),
        ({"mirostat_tau": -1}, "mirostat_tau is -1"),
        ({"top_n_sigma": -1}, "top_n_sigma is -1, expected at least 0"),
        ({"dry_allowed_length": -1}, "dry_allowed_length is -1"),
        ({"dry_range": -1}, "dry_range is -1, expected at least 0"),
        ({"dry_breakers": [""]}, "dry_breakers has ''"),
        ({"xtc_probability": 1.1}, "xtc_probability is 1.1, expected at least 0 and at most 1"),
        ({"xtc_threshold": "x"}, "xtc_threshold is 'x', expected a number"),
        ({"dynatemp_range": -0.1}, "dynatemp_range is -0.1"),
        ({"allowed_ids": []}, "allowed_ids is empty"),
        ({"allowed_ids": [-1]}, "an allowed id is -1"),
        ({"bad_words": ["a", ""]}, "bad_words has ''"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens is 5, max_tokens is 4"),
        ({"grammar": "start: a"}, "the grammar is 'start: a', expected a Grammar"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(params: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**params)


def test_the_defaults_turn_each_off_and_names_have_their_other_forms() -> None:
    row = np.random.default_rng(1).normal(size=500).astype(np.float32)
    plain = [Sampler(SamplingParams(seed=s, temperature=1), [0]).choose(row, [0]) for s in range(40)]
    order = [Sampler(SamplingParams(seed=s, temperature=1, samplers=SAMPLERS), [0]).choose(row, [0]) for s in range(40)]
    assert plain == order
    assert SamplingParams(samplers=["temp", "typical_p"]).samplers == ("temperature", "typ_p")  # type: ignore[arg-type]


# --- state over an answer ---


def test_mirostat_steers_to_its_surprise_and_repeats_itself() -> None:
    """Over many tokens the mean surprise, in bits of the whole distribution, comes near tau."""
    rng = np.random.default_rng(2)
    rows = (rng.normal(size=(300, 400)) * 3).astype(np.float32)

    def answer(tau: float) -> list[int]:
        params = SamplingParams(temperature=1, mirostat=2, mirostat_tau=tau, mirostat_eta=0.3, seed=4, top_k=1)
        sampler, ids = Sampler(params, [0]), [0]
        for row in rows:
            token = sampler.choose(row, ids)
            assert sampler.choose(row, ids) == token  # asked twice at one place: the same
            ids.append(token)
        return ids[1:]

    def surprise(ids: list[int]) -> float:
        return float(np.mean([-np.log2(sampler_chain.softmax(row)[i]) for row, i in zip(rows, ids, strict=True)]))

    low, high = answer(1.0), answer(4.0)
    assert low == answer(1.0)
    assert surprise(low) < 2.5 < 3.5 < surprise(high)


def test_mirostat_moves_its_bound_as_llama_cpp_does() -> None:
    bound = Mirostat(tau=5.0, eta=0.1)
    assert bound.mu(7) == 10.0
    bound.chose(7, 3.0)
    assert (bound.mu(7), bound.mu(8)) == (10.0, pytest.approx(10.2))
    bound.chose(8, 9.0)
    assert bound.mu(9) == pytest.approx(9.8)


def test_xtcs_coin_falls_by_seed_and_position() -> None:
    row = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    params = SamplingParams(temperature=1, top_p=1, xtc_probability=0.5, xtc_threshold=0.1, seed=9)
    first = [Sampler(params, [0]).choose(row, [0] * n) for n in range(1, 2001)]
    assert first == [Sampler(params, [5, 5]).choose(row, [0] * n) for n in range(1, 2001)]
    shares = np.bincount(first, minlength=3) / 2000
    assert shares == pytest.approx([0.25, 0.15, 0.6], abs=0.04)  # every other time the last one is all that is left


def test_dry_stops_a_loop_that_the_prompt_begins_and_breakers_let_it_pass() -> None:
    def says_again(ids: Any) -> np.ndarray:
        """What came three tokens ago, surely."""
        return np.eye(257, dtype=np.float32)[ids[-3]] * 5

    def answer(**params: Any) -> str:
        engine = fake_engine()
        engine.model = FakeModel(says_again, engine.model.config)
        request = Request(tuple(b"ab:ab:"), SamplingParams(temperature=0, max_tokens=6, **params))
        engine.add(request)
        return bytes(i for output in drain(engine) for i in output.ids).decode("latin-1")

    assert answer() == "ab:ab:"
    assert answer(dry_multiplier=5.0, dry_breakers=()) != "ab:ab:"
    assert answer(dry_multiplier=5.0) == "ab:ab:"  # ":" is a breaker: what repeats is too short
    assert answer(dry_multiplier=5.0, dry_breakers=(), dry_range=0) == "ab:ab:"
    assert answer(dry_multiplier=5.0, dry_breakers=(), dry_allowed_length=20) == "ab:ab:"


def drain(engine: Engine) -> list[Any]:
    outputs = []
    while engine.busy:
        outputs += engine.step()
    return outputs


def test_state_survives_preemption() -> None:
    """Mirostat's bound and DRY's history after pages were taken away: the same as alone."""
    wanted = [
        SamplingParams(temperature=1, mirostat=2, mirostat_tau=3.0, max_tokens=30, seed=s, ignore_eos=True)
        for s in range(4)
    ] + [SamplingParams(temperature=1, dry_multiplier=1.0, max_tokens=30, seed=s, ignore_eos=True) for s in range(4)]
    crowded, alone = fake_engine(pages=12), [run(fake_engine(), params)[0][2] for params in wanted]
    assert [answer[2] for answer in run(crowded, *wanted)] == alone
    assert crowded.scheduler.preemptions > 0


# --- what may come up ---


@settings(deadline=None, max_examples=30)
@given(words=st.lists(st.text("ab 你", min_size=1, max_size=4), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_bad_words_never_come_up_in_any_spelling(words: list[str], seed: int) -> None:
    """Tokens are bytes, and longer ones that hold or complete the words; "c" is always free."""
    pieces = [
        b"a",
        b"b",
        b" ",
        b"c",
        "你".encode(),
        b"ab",
        b" a",
        b"bb ",
        b"ba b",
        "你a".encode(),
        *("你".encode()[i : i + 1] for i in range(3)),
    ]

    class Few(ByteTokenizer):
        vocab_size = len(pieces) + 1
        stop_ids = frozenset({len(pieces)})
        special_ids: Mapping[str, int] = {"<stop>": len(pieces)}

        def token_bytes(self, token_id: int) -> bytes:
            return [*pieces, b""][token_id]

    tokenizer = Few()
    params = SamplingParams(temperature=1, top_p=1, seed=seed, bad_words=words)
    sampler, ids = Samplers(tokenizer).make(params, [0], tokenizer.stop_ids), [0]
    for _ in range(40):
        ids.append(sampler.choose(np.zeros(len(pieces), np.float32), ids))
    text = b"".join(map(tokenizer.token_bytes, ids[1:]))
    assert not any(word.encode() in text for word in words)


def test_a_word_is_forbidden_only_where_it_would_be_whole() -> None:
    tokenizer = build_tokenizer(byte_level())
    texts = TokenTexts(tokenizer)
    word = texts.bad_word("hello")

    def forbidden(tail: bytes) -> set[bytes]:
        return {tokenizer.token_bytes(int(i)) for ids in word.forbidden(tail) for i in ids}

    assert forbidden(b"") == {b"hello"}
    assert forbidden(b" he") == {b"hello"}
    assert forbidden(b"hell") == {b"hello", b"o", b"or"}
    assert tail_of([b"ab", b"", b"cde"], [0, 1, 2, 1], 4) == b"bcde"
    assert tail_of([b"ab"], [0], 0) == b""


def test_no_stop_before_min_tokens() -> None:
    engine = fake_engine()
    engine.model = FakeModel(lambda ids: hashed(ids) + np.eye(257, dtype=np.float32)[STOP] * 50, engine.model.config)
    ((_, last, ids),) = run(engine, SamplingParams(temperature=0, min_tokens=5, stop_ids=[7]))
    assert (len(ids), last.stopped_by) == (5, STOP)
    assert 7 not in ids


def test_allowed_ids_are_all_there_is() -> None:
    ((text, last, _),) = run(fake_engine(), SamplingParams(temperature=1, allowed_ids=[*b"xyz"], max_tokens=40, seed=1))
    assert re.fullmatch("[xyz]{40}", text)
    assert last.finish_reason == "length"
    with pytest.raises(RequestError, match="allowed_ids has token id 400, the vocabulary ends at 256"):
        fake_engine().add(Request((1,), SamplingParams(allowed_ids=[400])))


@pytest.mark.parametrize("vocabulary", [byte_level(), sentencepiece()], ids=["byte-level", "sentencepiece"])
def test_breakers_are_tokens_that_hold_or_begin_them(vocabulary: Any) -> None:
    tokenizer = build_tokenizer(vocabulary)
    heads, starts, tails = TokenTexts(tokenizer).breakers(("ll", "d\n"))
    found = {
        (tokenizer.token_bytes(int(head)), tokenizer.decode(tails[starts[i] : starts[i + 1]].tolist()))
        for i, head in enumerate(heads)
    }
    assert {(b"hell", ""), (b"ll", ""), (b"hello", ""), (b"l", "l"), (b"d", "\n"), (b"ld", "\n")} <= found
    assert all(b"ll" in head or (head + tail.encode()).endswith((b"ll", b"d\n")) for head, tail in found)
    assert heads.tolist() == sorted(heads.tolist())
