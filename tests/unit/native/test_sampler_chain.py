"""llama.cpp's samplers one by one and in any order, against plain code; and what each of them is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pronk.errors import RequestError
from pronk.native import runtime
from pronk.native.sampling import LLAMA_CPP_ORDER, Breakers, sample, uniform
from support import sampler_chain as reference

NEAR = 1e-5  # closer than this to a boundary, float32 sums may decide either way

options = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.3, 0.8, 1.0, 1.7]),
        "dynatemp_range": st.sampled_from([0.2, 0.7]),
        "dynatemp_exponent": st.sampled_from([0.5, 1.0, 2.0]),
        "top_k": st.sampled_from([1, 2, 7, 40]),
        "top_p": st.sampled_from([0.1, 0.5, 0.9, 0.99]),
        "min_p": st.sampled_from([0.01, 0.05, 0.3]),
        "typical_p": st.sampled_from([0.2, 0.7, 0.95]),
        "top_n_sigma": st.sampled_from([0.5, 1.0, 2.0]),
        "xtc_probability": st.sampled_from([0.4, 1.0]),
        "xtc_threshold": st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.6]),
        "xtc_uniform": st.sampled_from([0.0, 0.5]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "presence_penalty": st.sampled_from([-0.5, 0.5]),
        "dry_multiplier": st.sampled_from([0.5, 2.0]),
        "dry_base": st.sampled_from([0.9, 1.0, 1.75]),
        "dry_allowed_length": st.sampled_from([0, 1, 2, 4]),
    },
)


def random_logits(size: int, seed: int, spread: float) -> NDArray[np.float32]:
    return (spread * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def ids(values: Sequence[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def as_arrays(breakers: Sequence[tuple[int, tuple[int, ...]]]) -> Breakers:
    ordered = sorted(breakers)
    starts = np.cumsum([0, *(len(tail) for _, tail in ordered)])
    return ids([head for head, _ in ordered]), ids(starts.tolist()), ids([i for _, tail in ordered for i in tail])


@settings(deadline=None, max_examples=400)
@given(
    size=st.sampled_from([1, 2, 5, 16, 33, 200]),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.5, 3.0]),
    order=st.permutations(LLAMA_CPP_ORDER),
    left_out=st.integers(0, 4),
    options=options,
    number=st.floats(0, 1, exclude_max=True),
)
def test_any_order_picks_what_sorting_picks(
    size: int, seed: int, spread: float, order: list[str], left_out: int, options: dict[str, Any], number: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = random_logits(size, seed, spread)
    logits[rng.random(size) < 0.1] = -np.inf
    assume((logits > -np.inf).any())
    steps = tuple(order[left_out:])
    history = rng.integers(0, min(size, 4), 40).tolist()
    breakers = [
        (int(head), tuple(rng.integers(0, min(size, 4), rng.integers(0, 3)).tolist())) for head in range(0, size, 3)
    ]
    counts = {int(i): int(rng.integers(0, 3)) for i in rng.permutation(size)[: size // 2]}
    chain = reference.start(logits, **options, counts=counts, dry_history=history, breakers=breakers).run(steps)
    expected, distance, bits = chain.draw(number)
    assume(min(chain.margin, distance) > NEAR)
    surprise = np.zeros(1)
    arrays = {
        "seen_ids": ids(list(counts)),
        "seen_counts": ids(list(counts.values())),
        "dry_history": ids(history),
        "dry_breakers": as_arrays(breakers),
    }
    assert sample(logits, uniform=number, steps=steps, surprise=surprise, **options, **arrays) == expected
    assert surprise[0] == pytest.approx(bits, abs=1e-3)


@settings(deadline=None, max_examples=100)
@given(size=st.sampled_from([1, 2, 50, 3000]), seed=st.integers(0, 10**6), mu=st.floats(-1, 20))
def test_mirostat_cuts_at_its_bound(size: int, seed: int, mu: float) -> None:
    logits, number = random_logits(size, seed, 2.0), uniform(seed, 1)
    chain = reference.start(logits, temperature=0.8, mirostat_mu=mu).run(("temperature", "mirostat"))
    expected, distance, bits = chain.draw(number)
    assume(min(chain.margin, distance) > NEAR)
    surprise = np.zeros(1)
    steps = ("temperature", "mirostat")
    assert sample(logits, uniform=number, steps=steps, temperature=0.8, mirostat_mu=mu, surprise=surprise) == expected
    assert surprise[0] == pytest.approx(bits, abs=1e-3)


@settings(deadline=None, max_examples=200)
@given(
    history=st.lists(st.integers(0, 3), max_size=60),
    breakers=st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 3), max_size=2).map(tuple)), max_size=3),
    allowed_length=st.integers(0, 4),
)
def test_dry_finds_the_longest_repeats(
    history: list[int], breakers: list[tuple[int, tuple[int, ...]]], allowed_length: int
) -> None:
    """The token's loss is 2 ** (its repeat's length - allowed_length): what an even row of logits shows greedily."""
    found = reference.repeats(history, breakers, allowed_length)
    for token in range(4):
        loss = 2.0 ** min(found[token] - allowed_length, 20) if token in found else 0.0
        for nudge, wins in ((-0.5, False), (0.5, True)):
            if loss > 1e5:
                continue
            logits = np.full(8, -1e9, np.float32)
            logits[7] = 0.0
            logits[token] = loss + nudge
            options: dict[str, Any] = {"dry_multiplier": 1.0, "dry_base": 2.0, "dry_allowed_length": allowed_length}
            arrays = {"dry_history": ids(history), "dry_breakers": as_arrays(breakers)}
            assert (sample(logits, uniform=0.0, temperature=0, **options, **arrays) == token) == wins


def reachable(probabilities: list[float], **options: Any) -> set[int]:
    logits = np.log(np.array(probabilities, np.float32))
    return {sample(logits, uniform=u, **options) for u in np.linspace(0, 1, 2000, endpoint=False)}


def test_what_each_sampler_is_for() -> None:
    p = [0.5, 0.3, 0.15, 0.05]
    assert reachable(p, xtc_probability=1.0, xtc_threshold=0.1) == {2, 3}
    assert reachable(p, xtc_probability=1.0, xtc_threshold=0.4) == {0, 1, 2, 3}  # one top choice is none to exclude
    assert reachable(p, xtc_probability=1.0, xtc_threshold=0.51) == {0, 1, 2, 3}
    assert reachable(p, xtc_probability=0.3, xtc_uniform=0.31) == {0, 1, 2, 3}
    assert reachable(p, xtc_probability=0.3, xtc_uniform=0.29) == {2, 3}
    assert reachable([0.7, 0.1, 0.1, 0.1], top_n_sigma=1.0) == {0}
    assert reachable(p, top_n_sigma=1.0) == {0, 1}
    assert reachable([0.25] * 4, top_n_sigma=0.1) == {0, 1, 2, 3}


def test_the_order_matters() -> None:
    p = [0.5, 0.3, 0.15, 0.05]
    assert reachable(p, steps=("top_k", "xtc"), top_k=2, xtc_probability=1.0) == {1}
    assert reachable(p, steps=("xtc", "top_k"), top_k=2, xtc_probability=1.0) == {2, 3}
    assert reachable(p, steps=("top_p",), top_k=1, top_p=0.7) == {0, 1}
    assert reachable(p, steps=("temperature", "top_p"), top_p=0.85, temperature=3.0) == {0, 1, 2, 3}


def test_dynamic_temperature_follows_the_entropy() -> None:
    """Certain: the low end, here greedy; even: the high end, which changes nothing of an even row."""
    certain = np.array([30.0, 0.0, 0.0], np.float32)
    assert {sample(certain, uniform=u, temperature=5.0, dynatemp_range=5.0) for u in (0.0, 0.5, 0.9999)} == {0}
    low, high = (reachable([0.6, 0.4], temperature=1.0, dynatemp_range=r) for r in (0.0, 0.9))
    assert low == high == {0, 1}


def test_greedy_passes_over_filters_and_obeys_penalties() -> None:
    logits = np.array([3.0, 2.9, 0.0], np.float32)
    greedy: dict[str, Any] = {"uniform": 0.5, "temperature": 0.0, "xtc_probability": 1.0, "dynatemp_range": 1.0}
    assert sample(logits, **greedy) == 0
    again = ids([0, 1, 0, 1, 0, 1])
    assert sample(logits, **greedy, dry_multiplier=1.0, dry_history=again) == 1
    assert sample(logits, **greedy, dry_multiplier=1.0, dry_history=again, steps=("top_k",)) == 0


def test_a_penalty_can_leave_nothing() -> None:
    with pytest.raises(RequestError, match="no token is left"):
        sample(np.array([1.0], np.float32), uniform=0.0, dry_multiplier=3e38, dry_base=1e30, dry_history=ids([0] * 20))


@pytest.mark.parametrize("size", [32000, 128256])
def test_a_whole_vocabulary_and_every_instruction_set(size: int) -> None:
    logits = random_logits(size, 3, 2.5)
    isa = runtime.isa()
    options: list[dict[str, Any]] = [
        {"top_n_sigma": 1.2, "xtc_probability": 1.0, "xtc_threshold": 0.02, "dynatemp_range": 0.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.001},
        {"steps": ("temperature", "mirostat"), "mirostat_mu": 9.0},
        {"dynatemp_range": 0.5, "temperature": 0.9},
    ]
    try:
        for each in options:
            steps = each.get("steps", LLAMA_CPP_ORDER)
            chain = reference.start(logits, **{k: v for k, v in each.items() if k != "steps"}).run(steps)
            running = np.cumsum(reference.softmax(chain.z))
            for name in runtime.isas():
                runtime.select_isa(name)
                for number in (0.1, 0.64):
                    place = int(np.searchsorted(chain.ids, sample(logits, uniform=number, **each)))
                    assert (running[place - 1] if place else 0.0) - 1e-5 <= number <= running[place] + 1e-5
    finally:
        runtime.select_isa(isa)


def test_the_coin_is_not_the_draw() -> None:
    draws, coins = (np.array([uniform(3, i, purpose) for i in range(2000)]) for purpose in (0, 1))
    assert abs(np.corrcoef(draws, coins)[0, 1]) < 0.06
    assert coins.mean() == pytest.approx(0.5, abs=0.03)
    assert uniform(3, 5, 0) == uniform(3, 5)


@pytest.mark.parametrize(
    "bad",
    [
        {"xtc_threshold": -0.1},
        {"xtc_probability": 1.5},
        {"xtc_uniform": 1.0},
        {"top_n_sigma": float("nan")},
        {"dynatemp_range": -1.0},
        {"mirostat_mu": float("inf")},
        {"dry_base": -1.0},
        {"dry_allowed_length": -1},
        {"dry_history": ids([8])},
        {"dry_breakers": (ids([1]), ids([0]), ids([]))},
        {"dry_breakers": (ids([1]), ids([0, 2]), ids([3]))},
        {"dry_breakers": (ids([2, 1]), ids([0, 0, 0]), ids([]))},
        {"dry_breakers": (ids([9]), ids([0, 0]), ids([]))},
        {"steps": ("top_q",)},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        sample(np.zeros(8, np.float32), **{"uniform": 0.5, **bad})
