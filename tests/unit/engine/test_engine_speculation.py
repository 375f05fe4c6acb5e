"""Guessed tokens: whatever is guessed, right or wrong, what a request gets is what it gets without; only sooner."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pronk.engine.config import EngineConfig, Speculation
from pronk.engine.engine import Engine
from pronk.engine.lookup import _CANDIDATES, Lookup
from pronk.engine.request import Output, Request
from pronk.engine.sampling import SamplingParams
from pronk.engine.scheduler import Scheduler
from pronk.engine.scheduler import Sequence as Scheduled
from pronk.engine.speculation import Pace, Wish
from pronk.errors import RequestError
from support.engine_fakes import SMALL, STOP, ByteTokenizer, FakeCache, FakeModel, hashed, one_hot, says

BLOCK = 4


class Guesses:
    """A proposer that says what it is told to, for each wish."""

    def __init__(self, guess: Callable[[Wish], Sequence[int]]) -> None:
        self.guess = guess
        self.forgotten: list[str] = []

    def propose(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        return [self.guess(wish) for wish in wishes]

    def forget(self, request_id: str) -> None:
        self.forgotten.append(request_id)


def engine(
    model: FakeModel, guess: Callable[[Wish], Sequence[int]] | None = None, rows: int = 64, **changes: Any
) -> Engine:
    values = {"context": 200, "pages": 100, "max_sequences": 8, "token_budget": 64, "block": BLOCK} | changes
    if guess is not None:
        values["speculation"] = Speculation("draft", rows=rows)
    config = EngineConfig(**values)
    draft = Guesses(guess) if guess is not None else None
    return Engine(model, FakeCache(config.pages, config.block), ByteTokenizer(), config, draft=draft)


def ask(prompt: str, **fields: Any) -> Request:
    """Fields of the request, and of its sampling parameters."""
    own = {name: fields.pop(name) for name in vars(Request(())) if name in fields}
    return Request(tuple(prompt.encode()), SamplingParams(**{"temperature": 0, **fields}), **own)


def run(engine: Engine, *requests: Request) -> list[list[Output]]:
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.busy:
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert engine.scheduler.pool.free == engine.config.pages
    return [outputs[request.id] for request in requests]


def ids(outputs: Sequence[Output]) -> list[int]:
    return [token for output in outputs for token in output.ids]


def whole(outputs: Sequence[Output]) -> dict[str, Any]:
    """What a caller has at the end."""
    last = outputs[-1]
    assert last.usage
    return {
        "ids": ids(outputs),
        "text": "".join(output.text for output in outputs),
        "logprobs": [score for output in outputs for score in output.logprobs],
        "prompt_logprobs": [output.prompt_logprobs for output in outputs if output.prompt_logprobs],
        "end": (last.finish_reason, last.stopped_by, last.slid, last.usage.completion_tokens),
    }


def script(text: str, prompt: int) -> Callable[[Wish], Sequence[int]]:
    """Guesses what `says(text, prompt)` says."""
    return lambda wish: [*text.encode(), STOP][len(wish.ids) - prompt :][: wish.count]


def test_right_guesses_come_out_together() -> None:
    plain, guessing = engine(says("hello world", 2)), engine(says("hello world", 2), script("hello world", 2))
    (expected,), (outputs,) = run(plain, ask("hi")), run(guessing, ask("hi"))
    assert whole(outputs) == whole(expected)
    assert [output.text for output in outputs] == ["h", "ello ", "world"]  # four guesses at first, then eight
    timings, stats = outputs[-1].timings, guessing.stats()
    assert timings
    assert (timings.drafted_tokens, timings.accepted_tokens) == (4 + 6, 4 + 6)  # the stop was guessed too
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.completion_tokens) == (10, 10, 12)
    assert (stats.steps, plain.stats().steps) == (3, 12)


def test_wrong_guesses_change_nothing_and_are_given_up() -> None:
    guessing = engine(FakeModel(hashed), lambda wish: [7] * wish.count)
    (outputs,) = run(guessing, ask("some prompt", max_tokens=100, ignore_eos=True))
    assert whole(outputs) == whole(
        run(engine(FakeModel(hashed)), ask("some prompt", max_tokens=100, ignore_eos=True))[0]
    )
    assert guessing.stats().accepted_tokens == 0
    assert guessing.stats().drafted_tokens < 20  # of 99 steps that could have had some


def test_a_guess_that_is_right_up_to_a_place_is_taken_up_to_there() -> None:
    guessing = engine(says("hello world", 2), lambda wish: list(b"elxxx")[: wish.count])
    guessing.add(ask("hi"))
    assert [guessing.step()[0].text for _ in range(2)] == ["h", "ell"]  # the third is chosen where the wrong one stands


@pytest.mark.parametrize(
    "params",
    [
        {"max_tokens": 3},
        {"max_tokens": 1},
        {"stop": "lo w"},
        {"stop": ("zzz", "wo", "o")},
        {"stop_ids": [ord(" ")]},
        {"stop": "d!"},
        {"ignore_eos": True, "stop_ids": [ord("w")]},
        {"logprobs": 2, "prompt_logprobs": 0},
        {"logprobs": 0, "temperature": 2.0, "seed": 5},
        {"repetition_penalty": 50.0, "max_tokens": 9},
        {"frequency_penalty": 2.0, "presence_penalty": 2.0, "logit_bias": {ord("l"): -9.0}, "max_tokens": 9},
    ],
)
@pytest.mark.parametrize("limits", [{}, {"context": 9}])
def test_an_answer_ends_as_it_does_without(params: dict[str, Any], limits: dict[str, int]) -> None:
    text = "hellö wörld"
    (expected,) = run(engine(says(text, 2), **limits), ask("hi", **params))
    (outputs,) = run(engine(says(text, 2), script(text, 2), **limits), ask("hi", **params))
    assert whole(outputs) == whole(expected)


def test_guesses_take_what_the_step_has_left() -> None:
    model = FakeModel(hashed)
    chosen = engine(model, lambda wish: [7] * wish.count, token_budget=10, prefill_chunk=6, max_sequences=3)
    chosen.add(ask("a", max_tokens=30, ignore_eos=True))
    chosen.step()
    chosen.add(ask("a prompt of some length", max_tokens=3))
    chosen.step()
    assert np.diff(model.batches[-1].query_starts).tolist() == [1 + 3, 6]
    assert len(model.batches[-1].logit_rows) == 1 + 3


def test_among_many_there_are_few_guesses_or_none() -> None:
    for count, each in ((1, 5), (2, 3), (3, 2), (6, 1)):
        model = FakeModel(hashed)
        chosen = engine(model, lambda wish: [7] * wish.count, rows=6)
        for i in range(count):
            chosen.add(ask(f"{i}", max_tokens=9, ignore_eos=True))
        chosen.step()
        chosen.step()
        assert np.diff(model.batches[-1].query_starts).tolist() == [each] * count


def test_nobody_gives_up_a_page_for_a_guess() -> None:
    scheduler = Scheduler(EngineConfig(context=40, pages=4, block=BLOCK))
    sequence, other = Scheduled("a", [1] * 3), Scheduled("b", [2] * 3, offers=False)
    for each in (sequence, other):
        scheduler.add(each)
    for chunk in scheduler.schedule():
        scheduler.done(chunk)
        chunk.sequence.ids.append(0)
    mine, theirs = scheduler.schedule()
    assert scheduler.guess(mine, (5,) * 20).guessed == (5,) * 8  # two free pages
    assert scheduler.guess(theirs, (5,) * 20).guessed == ()
    assert scheduler.preemptions == 0


def test_what_was_guessed_wrong_is_never_found_in_the_cache() -> None:
    """And its pages are free at once."""
    scheduler = Scheduler(EngineConfig(context=40, pages=10, block=BLOCK))
    sequence = Scheduled("a", list(range(6)))
    scheduler.add(sequence)
    (chunk,) = scheduler.schedule()
    sequence.ids.append(6)
    scheduler.done(chunk)
    (chunk,) = scheduler.schedule()
    chunk = scheduler.guess(chunk, (7, 99, 98, 97, 96))
    assert len(sequence.pages) == 3
    sequence.ids += [7, 8]  # 99 was wrong
    scheduler.done(chunk)
    assert (sequence.cached, len(sequence.pages)) == (8, 2)
    scheduler.remove(sequence)
    follower, misled = Scheduled("b", [*range(8), 8, 9]), Scheduled("c", [*range(8), 99, 98, 97, 96, 0])
    for each in (follower, misled):
        scheduler.add(each)
    scheduler.schedule()
    assert (follower.found, misled.found) == (8, 8)


def test_logits_that_are_no_numbers_lose_no_token_before_them() -> None:
    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        return np.full(SMALL.vocab_size, np.nan, np.float32) if len(ids) == 6 else one_hot(ord("a"))

    (outputs,) = run(engine(FakeModel(logits), lambda wish: b"aaaaaaaa"[: wish.count]), ask("xy", max_tokens=9))
    assert ids(outputs) == list(b"aaaa")
    assert outputs[-1].finish_reason == "error"


def test_a_proposer_that_fails_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def guess(wish: Wish) -> Sequence[int]:
        asked.append(wish)
        raise MemoryError("no room")

    (outputs,) = run(engine(says("hello", 2), guess), ask("hi"))
    assert ids(outputs) == list(b"hello")
    assert len(asked) == 1
    assert "Guesses fails and is not asked for guesses any more" in caplog.text


def test_ids_that_the_model_has_not_are_no_guesses() -> None:
    (outputs,) = run(engine(says("hello", 2), lambda wish: [ord("e"), 257, -1]), ask("hi"))
    assert ids(outputs) == list(b"hello")


def test_a_request_that_has_ended_is_forgotten() -> None:
    draft = Guesses(lambda wish: ())
    config = EngineConfig(context=20, pages=5, block=BLOCK, speculation=Speculation("both"))
    chosen = Engine(says("hello", 2), FakeCache(5, BLOCK), ByteTokenizer(), config, draft=draft)
    request = ask("hi")
    run(chosen, request)
    assert draft.forgotten == [request.id]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_of_it_shows_in_an_answer(data: st.DataObject) -> None:
    """Random guesses, right and wrong, for requests with every way to end; limits, arrivals, cancellations, deadlines,
    contexts that slide, prompts with common beginnings, and a pool that is often too small."""
    limits = {"context": 32, "block": BLOCK}
    requests = [
        ask(
            data.draw(st.sampled_from(["", "abcdefgh", "abcdefghijklmnop"]))
            + data.draw(st.text("xy", min_size=1, max_size=6)),
            max_tokens=data.draw(st.integers(0, 40)),
            temperature=data.draw(st.sampled_from([0, 0.7])),
            seed=data.draw(st.integers(0, 1)),
            frequency_penalty=data.draw(st.sampled_from([0, 0.5])),
            ignore_eos=data.draw(st.booleans()),
            stop=data.draw(st.sampled_from([(), ("e", "ab")])),
            logprobs=data.draw(st.sampled_from([None, 1])),
            prompt_logprobs=data.draw(st.sampled_from([None, None, 0])),
            priority=data.draw(st.integers(0, 1)),
            cache=data.draw(st.sampled_from([True, True, False])),
            deadline=data.draw(st.none() | st.integers(0, 40)),
        )
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    requests = [replace(r, slide=r.params.prompt_logprobs is None and data.draw(st.booleans())) for r in requests]
    alone = [Request(r.prompt, r.params, slide=r.slide) for r in requests]
    expected = {
        r.id: whole(run(engine(FakeModel(hashed), **limits), a)[0]) for r, a in zip(requests, alone, strict=True)
    }
    chance = random.Random(data.draw(st.integers(0, 1000)))
    prompts = {request.id: len(request.prompt) for request in requests}

    def guess(wish: Wish) -> Sequence[int]:
        right = expected[wish.request_id]["ids"][len(wish.ids) - prompts[wish.request_id] :]
        right = right[: chance.randrange(wish.count + 1)]
        return [*right, *(chance.randrange(260) for _ in range(chance.randrange(8)))]

    chosen = engine(
        FakeModel(hashed),
        guess,
        **limits,
        rows=data.draw(st.integers(2, 20)),
        pages=data.draw(st.integers(8, 24)),
        token_budget=data.draw(st.integers(3, 40)),
        prefill_chunk=data.draw(st.integers(1, 20)),
        max_sequences=data.draw(st.integers(1, 3)),
    )
    arrivals = data.draw(st.lists(st.integers(0, 12), min_size=len(requests), max_size=len(requests)))
    cancelled = data.draw(st.dictionaries(st.integers(0, len(requests) - 1), st.integers(0, 12), max_size=2))
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    for now in range(1000):
        for i, request in enumerate(requests):
            if arrivals[i] == now:
                chosen.add(request)
            if cancelled.get(i) == now and (last := chosen.cancel(request.id)):
                outputs[request.id].append(last)
        with patch("pronk.engine.engine.monotonic", lambda now=now: now):
            for output in chosen.step():
                outputs[output.request_id].append(output)
        for sequence in chosen.scheduler.running:
            cached = chosen.cache.tokens[sequence.pages].reshape(-1)[: sequence.cached]
            assert cached.tolist() == sequence.ids[: sequence.cached]
            assert len(sequence.pages) == -(-sequence.cached // BLOCK)
        if now > 12 and not chosen.busy:
            break
    assert not chosen.busy
    assert chosen.scheduler.pool.free == chosen.config.pages
    for request in requests:
        found, full = whole(outputs[request.id]), expected[request.id]
        if found["end"][0] in ("cancelled", "deadline"):
            for name in ("ids", "logprobs"):
                assert full[name][: len(found[name])] == found[name]
        else:
            assert found == full


# --- how much ---


def played(pace: Pace, right: Callable[[int], int], steps: int) -> list[int]:
    """The wishes, when of n guesses right(n) are right."""
    wishes = []
    for _ in range(steps):
        wishes.append(pace.wish())
        if wishes[-1]:
            pace.learn(wishes[-1], right(wishes[-1]))
    return wishes


def test_guesses_grow_while_they_are_right() -> None:
    assert played(Pace(20), lambda n: n, 5) == [4, 8, 16, 20, 20]
    assert played(Pace(2), lambda n: n, 3) == [2, 2, 2]
    assert played(Pace(20), lambda n: min(n, 2), 4) == [4, 3, 3, 3]  # one more than was right


def test_guesses_that_fail_are_probed_ever_more_rarely_and_come_back() -> None:
    pace = Pace(8)
    failing = played(pace, lambda n: 0, 500)
    probes = [i for i, wish in enumerate(failing) if wish]
    assert failing[0] == 4
    assert {failing[i] for i in probes[1:]} == {1}
    pauses = np.diff(probes).tolist()
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1, 65)
    assert played(pace, lambda n: n, 100)[-3:] == [8, 8, 8]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "guess"}, "speculation is 'guess', expected one of lookup, draft, both"),
        ({"most": 0}, "speculation's most is 0, expected at least 1"),
        ({"rows": 1}, "speculation's rows is 1, expected at least 2"),
    ],
)
def test_a_speculation_that_cannot_work_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Speculation(**values)


# --- from the text itself ---


def looked_up(lookup: Lookup, ids: Sequence[int], count: int, name: str = "a") -> Sequence[int]:
    return lookup.propose([Wish(name, ids, count, SamplingParams(), 0)])[0]


def by_definition(ids: Sequence[int], count: int) -> list[int]:
    """The last place of the longest ending, four tokens to two, that stood before; then on from there."""
    for length in (4, 3, 2):
        for place in range(len(ids) - 1, length - 1, -1):
            if list(ids[place - length : place]) == list(ids[-length:]):
                grown = list(ids)
                for i in range(count):
                    grown.append(grown[place + i])
                return grown[len(ids) :]
    return []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=_CANDIDATES), st.data())
def test_a_lookup_finds_what_followed_the_longest_ending_whenever_it_is_asked(
    ids: list[int], data: st.DataObject
) -> None:
    lookup = Lookup()
    ends = [*sorted(data.draw(st.sets(st.integers(0, len(ids))))), len(ids)]
    for end in ends:
        count = data.draw(st.integers(1, 9))
        assert list(looked_up(lookup, ids[:end], count)) == by_definition(ids[:end], count)


def test_texts_are_looked_up_apart() -> None:
    lookup = Lookup()
    text = [1, 2, 3, 1, 2]
    assert looked_up(lookup, text, 2) == [3, 1]
    assert looked_up(lookup, [9, 1, 2], 2, "b") == []
    lookup.forget("a")
    assert looked_up(lookup, [1, 2], 2) == []


def test_an_engine_that_looks_up_says_a_text_that_repeats_in_fewer_steps() -> None:
    text = "the llama, the llama, the llama, the llama!"
    config = EngineConfig(context=200, pages=50, block=BLOCK, speculation=Speculation("lookup"))
    chosen = Engine(says(text, 2), FakeCache(50, BLOCK), ByteTokenizer(), config)
    (outputs,) = run(chosen, ask("hi"))
    assert bytes(ids(outputs)).decode() == text
    assert chosen.stats().steps < 25
