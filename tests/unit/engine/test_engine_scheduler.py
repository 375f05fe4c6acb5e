"""Who runs when: admission, budget, chunks, preemption. No model: a step is played by marking its chunks as done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.engine.blocks import BlockPool
from pronk.engine.config import EngineConfig, engine_config
from pronk.engine.scheduler import Chunk, Scheduler, Sequence
from pronk.errors import RequestError
from support.engine_fakes import SMALL


def config(**changes: int) -> EngineConfig:
    values = {"context": 64, "pages": 100, "max_sequences": 4, "token_budget": 16, "block": 4} | changes
    return EngineConfig(**values)


def sequences(*lengths: int) -> list[Sequence]:
    return [Sequence(chr(ord("a") + i), list(range(length))) for i, length in enumerate(lengths)]


def play(scheduler: Scheduler) -> list[Chunk]:
    """One step: complete sequences get a token."""
    plan = scheduler.schedule()
    for chunk in plan:
        scheduler.done(chunk)
        if chunk.complete:
            chunk.sequence.ids.append(0)
    return plan


def shares(plan: list[Chunk]) -> dict[str, tuple[int, int]]:
    return {c.sequence.request_id: (c.start, c.end) for c in plan}


def test_prompts_share_the_budget_first_come_first_served() -> None:
    scheduler = Scheduler(config())
    for sequence in sequences(10, 20, 3):
        scheduler.add(sequence)
    assert shares(play(scheduler)) == {"a": (0, 10), "b": (0, 6)}
    assert shares(play(scheduler)) == {"a": (10, 11), "b": (6, 20), "c": (0, 1)}
    assert shares(play(scheduler)) == {"a": (11, 12), "b": (20, 21), "c": (1, 3)}


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    scheduler = Scheduler(config(token_budget=4, max_sequences=2))
    short, long = sequences(2, 40)
    scheduler.add(short)
    play(scheduler)
    scheduler.add(long)
    for step in range(10):
        assert shares(play(scheduler)) == {"a": (2 + step, 3 + step), "b": (3 * step, 3 * step + 3)}


def test_the_plan_never_exceeds_budget_or_sequences() -> None:
    scheduler = Scheduler(config(token_budget=5, max_sequences=3))
    for sequence in sequences(*[7] * 6):
        scheduler.add(sequence)
    for _ in range(20):
        plan = play(scheduler)
        assert 0 < sum(c.end - c.start for c in plan) <= 5
        assert len(scheduler.running) <= 3


def test_a_scored_prompt_comes_in_small_chunks() -> None:
    scheduler = Scheduler(config())
    scheduler.add(Sequence("a", [0] * 10, longest_chunk=4))
    assert [shares(play(scheduler))["a"] for _ in range(3)] == [(0, 4), (4, 8), (8, 10)]


def test_nobody_overtakes_a_request_that_waits_for_pages() -> None:
    scheduler = Scheduler(config(pages=6, context=24))
    first, big, small = sequences(8, 20, 2)
    for sequence in (first, big, small):
        scheduler.add(sequence)
    play(scheduler)
    assert scheduler.running == [first]
    assert list(scheduler.waiting) == [big, small]
    scheduler.remove(first)
    play(scheduler)
    assert scheduler.running[0] is big


def test_the_youngest_gives_up_its_pages_and_comes_back_first() -> None:
    scheduler = Scheduler(config(pages=7, context=28))
    a, b, c, d = sequences(6, 6, 6, 6)
    for sequence in (a, b, c, d):
        scheduler.add(sequence)
    play(scheduler)
    assert scheduler.running == [a, b]  # two pages each, and one more for each that grows
    while not scheduler.preemptions:
        play(scheduler)
    assert scheduler.running == [a]
    assert list(scheduler.waiting) == [b, c, d]
    assert b.cached == 0
    assert b.pages == []


def test_an_older_prompt_takes_pages_from_a_younger_answer_planned_before_it() -> None:
    scheduler = Scheduler(config(pages=4, context=16, token_budget=8))
    old, young = Sequence("old", [0] * 16, longest_chunk=4), Sequence("young", [0])
    scheduler.running += [old, young]  # as after a step in which the young one's short prompt was read
    assert shares(play(scheduler)) == {"old": (0, 4), "young": (0, 1)}
    for _ in range(2):
        play(scheduler)
    plan = play(scheduler)
    assert shares(plan) == {"old": (12, 16)}
    assert list(scheduler.waiting) == [young]
    assert scheduler.pool.free == 0


def test_removing_a_waiting_or_running_sequence_frees_everything() -> None:
    scheduler = Scheduler(config(max_sequences=1))
    a, b = sequences(30, 5)
    scheduler.add(a)
    scheduler.add(b)
    play(scheduler)
    scheduler.remove(b)
    scheduler.remove(a)
    assert scheduler.pool.free == 100
    assert scheduler.schedule() == []


def test_pages_are_reused_last_in_first_out_and_never_returned_twice() -> None:
    pool = BlockPool(4)
    pages = pool.take(2)
    assert pages == [0, 1]
    kept = list(pages)
    pool.give(pages)
    assert pages == []
    assert pool.take(2) == kept
    pool.give(list(kept))
    with pytest.raises(AssertionError, match="returned twice"):
        pool.give(kept)


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(0, 15)), min_size=1, max_size=12),
    pages=st.integers(13, 40),
    budget=st.integers(3, 40),
    cancel=st.sets(st.integers(0, 11)),
)
def test_every_request_ends_and_every_page_comes_back(
    requests: list[tuple[int, int, int]], pages: int, budget: int, cancel: set[int]
) -> None:
    """Prompts of 1 to 30 tokens, answers of 1 to 20, in a pool that may hold only one of them; arriving at any time."""
    settings_ = config(pages=pages, block=4, context=52, max_sequences=3, token_budget=budget)
    scheduler = Scheduler(settings_)
    live: dict[str, tuple[Sequence, int]] = {}
    ended: list[str] = []
    started: list[str] = []
    for step in range(4000):
        for i, (prompt, answer, arrival) in enumerate(requests):
            if arrival == step:
                live[str(i)] = Sequence(str(i), [0] * prompt), prompt + answer
                scheduler.add(live[str(i)][0])
        if step == 8:
            for name in [str(i) for i in cancel if str(i) in live]:
                scheduler.remove(live.pop(name)[0])
        plan = scheduler.schedule()
        assert bool(plan) == bool(live)
        assert sum(c.end - c.start for c in plan) <= budget
        owned = [page for sequence, _ in live.values() for page in sequence.pages]
        assert len(owned) == len(set(owned)) == pages - scheduler.pool.free
        for chunk in plan:
            assert chunk.end <= 4 * len(chunk.sequence.pages)
            scheduler.done(chunk)
            name = chunk.sequence.request_id
            if name not in started:
                started.append(name)
            if chunk.complete:
                chunk.sequence.ids.append(0)
                if len(chunk.sequence.ids) == live[name][1]:
                    scheduler.remove(live.pop(name)[0])
                    ended.append(name)
        if step > 15 and not live:
            break
    assert not live
    assert scheduler.pool.free == pages
    arrivals = [requests[int(i)][2] for i in started]
    assert arrivals == sorted(arrivals)  # nobody starts before one that came earlier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context is 0, expected at least 1"),
        ({"pages": 0}, "pages is 0"),
        ({"token_budget": 2, "max_sequences": 3}, "token_budget 2 is less than max_sequences 3"),
        ({"kv_type": "q9"}, "kv_type is 'q9'"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        config(**changes)


def test_the_defaults_of_a_model() -> None:
    chosen = engine_config(SMALL)
    assert (chosen.context, chosen.pages, chosen.capacity) == (256, 4 * 8, 256)
    assert engine_config(SMALL, max_sequences=2).pages == 2 * 8
    assert engine_config(SMALL, context=64, pages=1).capacity == 32
    wide = replace(SMALL, head_dim=32)
    assert chosen.kv_bytes(SMALL) == 4 * 256 * SMALL.kv_bytes_per_token("f16")
    assert 64 * engine_config(wide, kv_type="q8_0").kv_bytes(wide) == 34 * engine_config(wide).kv_bytes(wide)
    with pytest.raises(RequestError, match=r"multiple of 32 values, this model's have 8; choose --kv-type f16"):
        engine_config(SMALL, kv_type="q8_0")
    with pytest.raises(RequestError, match="context is 300 tokens, the model's is 256"):
        engine_config(SMALL, context=300)
