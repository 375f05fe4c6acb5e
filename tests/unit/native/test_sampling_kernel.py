"""Sampling against the plain sorted version, and what it promises about ties, seeds and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pronk.errors import PronkError, RequestError
from pronk.native import runtime
from pronk.native.sampling import log_probabilities, sample, top_log_probabilities, uniform
from support import sampling_reference as reference

NEAR = 1e-5  # closer than this to a boundary, float32 sums may decide either way


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    isa = runtime.isa()
    yield
    runtime.select_isa(isa)


def random_logits(size: int, seed: int, spread: float = 3.0) -> NDArray[np.float32]:
    return (spread * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def mask_words(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    padded = np.zeros(-(-len(allowed) // 32) * 32, bool)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


def reachable(logits: NDArray[np.float32], tries: int = 4000, **filters: Any) -> set[int]:
    """Tokens that some random number picks: all that the filters keep, if their probabilities are not too small."""
    return {sample(logits, uniform=u, **filters) for u in np.linspace(0, 1, tries, endpoint=False)}


filters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.3, 0.8, 1.0, 1.7]),
        "top_k": st.sampled_from([1, 2, 7, 40, 1000]),
        "top_p": st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99]),
        "min_p": st.sampled_from([0.01, 0.05, 0.3, 1.0]),
        "typical_p": st.sampled_from([0.2, 0.7, 0.95]),
        "temperature_first": st.booleans(),
    },
)


@settings(deadline=None, max_examples=400)
@given(
    size=st.sampled_from([1, 2, 15, 16, 17, 31, 100, 1000, 5000]),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 0.3, 3.0, 20.0]),
    filters=filters,
    number=st.floats(0, 1, exclude_max=True),
)
def test_picks_what_sorting_picks(size: int, seed: int, spread: float, filters: dict[str, Any], number: float) -> None:
    logits = random_logits(size, seed, spread)
    ids, margin = reference.kept(logits, **filters)
    expected, distance = reference.draw(logits, ids, filters.get("temperature", 1.0), number)
    assume(min(margin, distance) > NEAR)
    assert sample(logits, uniform=number, **filters) == expected


@pytest.mark.parametrize("size", [32000, 128256])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.6, "top_p": 0.9, "temperature_first": True},
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
        {"top_p": 0.9},
        {"min_p": 0.02},
        {"typical_p": 0.8, "top_p": 0.7},
        {"top_k": 20000, "top_p": 0.999},
        {"temperature": 50.0, "top_p": 0.8, "temperature_first": True},
    ],
    ids=str,
)
def test_picks_what_sorting_picks_from_a_whole_vocabulary(size: int, filters: dict[str, Any]) -> None:
    """Among so many tokens boundaries lie close together: the number falls within the token's share, or 1e-6 beside."""
    for seed, number in enumerate([0.0, 0.1, 0.37, 0.64, 0.999]):
        logits = random_logits(size, seed)
        ids, _ = reference.kept(logits, **filters)
        running = np.cumsum(reference.softmax(logits[ids] / filters.get("temperature", 1.0)))
        place = np.searchsorted(ids, sample(logits, uniform=number, **filters))
        assert (running[place - 1] if place else 0.0) - 1e-6 <= number <= running[place] + 1e-6


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_p": 0.75}, {0, 1}),
        ({"top_p": 0.85}, {0, 1, 2}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.4}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 2, "top_p": 0.95}, {0, 1}),
        # Of 0.5 and 0.3 alone the first has 0.625 of the mass: top_p sees what top_k left.
        ({"top_k": 2, "top_p": 0.6}, {0}),
        ({"typical_p": 0.25}, {1}),
    ],
)
def test_filters_keep_what_their_definition_says(filters: dict[str, Any], expected: set[int]) -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert reachable(logits, **filters) == expected


def test_top_p_order_of_temperature() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    assert reachable(logits, temperature=3.0, top_p=0.55) == {0}
    assert reachable(logits, temperature=3.0, top_p=0.55, temperature_first=True) == {0, 1}


def test_top_p_exactly_at_a_boundary() -> None:
    """Halves are exact: the mass before the second token is 0.5. Meta keeps it (not above top_p), llama.cpp not."""
    logits = np.zeros(2, np.float32)
    assert reachable(logits, top_p=0.5) == {0}
    assert reachable(logits, top_p=0.5, temperature_first=True) == {0, 1}


@pytest.mark.parametrize("size", [3, 40, 5000, 128256])
def test_ties_go_to_the_lower_id(size: int) -> None:
    logits = np.zeros(size, np.float32)
    assert sample(logits, temperature=0, uniform=0.9) == 0
    assert reachable(logits, 10, top_k=2) == {0, 1}
    logits[[size - 1, size - 2]] = 5
    assert sample(logits, temperature=0, uniform=0.0) == size - 2
    assert reachable(logits, 10, top_k=1) == {size - 2}
    assert top_log_probabilities(logits, 3)[0].tolist() == [size - 2, size - 1, 0]


@pytest.mark.parametrize("position", [0, 1, 15, 16, 127999, 128255])
def test_greedy_finds_the_largest_anywhere(position: int) -> None:
    logits = random_logits(128256, 1)
    logits[position] = 100
    assert sample(logits, temperature=0, uniform=0.5) == position
    assert sample(logits, temperature=1e-30, uniform=0.5) == position
    assert sample(logits, temperature=1e-42, uniform=0.5) == position


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    picked = [sample(logits, uniform=uniform(7, i)) for i in range(20000)]
    np.testing.assert_allclose(np.bincount(picked) / 20000, [0.1, 0.2, 0.3, 0.4], atol=0.015)


@settings(deadline=None, max_examples=100)
@given(
    size=st.integers(1, 200),
    seed=st.integers(0, 10**6),
    repetition=st.sampled_from([1.0, 1.3, 0.7]),
    presence=st.sampled_from([0.0, 0.5, -1.0]),
    frequency=st.sampled_from([0.0, 0.2]),
    number=st.floats(0, 1, exclude_max=True),
)
def test_penalties_bias_and_mask(
    size: int, seed: int, repetition: float, presence: float, frequency: float, number: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = random_logits(size, seed)
    before = logits.copy()
    counts = {int(i): int(rng.integers(0, 4)) for i in rng.permutation(size)[: size // 2]}
    bias = {int(i): float(np.float32(rng.normal())) for i in rng.permutation(size)[: size // 3]}
    allowed = rng.random(size) < 0.7
    assume(allowed.any())
    penalties = {"repetition_penalty": repetition, "presence_penalty": presence, "frequency_penalty": frequency}
    x = reference.adjusted(logits, **penalties, counts=counts, bias=bias, allowed=allowed)
    filters = {"top_k": 20, "top_p": 0.9, "temperature": 0.9}
    ids, margin = reference.kept(x, **filters)
    expected, distance = reference.draw(x, ids, 0.9, number)
    assume(min(margin, distance) > NEAR)
    arrays = {
        "seen_ids": np.array(list(counts), np.int32),
        "seen_counts": np.array(list(counts.values()), np.int32),
        "bias_ids": np.array(list(bias), np.int32),
        "bias_values": np.array(list(bias.values()), np.float32),
        "allowed": mask_words(allowed),
    }
    assert sample(logits, uniform=number, **filters, **penalties, **arrays) == expected
    assert sample(logits, uniform=number, temperature=0, **penalties, **arrays) == int(np.argmax(x))
    np.testing.assert_array_equal(logits, before)


def test_a_prompt_token_is_not_frequent() -> None:
    logits = np.array([1.0, 0.9], np.float32)
    ids, prompt_only, generated = np.array([0], np.int32), np.array([0], np.int32), np.array([1], np.int32)
    penalty: dict[str, Any] = {"temperature": 0, "uniform": 0.0, "presence_penalty": 0.5, "seen_ids": ids}
    assert sample(logits, **penalty, seen_counts=prompt_only) == 0
    assert sample(logits, **penalty, seen_counts=generated) == 1


@pytest.mark.parametrize("size", [1, 31, 32, 33, 128256])
def test_one_allowed_token_is_taken(size: int) -> None:
    for only in {0, size // 2, size - 1}:
        allowed = np.zeros(size, bool)
        allowed[only] = True
        for filters in [{}, {"temperature": 0}, {"top_k": 5}, {"top_p": 0.9}, {"typical_p": 0.5}, {"min_p": 0.1}]:
            assert sample(random_logits(size, 3), uniform=0.7, allowed=mask_words(allowed), **filters) == only


def test_nothing_left_is_said() -> None:
    logits = np.zeros(40, np.float32)
    with pytest.raises(RequestError, match="no token is left"):
        sample(logits, uniform=0.5, allowed=np.zeros(2, np.uint32))
    with pytest.raises(RequestError, match="no token is left"):
        sample(np.full(3, -np.inf, np.float32), uniform=0.5)


@pytest.mark.parametrize("isa", runtime.isas())
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 20, 99])
def test_logits_that_are_no_numbers_are_refused(isa: str, bad: float, position: int) -> None:
    runtime.select_isa(isa)
    logits = random_logits(100, 0)
    logits[position] = bad
    for filters in [{}, {"temperature": 0}, {"top_k": 3}, {"allowed": np.array([1, 0, 0, 0], np.uint32)}]:
        with pytest.raises(PronkError, match="NaN"):
            sample(logits, uniform=0.5, **filters)
    with pytest.raises(PronkError, match="NaN"):
        log_probabilities(logits, np.zeros(1, np.int32))
    with pytest.raises(PronkError, match="NaN"):
        top_log_probabilities(logits, 2)


def test_minus_infinity_is_never_chosen() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[5, 700]] = [0.0, 1.0]
    for filters in [{}, {"top_k": 10}, {"top_p": 0.99}, {"typical_p": 0.99}, {"min_p": 0.01}]:
        assert reachable(logits, **filters) == {5, 700}


@pytest.mark.parametrize("size", [1, 16, 50, 128256])
def test_log_probabilities(size: int) -> None:
    logits = random_logits(size, 2)
    logits[0] = -np.inf if size > 1 else 0
    ids = np.unique(np.linspace(0, size - 1, 40).astype(np.int32))
    with np.errstate(divide="ignore"):
        expected = np.log(reference.softmax(logits))
    np.testing.assert_allclose(log_probabilities(logits, ids), expected[ids], rtol=1e-6, atol=1e-6)
    for k in (0, 1, 5, 20, size, size + 3):
        best, found = top_log_probabilities(logits, k)
        order = np.lexsort((np.arange(size), -logits))[:k]
        assert best.tolist() == order.tolist()
        assert best.dtype == np.int32
        np.testing.assert_allclose(found, expected[order], rtol=1e-6, atol=1e-6)


def test_instruction_sets_agree() -> None:
    logits = random_logits(128256, 4)
    results = []
    for isa in runtime.isas():
        runtime.select_isa(isa)
        choices = [sample(logits, uniform=uniform(1, i), top_p=0.9) for i in range(5)]
        choices += [sample(logits, uniform=uniform(2, i)) for i in range(5)]
        ids, found = top_log_probabilities(logits, 20)
        results.append((choices, ids.tolist(), found.tobytes()))
    assert all(result == results[0] for result in results)


def test_uniform_numbers() -> None:
    numbers = np.array([[uniform(seed, i) for i in range(2000)] for seed in (0, 1, 2**64 - 1)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(1), 0.5, atol=0.03)
    np.testing.assert_allclose(numbers.var(1), 1 / 12, atol=0.01)
    assert len(np.unique(numbers)) == numbers.size
    # Fixed for good: a seed gives the same text in every version.
    assert (uniform(0, 0), uniform(42, 7)) == (0.6524484863740322, 0.7347204584623639)
    assert uniform(-1, 3) == uniform(2**64 - 1, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"uniform": 1.0},
        {"uniform": -0.1},
        {"uniform": float("nan")},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"typical_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": float("inf")},
        {"seen_ids": np.zeros(1, np.int32)},
        {"seen_ids": np.array([8], np.int32), "seen_counts": np.ones(1, np.int32)},
        {"seen_ids": np.array([-1], np.int32), "seen_counts": np.ones(1, np.int32)},
        {"seen_ids": np.array([1, 2], np.int32), "seen_counts": np.ones(1, np.int32)},
        {"bias_ids": np.array([8], np.int32), "bias_values": np.ones(1, np.float32)},
        {"bias_ids": np.array([1], np.int32), "bias_values": np.ones(2, np.float32)},
        {"allowed": np.zeros(0, np.uint32)},
        {"allowed": np.zeros(2, np.uint32)},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        sample(np.zeros(8, np.float32), **{"uniform": 0.5, **bad})


def test_bad_arrays_are_refused() -> None:
    with pytest.raises(ValueError):
        sample(np.zeros(0, np.float32), uniform=0.5)
    with pytest.raises(TypeError):
        sample(np.zeros(8), uniform=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        sample(np.zeros((2, 8), np.float32), uniform=0.5)
    with pytest.raises(ValueError):
        log_probabilities(np.zeros(8, np.float32), np.array([8], np.int32))
    with pytest.raises(ValueError):
        top_log_probabilities(np.zeros(8, np.float32), -1)
