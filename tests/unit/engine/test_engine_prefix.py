"""The prefix cache: what is found again, who waits for whom, what is thrown out; and that nothing of it shows in an
answer. The fake model answers from the tokens that it finds in the pages, so a wrong page changes the text."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.engine.blocks import BlockPool, first_key, next_key
from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.request import Output, Request, Usage
from pronk.engine.sampling import SamplingParams
from pronk.engine.scheduler import Chunk, Scheduler, Sequence
from support.engine_fakes import ByteTokenizer, FakeCache, FakeModel, hashed

BLOCK = 4


def keys(tokens: Tokens[int], salt: str = "") -> list[bytes]:
    chain = [first_key(salt)]
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        chain.append(next_key(chain[-1], tokens[start : start + BLOCK]))
    return chain[1:]


# --- pages ---


def test_a_key_stands_for_all_tokens_before_it_and_for_the_adapter() -> None:
    plain = keys(range(12))
    assert plain == keys(range(12))
    assert plain[:2] == keys([*range(8), 99, 99, 99, 99])[:2]
    assert not set(plain) & set(keys([99, *range(1, 12)]))
    assert not set(plain) & set(keys(range(12), "adapter"))


def filled(pool: BlockPool, chain: list[bytes]) -> list[int]:
    return [pool.know(page, key) for page, key in zip(pool.take(len(chain)), chain, strict=True)]


def test_known_pages_are_found_until_they_are_wanted_and_the_end_of_a_chain_goes_first() -> None:
    pool = BlockPool(5)
    chain = keys(range(12))
    pages = filled(pool, chain)
    first = list(pages)
    pool.give(pages)
    assert (pool.free, pool.idle) == (5, 3)
    taken = pool.take(2)
    assert not set(taken) & set(first)  # empty ones before idle ones
    assert pool.find(chain) == first
    pool.take(1)
    assert pool.find(chain) == first[:2]
    pool.use(first[:1])
    pool.take(1)
    assert pool.find(chain) == first[:1]
    assert pool.free == 0
    with pytest.raises(AssertionError, match="1 pages wanted, 0 free"):  # what is used is not taken away
        pool.take(1)


def test_what_was_used_longest_ago_goes_first() -> None:
    pool = BlockPool(4)
    old, young = keys(range(8)), keys(range(100, 108))
    for chain in (old, young):
        pool.give(filled(pool, chain))
    again = pool.find(old)
    pool.use(again)
    pool.give(again)
    pool.take(2)
    assert (len(pool.find(old)), len(pool.find(young))) == (2, 0)


def test_a_page_that_two_have_filled_is_kept_once() -> None:
    pool = BlockPool(4)
    (key,) = keys(range(4))
    one, other = pool.take(1), pool.take(1)
    assert pool.know(one[0], key) == one[0]
    other[0] = pool.know(other[0], key)
    assert other == one
    assert pool.free == 3
    pool.give(one)
    assert pool.idle == 0
    pool.give(other)
    assert (pool.idle, pool.free) == (1, 4)


def test_no_more_idle_pages_are_kept_than_wanted_and_their_memory_is_used_again_first() -> None:
    pool = BlockPool(100, keep=3)
    touched: set[int] = set()
    for start in range(0, 1000, 20):
        pages = filled(pool, keys(range(start, start + 20)))
        touched.update(pages)
        pool.give(pages)
    assert pool.idle == 3
    assert len(touched) <= 5 + 3


# --- who waits for whom ---


def scheduler(**changes: int) -> Scheduler:
    values = {"context": 64, "pages": 100, "max_sequences": 4, "token_budget": 8, "block": BLOCK} | changes
    return Scheduler(EngineConfig(**values))


def step(scheduler: Scheduler) -> dict[str, tuple[int, int]]:
    plan: list[Chunk] = scheduler.schedule()
    for chunk in plan:
        if chunk.complete:
            chunk.sequence.ids.append(900)
        scheduler.done(chunk)
    return {c.sequence.request_id: (c.start, c.end) for c in plan}


def alike(count: int, length: int) -> list[Sequence]:
    return [Sequence(chr(ord("a") + i), list(range(length))) for i in range(count)]


def test_a_same_prompt_is_read_once_and_its_pages_are_shared() -> None:
    chosen = scheduler()
    leader, *followers = alike(3, 18)
    for sequence in (leader, *followers):
        chosen.add(sequence)
    assert [step(chosen) for _ in range(3)] == [
        {"a": (0, 8)},
        {"a": (8, 16)},
        {"a": (16, 18), "b": (16, 18), "c": (16, 18)},
    ]
    assert followers[0].pages[:4] == followers[1].pages[:4] == leader.pages[:4]
    assert chosen.pool.count - chosen.pool.free == 4 + 3
    assert [s.found for s in (leader, *followers)] == [0, 16, 16]


def test_followers_are_let_in_for_the_pages_that_they_add() -> None:
    chosen = scheduler(pages=12, context=48)
    for sequence in alike(4, 18):  # 5 pages each, of which 4 are shared, and one more to grow
        chosen.add(sequence)
    step(chosen)
    assert len(chosen.running) == 4
    while any(s.pending > 1 for s in chosen.running):
        step(chosen)
    assert (chosen.preemptions, chosen.pool.free) == (0, 12 - 4 - 4)


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    chosen = scheduler()
    for sequence in alike(2, 16):
        chosen.add(sequence)
    assert [step(chosen) for _ in range(2)] == [{"a": (0, 8)}, {"a": (8, 16)}]
    assert step(chosen)["b"] == (12, 16)
    assert chosen.running[0].pages[:4] == chosen.running[1].pages[:4]  # filled twice, kept once


def test_a_follower_takes_over_where_its_leader_was_cancelled() -> None:
    chosen = scheduler()
    leader, follower, last = alike(3, 30)
    for sequence in (leader, follower, last):
        chosen.add(sequence)
    step(chosen)
    chosen.remove(leader)
    assert [step(chosen) for _ in range(3)] == [{"b": (8, 16)}, {"b": (16, 24)}, {"b": (24, 30)}]
    assert step(chosen) == {"b": (30, 31), "c": (28, 30)}


def test_a_follower_goes_on_by_itself_when_its_leader_is_thrown_out() -> None:
    chosen = scheduler(token_budget=4)
    leader, follower = alike(2, 20)
    chosen.add(leader)
    chosen.add(follower)
    step(chosen)
    chosen._preempt(leader, {})
    chosen.waiting.remove(leader)  # and does not come back soon
    assert step(chosen) == {"b": (4, 8)}


def test_a_follower_that_goes_its_own_way_waits_no_longer_than_the_common_part() -> None:
    chosen = scheduler()
    a, b = Sequence("a", list(range(40))), Sequence("b", [*range(8), *range(500, 520)])
    chosen.add(a)
    chosen.add(b)
    assert [step(chosen) for _ in range(2)] == [{"a": (0, 8)}, {"a": (8, 12), "b": (8, 12)}]


def test_a_thrown_out_sequence_finds_its_own_pages_which_do_not_count_as_found() -> None:
    chosen = scheduler(token_budget=16)
    (sequence,) = alike(1, 15)
    chosen.add(sequence)
    for _ in range(4):
        step(chosen)
    chosen._preempt(sequence, {})
    assert step(chosen) == {"a": (16, 19)}
    assert sequence.found == 0


@pytest.mark.parametrize("closed", [{"offers": False}, {"reuses": False}])
def test_who_stays_out_of_the_cache_neither_gives_nor_takes(closed: dict[str, bool]) -> None:
    chosen = scheduler(token_budget=32)
    given = Sequence("a", list(range(12)), offers=closed.get("offers", True))
    taking = Sequence("b", list(range(12)), reuses=closed.get("reuses", True))
    chosen.add(given)
    step(chosen)
    chosen.add(taking)
    assert step(chosen)["b"] == (0, 12)


# --- what a caller sees ---


def engine(**changes: Any) -> Engine:
    values = {"context": 200, "pages": 100, "max_sequences": 8, "token_budget": 64, "block": BLOCK} | changes
    config = EngineConfig(**values)
    return Engine(FakeModel(hashed), FakeCache(config.pages, config.block), ByteTokenizer(), config)


def ask(prompt: str, **fields: Any) -> Request:
    """Fields of the request, and of its sampling parameters."""
    own = {name: fields.pop(name) for name in vars(Request(())) if name in fields}
    params = SamplingParams(**{"temperature": 0, "ignore_eos": True, **fields})
    return Request(tuple(prompt.encode()), params, **own)


def run(engine: Engine, *requests: Request) -> list[list[Output]]:
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.busy:
        for output in engine.step():
            outputs[output.request_id].append(output)
    return [outputs[request.id] for request in requests]


def ids(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.ids]


def usage(outputs: list[Output]) -> Usage:
    assert outputs[-1].usage
    return outputs[-1].usage


def test_the_next_turn_of_a_conversation_reads_only_what_is_new() -> None:
    chosen = engine()
    (answer,) = run(chosen, ask("a question of some length", max_tokens=10))
    assert usage(answer).cached_tokens == 0
    talk = b"a question of some length" + bytes(ids(answer)) + b" and another"
    request = Request(tuple(talk), SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    (again,) = run(chosen, request)
    assert usage(again).cached_tokens == 32  # of 35 tokens before the new ones, in pages of 4; the last was never read
    assert ids(again) == ids(run(engine(), Request(request.prompt, request.params))[0])
    assert chosen.stats().cached_tokens == 32
    assert chosen.stats().pages_used == 0
    assert chosen.stats().pages_cached > 8


def test_scored_prompts_and_private_ones_find_nothing() -> None:
    chosen = engine()
    prompt = "the same prompt for everybody"
    run(chosen, ask(prompt, max_tokens=1, cache=False))
    (first,) = run(chosen, ask(prompt, max_tokens=1, prompt_logprobs=0))
    (second,) = run(chosen, ask(prompt, max_tokens=1, prompt_logprobs=0))
    (private,) = run(chosen, ask(prompt, max_tokens=1, cache=False))
    (third,) = run(chosen, ask(prompt, max_tokens=1))
    assert [usage(o).cached_tokens for o in (first, second, private, third)] == [0, 0, 0, 28]
    assert first[0].prompt_logprobs == second[0].prompt_logprobs
    assert len(second[0].prompt_logprobs) == len(prompt)


def test_drafts_of_one_prompt_read_it_once() -> None:
    chosen = engine(token_budget=16)
    drafts = run(chosen, *(ask("one prompt, several drafts of its answer", max_tokens=9, seed=i) for i in range(4)))
    assert [usage(draft).cached_tokens for draft in drafts] == [0, 36, 36, 36]
    model = chosen.model
    assert isinstance(model, FakeModel)
    assert sum(len(batch.tokens) for batch in model.batches) == 40 + 3 * 4 + 4 * 8


WHEN = st.integers(0, 12)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_of_it_shows_in_an_answer(data: st.DataObject) -> None:
    """Random prompts with common beginnings, limits, arrivals, priorities, cancellations, deadlines, contexts that
    slide, and a pool that is often too small."""
    limits = {"context": 32, "block": BLOCK}
    requests = [
        ask(
            data.draw(st.sampled_from(["", "abcdefgh", "ABCDefgh", "abcdefghijklmnop"]))
            + data.draw(st.text("xy", min_size=1, max_size=6)),
            max_tokens=data.draw(st.integers(0, 40)),
            temperature=data.draw(st.sampled_from([0, 0.7])),
            seed=data.draw(st.integers(0, 1)),
            frequency_penalty=data.draw(st.sampled_from([0, 0.5])),
            priority=data.draw(st.integers(0, 1)),
            cache=data.draw(st.sampled_from([True, True, False])),
            slide=data.draw(st.booleans()),
            deadline=data.draw(st.none() | st.integers(0, 40)),
        )
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    alone = [Request(r.prompt, r.params, slide=r.slide) for r in requests]
    expected = [run(engine(**limits), request)[0] for request in alone]
    chosen = engine(
        **limits,
        pages=data.draw(st.integers(8, 24)),
        token_budget=data.draw(st.integers(3, 40)),
        prefill_chunk=data.draw(st.integers(1, 20)),
        max_sequences=data.draw(st.integers(1, 3)),
        kept_pages=data.draw(st.none() | st.integers(0, 8)),
    )
    arrivals = data.draw(st.lists(WHEN, min_size=len(requests), max_size=len(requests)))
    cancelled = data.draw(st.dictionaries(st.integers(0, len(requests) - 1), WHEN, max_size=2))
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
        if now > 12 and not chosen.busy:
            break
    assert not chosen.busy
    assert chosen.scheduler.pool.free == chosen.config.pages
    for request, whole in zip(requests, expected, strict=True):
        found = outputs[request.id]
        assert sum(output.finish_reason is not None for output in found) == 1
        if found[-1].finish_reason in ("cancelled", "deadline"):
            assert ids(whole)[: len(ids(found))] == ids(found)
        else:
            assert ids(found) == ids(whole)
            assert (found[-1].finish_reason, found[-1].slid) == (whole[-1].finish_reason, whole[-1].slid)
