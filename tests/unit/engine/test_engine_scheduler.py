"""Who runs when: admission, budget, chunks, preemption. No model: a step is played by marking its chunks as done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

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
    """Of tokens that no two of them have in common."""
    return [Sequence(chr(ord("a") + i), list(range(100 * i, 100 * i + n))) for i, n in enumerate(lengths)]


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


def test_a_long_prompt_holds_up_no_short_one_and_is_read_at_half_its_speed_at_least() -> None:
    scheduler = Scheduler(config())
    for sequence in sequences(40, 20, 3):
        scheduler.add(sequence)
    assert shares(play(scheduler)) == {"a": (0, 8), "c": (0, 3), "b": (0, 5)}
    assert shares(play(scheduler)) == {"c": (3, 4), "a": (8, 16), "b": (5, 12)}
    scheduler.add(Sequence("d", [500] * 7))
    assert shares(play(scheduler)) == {"c": (4, 5), "a": (16, 24), "d": (0, 7)}
    assert shares(play(scheduler)) == {"c": (5, 6), "d": (7, 8), "a": (24, 31), "b": (12, 19)}


def test_prompts_beside_a_stream_come_in_small_chunks() -> None:
    scheduler = Scheduler(config(prefill_chunk=3))
    for sequence in sequences(2, 40):
        scheduler.add(sequence)
    assert shares(play(scheduler)) == {"a": (0, 2), "b": (0, 14)}
    for step in range(8):
        assert shares(play(scheduler)) == {"a": (2 + step, 3 + step), "b": (14 + 3 * step, 17 + 3 * step)}
    scheduler.remove(scheduler.running[0])
    assert shares(play(scheduler)) == {"b": (38, 40)}


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


def test_a_higher_priority_comes_first_and_takes_the_place_of_a_lower_one() -> None:
    scheduler = Scheduler(config(max_sequences=2, pages=20))
    low, also_low, high, higher = sequences(6, 6, 6, 6)
    high.priority, higher.priority = 1, 2
    for sequence in (low, also_low):
        scheduler.add(sequence)
    play(scheduler)
    for sequence in (high, higher):
        scheduler.add(sequence)
    play(scheduler)
    assert scheduler.running == [higher, high]
    assert scheduler.waiting == [low, also_low]  # in order of arrival, as before
    scheduler.remove(higher)
    play(scheduler)
    assert scheduler.running == [high, low]
    assert low.cached > 6  # its full page was still there


def test_nobody_makes_room_for_one_that_would_not_fit_all_the_same() -> None:
    scheduler = Scheduler(config(pages=8, context=32))
    high, low, more = sequences(20, 4, 20)
    high.priority = more.priority = 1
    for sequence in (high, low):
        scheduler.add(sequence)
    play(scheduler)
    scheduler.add(more)
    play(scheduler)
    assert scheduler.running == [high, low]


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
    old, young = Sequence("old", list(range(16)), longest_chunk=4), Sequence("young", [50])
    scheduler.running += [old, young]  # as after a step in which the young one's short prompt was read
    young.number = 1
    assert shares(play(scheduler)) == {"old": (0, 4), "young": (0, 1)}
    for _ in range(2):
        play(scheduler)
    plan = play(scheduler)
    assert shares(plan) == {"old": (12, 16)}
    assert scheduler.waiting == [young]
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


@dataclass
class Played:
    sequence: Sequence
    end: int  # tokens at which it has said everything


def check_pages(scheduler: Scheduler, live: list[Sequence]) -> None:
    """Every page is where its users think it is, and what is known can be found."""
    pool = scheduler.pool
    users = Counter(page for sequence in live for page in sequence.pages)
    assert [users[page] for page in range(pool.count)] == pool._users
    assert sorted([*pool._empty, *pool._idle, *users]) == list(range(pool.count))
    assert {pool._page_of[key] for key in pool._page_of} == set(pool._key_of)
    for sequence in live:
        assert sequence.cached <= 4 * len(sequence.pages)
        full = sequence.cached // 4
        if sequence.offers:  # each full page is the one that others find, so a chain has no holes
            assert pool.find(scheduler._keys(sequence)[:full]) == sequence.pages[:full]


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 24),  # tokens that its family has in common
            st.integers(1, 8),  # of its own
            st.integers(1, 20),  # answer
            st.integers(0, 15),  # arrival
            st.integers(0, 1),  # family
            st.integers(0, 1),  # priority
            st.booleans(),  # cache
        ),
        min_size=1,
        max_size=12,
    ),
    pages=st.integers(13, 40),
    keep=st.none() | st.integers(0, 10),
    budget=st.integers(3, 40),
    cancel=st.sets(st.integers(0, 11)),
)
def test_every_request_ends_and_every_page_comes_back(
    requests: list[tuple[int, int, int, int, int, int, bool]],
    pages: int,
    keep: int | None,
    budget: int,
    cancel: set[int],
) -> None:
    """Prompts of 1 to 32 tokens, of two families, in a pool that may hold only one of them; arriving at any time."""
    scheduler = Scheduler(EngineConfig(52, pages, 3, budget, block=4, prefill_chunk=5, kept_pages=keep))
    live: dict[str, Played] = {}
    started: list[str] = []
    for step in range(4000):
        for i, (common, own, answer, arrival, family, priority, cache) in enumerate(requests):
            if arrival == step:
                ids = [*range(1000 * family, 1000 * family + common), *range(5000 + 100 * i, 5000 + 100 * i + own)]
                sequence = Sequence(str(i), ids, priority=priority, offers=cache, reuses=cache)
                scheduler.add(sequence)
                live[str(i)] = Played(sequence, len(ids) + answer)
        if step == 8:
            for name in [str(i) for i in cancel if str(i) in live]:
                scheduler.remove(live.pop(name).sequence)
        plan = scheduler.schedule()
        assert bool(plan) == bool(live)
        tokens = [chunk.end - chunk.start for chunk in plan]
        assert sum(tokens) <= budget
        assert min(tokens, default=1) > 0
        for chunk in plan:
            written = chunk.sequence.pages[chunk.start // 4 : -(-chunk.end // 4)]
            assert all(scheduler.pool.writable(page) for page in written)
        check_pages(scheduler, [played.sequence for played in live.values()])
        started += [s.request_id for s in scheduler.running if s.request_id not in started]
        for chunk in plan:
            name = chunk.sequence.request_id
            if chunk.complete:
                chunk.sequence.ids.append(9000 + int(name))
            scheduler.done(chunk)
            if len(chunk.sequence.ids) == live[name].end:
                scheduler.remove(live.pop(name).sequence)
        if step > 15 and not live:
            break
    assert not live
    assert scheduler.pool.free == pages
    assert keep is None or scheduler.pool.idle <= keep
    for priority in (0, 1):  # nobody starts before one that came earlier
        arrivals = [requests[int(i)][3] for i in started if requests[int(i)][5] == priority]
        assert arrivals == sorted(arrivals)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context is 0, expected at least 1"),
        ({"pages": 0}, "pages is 0"),
        ({"token_budget": 2, "max_sequences": 3}, "token_budget 2 is less than max_sequences 3"),
        ({"kv_type": "q9"}, "kv_type is 'q9'"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0, expected at least 1"),
        ({"sinks": -1}, "sinks is -1, expected at least 0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        config(**changes)


def test_the_defaults_of_a_model() -> None:
    chosen = engine_config(SMALL)
    assert (chosen.context, chosen.pages, chosen.capacity) == (256, 4 * 8, 256)
    assert engine_config(SMALL, max_sequences=2).pages == 2 * 8
    assert chosen.kept_pages == 8  # one context
    assert engine_config(SMALL, context=64, pages=1).capacity == 32
    wide = replace(SMALL, head_dim=32)
    assert chosen.kv_bytes(SMALL) == 4 * 256 * SMALL.kv_bytes_per_token("f16")
    assert 64 * engine_config(wide, kv_type="q8_0").kv_bytes(wide) == 34 * engine_config(wide).kv_bytes(wide)
    with pytest.raises(RequestError, match=r"multiple of 32 values, this model's have 8; choose --kv-type f16"):
        engine_config(SMALL, kv_type="q8_0")
    with pytest.raises(RequestError, match="context is 300 tokens, the model's is 256"):
        engine_config(SMALL, context=300)
