"""What requests get back: text, stops, ends, log probabilities, seeds; alone and beside others, with pages to spare and
without. The model is a function of the tokens in its cache, so whatever is put in the wrong place changes the text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.request import Output, Request, Usage
from pronk.engine.sampling import SamplingParams
from pronk.errors import RequestError
from support.engine_fakes import SMALL, STOP, ByteTokenizer, FakeCache, FakeModel, hashed, one_hot, says


def engine(model: FakeModel, **changes: int) -> Engine:
    values = {"context": 200, "pages": 100, "max_sequences": 8, "token_budget": 64, "block": 4} | changes
    config = EngineConfig(**values)
    return Engine(model, FakeCache(config.pages, config.block), ByteTokenizer(), config)


def ask(prompt: str, **params: Any) -> Request:
    return Request(tuple(prompt.encode()), SamplingParams(**{"temperature": 0, **params}))


def run(engine: Engine, *requests: Request) -> list[list[Output]]:
    """The outputs of each request."""
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    while engine.busy:
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert engine.scheduler.pool.free == engine.config.pages
    return [outputs[request.id] for request in requests]


def text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def ids(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.ids]


def test_an_answer_streams_token_by_token_and_stops_at_the_stop_id() -> None:
    (outputs,) = run(engine(says("hello", 2)), ask("hi"))
    assert [output.text for output in outputs] == ["h", "e", "l", "l", "o", ""]
    last = outputs[-1]
    assert (last.finish_reason, last.stopped_by, last.ids) == ("stop", STOP, ())
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 6)
    assert all(output.finish_reason is None and output.usage is None for output in outputs[:-1])


def test_timings_are_measured() -> None:
    (outputs,) = run(engine(says("hello", 2)), ask("hi"))
    timings = outputs[-1].timings
    assert timings is not None
    assert 0 < timings.prompt_seconds <= timings.first_token_seconds
    assert timings.decode_seconds > 0
    assert timings.prompt_tokens_per_second == pytest.approx(2 / timings.prompt_seconds)
    assert timings.decode_tokens_per_second == pytest.approx(5 / timings.decode_seconds)


@pytest.mark.parametrize(
    ("params", "expected", "reason", "stopped_by"),
    [
        ({"max_tokens": 3}, "hel", "length", None),
        ({"max_tokens": 0}, "", "length", None),
        ({"stop": "lo w"}, "hel", "stop", "lo w"),
        ({"stop": ("zzz", "wo", "o")}, "hell", "stop", "o"),
        ({"stop_ids": [ord(" ")]}, "hello", "stop", ord(" ")),
        ({"stop": "d!"}, "hello world", "stop", STOP),  # "d" was held back, and comes out at the end
        ({"ignore_eos": True, "stop_ids": [ord("w")]}, "hello ", "stop", ord("w")),
    ],
)
def test_the_ways_an_answer_ends(params: dict[str, Any], expected: str, reason: str, stopped_by: object) -> None:
    (outputs,) = run(engine(says("hello world", 2)), ask("hi", **params))
    assert text(outputs) == expected
    assert (outputs[-1].finish_reason, outputs[-1].stopped_by) == (reason, stopped_by)


def test_ignore_eos_goes_on_past_the_stop_token() -> None:
    (outputs,) = run(engine(says("ab", 1)), ask("x", ignore_eos=True, max_tokens=5))
    assert ids(outputs) == [ord("a"), ord("b"), STOP, STOP, STOP]
    assert text(outputs) == "ab"


def test_half_a_character_waits_for_the_other_half() -> None:
    (outputs,) = run(engine(says("né", 1)), ask("x"))
    assert [output.text for output in outputs] == ["n", "", "é", ""]
    (outputs,) = run(engine(says("né", 1)), ask("x", max_tokens=2))
    assert text(outputs) == "n\ufffd"


@pytest.mark.parametrize("limits", [{"context": 10}, {"context": 200, "pages": 3, "block": 4}])
def test_a_full_context_ends_the_answer_with_its_reason(limits: dict[str, int]) -> None:
    chosen = engine(says("a" * 50, 4), **limits)
    (outputs,) = run(chosen, ask("long"))
    assert len(ids(outputs)) == chosen.config.capacity - 4
    assert outputs[-1].finish_reason == "context"


def test_a_prompt_that_fills_the_context_is_read_and_has_no_room_for_an_answer() -> None:
    (outputs,) = run(engine(FakeModel(hashed), context=10), ask("0123456789", prompt_logprobs=0))
    assert ids(outputs) == []
    assert outputs[-1].finish_reason == "context"
    assert len(outputs[-1].prompt_logprobs) == 10


def sliding(prompt: list[int], count: int, capacity: int, sinks: int) -> tuple[list[int], int]:
    """(`count` greedy tokens, tokens dropped) by the definition, from the text as it stands each time."""
    context, answer, dropped = list(prompt), [], 0
    while len(answer) < count:
        if len(context) >= capacity:
            kept = context[:sinks] + context[-(capacity // 2) :]
            dropped += len(context) - len(kept)
            context = kept
        answer.append(int(hashed(context).argmax()))
        context.append(answer[-1])
    return answer, dropped


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("length", [7, 20, 61])
def test_a_context_that_slides_keeps_its_first_tokens_and_the_newer_half(length: int, sinks: int) -> None:
    prompt = "a prompt, maybe too long for its context; what is cut is lost"[:length]
    chosen = engine(FakeModel(hashed), context=20, sinks=sinks)
    request = replace(ask(prompt, max_tokens=50, ignore_eos=True), slide=True)
    (outputs,) = run(chosen, request)
    assert (ids(outputs), outputs[-1].slid) == sliding(list(prompt.encode()), 50, 20, sinks)
    assert outputs[-1].finish_reason == "length"
    assert [output.slid for output in outputs] == sorted(output.slid for output in outputs)
    assert outputs[-1].usage == Usage(length, 50)


def test_a_sliding_request_draws_anew_and_remembers_what_it_has_said() -> None:
    """Random numbers and penalties go by the whole text: by the shortened one, a place would draw the same again."""
    model = FakeModel(lambda ids: np.zeros(SMALL.vocab_size, np.float32))
    every = {"temperature": 1, "top_p": 1, "ignore_eos": True, "max_tokens": 60, "seed": 1}
    (short,) = run(engine(model, context=10), replace(ask("x", **every), slide=True))
    (long,) = run(engine(model, context=100), ask("x", **every))
    assert ids(short) == ids(long)
    (once,) = run(engine(model, context=10), replace(ask("x", **{**every, "presence_penalty": 2}), slide=True))
    (whole,) = run(engine(model, context=100), ask("x", **{**every, "presence_penalty": 2}))
    assert ids(once) == ids(whole)


def test_what_cannot_slide_is_refused() -> None:
    with pytest.raises(RequestError, match="a context that slides has at least 10 tokens, this one 8"):
        engine(FakeModel(hashed), context=8).add(replace(ask("x"), slide=True))
    with pytest.raises(RequestError, match="the prompt has 20 tokens, of which a context of 20 that slides drops some"):
        engine(FakeModel(hashed), context=20).add(replace(ask("x" * 20, prompt_logprobs=0), slide=True))


def test_a_deadline_ends_who_runs_and_who_waits_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pronk.engine.engine.monotonic", lambda: now)
    chosen = engine(says("hello", 2), max_sequences=1)
    running, waiting, patient = (replace(ask("hi"), deadline=at) for at in (3.0, 3.0, 100.0))
    for request in (running, waiting, patient):
        chosen.add(request)
    found: dict[str, list[Output]] = {request.id: [] for request in (running, waiting, patient)}
    while chosen.busy:
        for output in chosen.step():
            found[output.request_id].append(output)
        now += 1
    assert [text(outputs) for outputs in found.values()] == ["hel", "", "hello"]
    assert [outputs[-1].finish_reason for outputs in found.values()] == ["deadline", "deadline", "stop"]
    assert chosen.scheduler.pool.free == chosen.config.pages


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(()), "the prompt has no tokens"),
        (Request((1,) * 41), "the prompt has 41 tokens, the context holds 40"),
        (Request((1,) * 33), "the prompt has 33 tokens, the cache's 8 pages hold 32"),
        (Request((1, 257)), "the prompt has token id 257, the vocabulary ends at 256"),
        (Request((1, -1)), "the prompt has token id -1"),
        (Request((1,), SamplingParams(logit_bias={300: 1})), "logit_bias has token id 300"),
    ],
)
def test_a_request_that_can_never_run_is_refused(request_: Request, message: str) -> None:
    chosen = engine(says("a", 1), context=40, pages=8)
    with pytest.raises(RequestError, match=message):
        chosen.add(request_)
    assert not chosen.busy


def test_without_a_tokenizer_there_are_ids_and_no_text() -> None:
    config = EngineConfig(context=20, pages=5, block=4)
    bare = Engine(says("abc", 1), FakeCache(5, 4), None, config)
    (outputs,) = run(bare, Request((1,), SamplingParams(temperature=0, max_tokens=3)))
    assert (ids(outputs), text(outputs)) == (list(b"abc"), "")
    with pytest.raises(RequestError, match="stop strings need a tokenizer"):
        bare.add(Request((1,), SamplingParams(stop=("x",))))


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = row.astype(np.float64)
    return wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())


def test_log_probabilities_of_the_answer() -> None:
    (outputs,) = run(engine(FakeModel(hashed)), ask("some prompt", max_tokens=6, logprobs=3, temperature=0.8, seed=1))
    sequence = list(b"some prompt")
    for output in outputs:
        ((token,), (found,)) = output.ids, output.logprobs
        expected = log_softmax(hashed(sequence))
        assert found.id == token
        assert found.logprob == pytest.approx(expected[token], abs=1e-5)
        best = np.argsort(-expected)[:3]
        assert [i for i, _ in found.top] == best.tolist()
        assert [p for _, p in found.top] == pytest.approx(expected[best].tolist(), abs=1e-5)
        sequence.append(token)


def test_the_stop_token_has_a_log_probability_of_its_own() -> None:
    (outputs,) = run(engine(says("hello", 2)), ask("hi", logprobs=1))
    assert [len(output.logprobs) for output in outputs] == [1] * 5 + [0]
    found = outputs[-1].stop_logprob
    assert found is not None
    assert found.top == ((STOP, found.logprob),)
    assert all(output.stop_logprob is None for output in outputs[:-1])
    (without,) = run(engine(says("hello", 2)), ask("hi"))
    assert without[-1].stop_logprob is None


@pytest.mark.parametrize("budget", [8, 9, 64])
def test_log_probabilities_of_the_prompt_come_once_whatever_the_chunks(budget: int) -> None:
    prompt = "a prompt of some length"
    (outputs,) = run(engine(FakeModel(hashed), token_budget=budget), ask(prompt, max_tokens=3, prompt_logprobs=2))
    assert [len(output.prompt_logprobs) for output in outputs] == [len(prompt), 0, 0]
    scores = outputs[0].prompt_logprobs
    assert [score.id for score in scores] == list(prompt.encode())
    assert scores[0].logprob is None
    for position, score in enumerate(scores[1:], start=1):
        expected = log_softmax(hashed(list(prompt.encode())[:position]))
        assert score.logprob == pytest.approx(expected[score.id], abs=1e-5)
        assert [i for i, _ in score.top] == np.argsort(-expected)[:2].tolist()


def test_only_wanted_logits_are_computed() -> None:
    model = FakeModel(hashed)
    run(engine(model, token_budget=8), ask("0123456789abcdef", max_tokens=2))
    assert [len(batch.logit_rows) for batch in model.batches] == [0, 1, 1]


MIXED = [
    ask("first", max_tokens=20),
    ask("second prompt, rather longer than the first", max_tokens=15, temperature=0.9, seed=7),
    ask("third", max_tokens=30, temperature=1.2, top_p=0.95, seed=7),
    ask("4", max_tokens=40, prompt_logprobs=1, frequency_penalty=1.0, presence_penalty=0.5, repetition_penalty=1.3),
    ask("the fifth one here", max_tokens=25, temperature=0.5, seed=2**64 - 1, logit_bias={101: 3.0, 32: -5}),
]


def renamed(request: Request) -> Request:
    return Request(request.prompt, request.params)


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    return [ids(run(engine(FakeModel(hashed)), renamed(request))[0]) for request in MIXED]


@pytest.mark.parametrize("changes", [{}, {"token_budget": 8}, {"max_sequences": 2}, {"pages": 20}, {"block": 16}])
def test_a_request_says_the_same_alone_and_in_any_batch(alone: list[list[int]], changes: dict[str, int]) -> None:
    chosen = engine(FakeModel(hashed), **changes)
    assert [ids(outputs) for outputs in run(chosen, *map(renamed, MIXED))] == alone
    assert [ids(outputs) for outputs in reversed(run(chosen, *map(renamed, reversed(MIXED))))] == alone
    assert (chosen.scheduler.preemptions > 0) == ("pages" in changes)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_schedule_gives_the_sequential_answers(data: st.DataObject) -> None:
    """Random prompts, limits, arrival times, cancellations and a pool that is often too small."""
    params = st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0, 0.7]),
            "seed": st.integers(0, 5),
            "max_tokens": st.integers(0, 12),
            "prompt_logprobs": st.sampled_from([None, 0]),
        }
    )
    requests = data.draw(st.lists(st.builds(ask, st.text("ab", min_size=1, max_size=20)), min_size=1, max_size=6))
    requests = [Request(r.prompt, SamplingParams(**data.draw(params))) for r in requests]
    expected = [run(engine(FakeModel(hashed)), renamed(request))[0] for request in requests]
    chosen = engine(
        FakeModel(hashed),
        pages=data.draw(st.integers(8, 24)),
        token_budget=data.draw(st.integers(3, 40)),
        max_sequences=data.draw(st.integers(1, 3)),
    )
    arrivals = data.draw(st.lists(st.integers(0, 10), min_size=len(requests), max_size=len(requests)))
    cancelled = data.draw(st.sets(st.integers(0, len(requests) - 1), max_size=2))
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    for step in range(500):
        for request, arrival in zip(requests, arrivals, strict=True):
            if arrival == step:
                chosen.add(request)
        if step == 12:
            for i in cancelled:
                if last := chosen.cancel(requests[i].id):
                    outputs[requests[i].id].append(last)
        for output in chosen.step():
            outputs[output.request_id].append(output)
    assert not chosen.busy
    assert chosen.scheduler.pool.free == chosen.config.pages
    for request, whole in zip(requests, expected, strict=True):
        found = outputs[request.id]
        assert sum(output.finish_reason is not None for output in found) == 1
        if found[-1].finish_reason == "cancelled":
            assert ids(whole)[: len(ids(found))] == ids(found)
        else:
            assert ids(found) == ids(whole)
            assert [o.prompt_logprobs for o in found if o.prompt_logprobs] == [
                o.prompt_logprobs for o in whole if o.prompt_logprobs
            ]


def test_seeds() -> None:
    def sampled(**params: Any) -> list[int]:
        return ids(run(engine(FakeModel(hashed)), ask("tell", max_tokens=30, temperature=1.5, top_p=1, **params))[0])

    assert sampled(seed=3) == sampled(seed=3)
    assert sampled(seed=3) != sampled(seed=4)
    assert sampled() != sampled()


def test_cancelling_frees_the_pages_while_prefilling_and_while_decoding() -> None:
    for steps in (0, 1, 5):
        chosen = engine(FakeModel(hashed), token_budget=8)
        request = ask("a prompt that takes more than one step")
        chosen.add(request)
        for _ in range(steps):
            chosen.step()
        output = chosen.cancel(request.id)
        assert output is not None
        assert output.finish_reason == "cancelled"
        assert output.usage is not None
        assert output.usage.completion_tokens == max(steps - 4, 0)
        assert chosen.scheduler.pool.free == chosen.config.pages
        assert not chosen.busy
        assert chosen.cancel(request.id) is None
        assert chosen.step() == []


def test_an_error_in_forward_ends_the_requests_of_that_step_only() -> None:
    model = FakeModel(hashed)
    chosen = engine(model, max_sequences=2)
    requests = [ask("one", max_tokens=3), ask("two", max_tokens=3), ask("three", max_tokens=3)]
    for request in requests:
        chosen.add(request)
    broken = MemoryError("no room")

    def fail(ids: object) -> NDArray[np.float32]:
        raise broken

    model.logits_of = fail
    outputs = chosen.step()
    assert [output.request_id for output in outputs] == [requests[0].id, requests[1].id]
    assert all(output.finish_reason == "error" and output.error is broken for output in outputs)
    assert chosen.scheduler.pool.free == chosen.config.pages
    model.logits_of = hashed
    while chosen.busy:
        outputs = chosen.step()
    assert (outputs[0].request_id, outputs[0].finish_reason) == (requests[2].id, "length")


def test_logits_that_are_no_numbers_end_one_request_and_not_its_neighbour() -> None:
    def logits(ids: Any) -> NDArray[np.float32]:
        return np.full(SMALL.vocab_size, np.nan, np.float32) if ids[0] == ord("x") else one_hot(ord("a"))

    bad, good = run(engine(FakeModel(logits)), ask("x", max_tokens=4), ask("y", max_tokens=4))
    assert bad[-1].finish_reason == "error"
    assert text(good) == "aaaa"
