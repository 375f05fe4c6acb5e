"""Attention against float64 NumPy, and its promise: a row's bits depend on nothing but its own sequence."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pronk.native import runtime
from pronk.native.layers import attention
from support.attention_reference import Q8_0, Attention, rotary, rotated


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    isa, threads = runtime.isa(), runtime.threads()
    yield
    runtime.select_isa(isa)
    runtime.set_threads(threads)


def at_once(case: Attention) -> list[NDArray[np.float32]]:
    """Every sequence whole, all in one batch."""
    lengths = [len(q) for q in case.q]
    out = attention(*case.arguments([(s, 0, n) for s, n in enumerate(lengths)]))
    return np.split(out, np.cumsum(lengths)[:-1])


def in_steps(case: Attention, steps: Sequence[Sequence[tuple[int, int, int]]]) -> list[NDArray[np.float32]]:
    """The rows of each sequence, gathered from batches of (sequence, first, last)."""
    found = [np.full_like(q, np.nan) for q in case.q]
    for spans in steps:
        out = attention(*case.arguments(spans))
        row = 0
        for s, first, last in spans:
            found[s][first:last] = out[row : row + last - first]
            row += last - first
    return found


def check(case: Attention, tolerance: float = 3e-6) -> None:
    for s, out in enumerate(at_once(case)):
        expected = case.expected(s)
        np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"),
    [(4, 2, 6), (8, 8, 8), (8, 2, 64), (3, 1, 80), (2, 1, 96), (16, 2, 128), (7, 1, 130)],
)
def test_matches_float64(heads: int, kv_heads: int, width: int, dtype: type) -> None:
    check(Attention.random([1, 77, 130], heads=heads, kv_heads=kv_heads, width=width, dtype=dtype))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"), [(4, 2, 32), (8, 2, 64), (3, 1, 96), (16, 2, 128), (7, 1, 160)]
)
def test_q8_0_matches_float64_on_the_same_rounded_numbers(heads: int, kv_heads: int, width: int) -> None:
    check(Attention.random([1, 77, 130], heads=heads, kv_heads=kv_heads, width=width, dtype=Q8_0))


@pytest.mark.parametrize("length", [511, 512, 513, 1100])
def test_matches_float64_over_segments(length: int) -> None:
    check(Attention.random([length], width=16))


@pytest.mark.parametrize("block", [16, 48, 64, 512, 1024])
def test_any_page_size(block: int) -> None:
    check(Attention.random([40, 600], block=block))
    check(Attention.random([40, 600], block=block, width=32, dtype=Q8_0))


@pytest.mark.parametrize("isa", runtime.isas())
def test_every_instruction_set_matches_float64(isa: str) -> None:
    runtime.select_isa(isa)
    check(Attention.random([70, 530], heads=6, kv_heads=2, width=20))
    check(Attention.random([70, 530], heads=6, kv_heads=2, width=64, dtype=Q8_0))


def test_scores_far_apart_do_not_overflow() -> None:
    # Scores of some thousands carry an error of 1e-4 in float32, and so do their exponentials.
    check(Attention.random([600], scale=30.0, dtype=np.float32), tolerance=1e-3)


def test_keys_are_written_rotated_and_values_as_they_are() -> None:
    case = Attention.random([50], dtype=np.float32)
    at_once(case)
    keys, values = case.written(0)
    np.testing.assert_array_equal(values.reshape(50, -1), case.v[0])
    np.testing.assert_array_equal(keys[0].reshape(-1), case.k[0][0])  # position 0 turns by nothing
    lengths = np.linalg.norm(keys.reshape(50, case.kv_heads, -1, 2), axis=-1)
    np.testing.assert_allclose(lengths, np.linalg.norm(case.k[0].reshape((*lengths.shape, 2)), axis=-1), rtol=1e-5)
    last = case.pages[0][-1]
    assert np.isnan(case.value_pages[last, :, 50 % case.block :]).all()
    assert np.isnan(
        case.key_pages[last].swapaxes(2, 3).reshape(case.kv_heads, case.block, -1)[:, 50 % case.block :]
    ).all()


@pytest.mark.parametrize("isa", runtime.isas())
def test_q8_0_pages_hold_what_a_file_would(isa: str) -> None:
    """Also blocks of zeros, of equal magnitudes, of tiny numbers, and halves between two whole numbers."""
    runtime.select_isa(isa)
    case = Attention.random([50], kv_heads=2, width=96, dtype=Q8_0)
    for x in (case.k[0], case.v[0]):
        x[3] = 0
        x[5] = np.where(x[5] > 0, 2.5, -2.5)
        x[7] *= 1e-36
        x[9] *= 1e-6
        x[0, :6] = [127, 0.5, -0.5, 1.5, -2.5, 126.5]
    at_once(case)
    keys, values = case.written(0)
    turned = rotated(case.k[0].reshape(50, 2, 96), *rotary(np.arange(50, dtype=np.int32), 96), np.float32)
    np.testing.assert_array_equal(keys, case.kept(turned))
    np.testing.assert_array_equal(values, case.kept(case.v[0].reshape(50, 2, 96)))


def test_q8_0_is_near_a_cache_of_floats() -> None:
    shape = {"heads": 8, "kv_heads": 2, "width": 64}
    for exact, near in zip(
        at_once(Attention.random([1, 700], dtype=np.float32, **shape)),
        at_once(Attention.random([1, 700], dtype=Q8_0, **shape)),
        strict=True,
    ):
        assert np.abs(near - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize(("which", "broken"), [("k", np.nan), ("k", np.inf), ("v", np.nan), ("v", -np.inf), ("v", 1e9)])
def test_a_broken_number_in_q8_0_is_not_hidden(which: str, broken: float) -> None:
    """Nor is one that has no f16 scale. Rows before a broken key stay sound."""
    case = Attention.random([20], width=32, dtype=Q8_0)
    getattr(case, which)[0][4, 3] = broken
    (out,) = at_once(case)
    assert which == "v" or np.isfinite(out[:4]).all()
    assert (~np.isfinite(out[4:].reshape(-1, 4, 32)[:, 0])).any(axis=-1).all()


def test_inputs_stay_as_they_are() -> None:
    case = Attention.random([50])
    arguments = case.arguments([(0, 0, 50)])
    before = [a.copy() for a in arguments[:10]]
    attention(*arguments)
    for a, b in zip(arguments[:10], before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "dtype"),
    [
        *[(*shape, dtype) for shape in [(4, 1, 64), (2, 2, 8), (6, 2, 20)] for dtype in (np.float16, np.float32)],
        *[(*shape, Q8_0) for shape in [(4, 1, 64), (2, 2, 32), (18, 1, 96)]],
    ],
)
def test_token_by_token_is_bit_equal_to_one_prefill(heads: int, kv_heads: int, width: int, dtype: type) -> None:
    case = Attention.random([620], heads=heads, kv_heads=kv_heads, width=width, dtype=dtype)
    (whole,) = at_once(case)
    (stepped,) = in_steps(case, [[(0, 0, 500)], *([(0, i, i + 1)] for i in range(500, 620))])
    np.testing.assert_array_equal(stepped, whole)


@pytest.mark.parametrize("dtype", [np.float16, Q8_0])
def test_threads_change_no_bit(dtype: type) -> None:
    results = []
    for threads in (1, 2, 5):
        runtime.set_threads(threads)
        case = Attention.random([1500, 3], heads=4, kv_heads=1, width=64, dtype=dtype)
        prefill = at_once(case)
        # One row against 1,500 keys: with several threads its segments are computed apart.
        results.append([*prefill, *in_steps(case, [[(0, 1499, 1500)], [(1, 1, 2), (0, 1496, 1500)]])])
        np.testing.assert_array_equal(results[-1][2][1496:], prefill[0][1496:])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_context_of_many_segments_is_the_same_on_any_number_of_threads() -> None:
    """Each thread then gets runs of several segments, the last of them shorter."""
    case = Attention.random([21000], heads=2, kv_heads=2, width=16)
    rng = np.random.default_rng(1)
    for pages in (case.key_pages, case.value_pages):
        pages[:] = rng.standard_normal(pages.shape, np.float32)
    results = []
    for threads in (1, 2, 3):
        runtime.set_threads(threads)
        results.append(attention(*case.arguments([(0, 20998, 21000)])))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize(
    ("heads", "width", "dtype"),
    [
        (4, 20, np.float16),
        (2, 64, np.float16),
        (14, 64, np.float16),
        (4, 64, np.float32),
        (2, 96, Q8_0),
        (14, 64, Q8_0),
    ],
)
def test_instruction_sets_are_bit_equal(heads: int, width: int, dtype: type) -> None:
    results = []
    for isa in runtime.isas():
        runtime.select_isa(isa)
        case = Attention.random([90, 530], heads=heads, kv_heads=2, width=width, dtype=dtype)
        found = at_once(case) + in_steps(case, [[(0, 88, 89), (1, 529, 530)], [(1, 400, 402)]])
        results.append((found, case.key_pages.view(np.uint8)))
    for out, pages in results[1:]:
        np.testing.assert_array_equal(pages, results[0][1])
        for a, b in zip(out, results[0][0], strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    block=st.sampled_from([16, 32, 80]),
    group=st.integers(1, 5),
    width=st.sampled_from([(6, np.float16), (16, np.float32), (40, np.float16), (32, Q8_0), (64, Q8_0)]),
    seed=st.integers(0, 1000),
)
def test_any_mix_of_chunks_is_bit_equal(
    lengths: list[int], block: int, group: int, width: tuple[int, type], seed: int
) -> None:
    """Continuous batching: sequences advance by chunks of their own, beside whichever others take part in a step."""
    rng = np.random.default_rng(seed)
    done, steps = [0] * len(lengths), []
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        spans = []
        for s in rng.permutation(len(lengths)):
            size = min(int(rng.choice([0, 1, 1, 17, 64, 200])), lengths[s] - done[s])
            if size:
                spans.append((int(s), done[s], done[s] + size))
                done[s] += size
        if spans:
            steps.append(spans)
    shape = {"heads": 2 * group, "kv_heads": 2, "width": width[0], "block": block, "dtype": width[1]}
    mixed = in_steps(Attention.random(lengths, **shape), steps)
    case = Attention.random(lengths, **shape)
    for s, n in enumerate(lengths):
        np.testing.assert_array_equal(mixed[s], attention(*case.arguments([(s, 0, n)])))


def test_no_tokens() -> None:
    case = Attention.random([8])
    arguments = [a[:0] if i < 7 else a for i, a in enumerate(case.arguments([(0, 0, 8)]))]
    arguments[7], arguments[8], arguments[9] = np.zeros(1, np.int32), np.zeros(0, np.int32), np.zeros((0, 1), np.int32)
    assert attention(*arguments).shape == (0, 32)


NAMES = [*inspect.signature(attention).parameters]


def changed(name: str, index: tuple[int, ...] | int, value: int) -> dict[str, NDArray[np.generic]]:
    """The arguments of a good batch of 50 and 1 tokens, with one entry changed."""
    case = Attention.random([50, 20])
    arguments = dict(zip(NAMES, case.arguments([(0, 0, 50), (1, 19, 20)]), strict=True))
    arguments[name] = arguments[name].copy()
    arguments[name][index] = value
    return arguments


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("positions", 3, -1),
        ("positions", 49, 50),
        ("positions", 50, 2**31 - 1),
        ("positions", 3, 2),
        ("slots", 0, -1),
        ("slots", 50, 6 * 32),
        ("query_starts", 0, 1),
        ("query_starts", 1, 52),
        ("query_starts", 1, -5),
        ("query_starts", 2, 50),
        ("context_lens", 0, 49),
        ("context_lens", 0, 65),
        ("context_lens", 1, 2**31 - 1),
        ("context_lens", 1, -1),
        ("block_tables", (0, 1), 6),
        ("block_tables", (1, 0), -1),
    ],
)
def test_an_index_out_of_range_is_refused(name: str, index: tuple[int, ...] | int, value: int) -> None:
    with pytest.raises(ValueError, match=r"sequence|query_starts|slot"):
        attention(**changed(name, index, value))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_row_is_refused(name: str) -> None:
    arguments = changed("slots", 0, 0)
    arguments[name] = np.ascontiguousarray(arguments[name][:-1])
    with pytest.raises(ValueError):
        attention(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_another_type_is_refused(name: str) -> None:
    arguments = changed("slots", 0, 0)
    arguments[name] = arguments[name].astype(np.float64)
    with pytest.raises((TypeError, ValueError)):
        attention(**arguments)


def test_pages_of_other_shapes_are_refused() -> None:
    arguments = changed("slots", 0, 0)

    def refused(keys: NDArray[np.generic], values: NDArray[np.generic], match: str | None = None) -> None:
        with pytest.raises(ValueError, match=match):
            attention(**{**arguments, "key_pages": keys, "value_pages": values})

    half, single = np.float16, np.float32
    for blocks, heads, groups, width in [(6, 2, 2, 7), (6, 3, 2, 8), (6, 0, 2, 8), (6, 2, 0, 8), (0, 2, 2, 8)]:
        refused(np.zeros((blocks, heads, groups, width, 16), half), np.zeros((blocks, heads, 16 * groups, width), half))
    for values in [(6, 2, 24, 8), (5, 2, 32, 8), (6, 2, 32, 10), (6, 2, 32), (6, 2, 2, 8, 16)]:
        refused(np.zeros((6, 2, 2, 8, 16), half), np.zeros(values, half), "value_pages is")
    refused(np.zeros((6, 2, 2, 8, 15), half), np.zeros((6, 2, 32, 8), half), "key_pages is")
    refused(np.zeros((6, 2, 32, 8), half), np.zeros((6, 2, 32, 8), half), "key_pages has 4 dimensions")
    refused(np.zeros((6, 2, 2, 8, 16), single), np.zeros((6, 2, 32, 8), half), "differ")
    for bytes_ in (0, 16 * 34 - 1, 16 * 34 + 1):
        refused(np.zeros((6, 2, 2, bytes_), np.uint8), np.zeros((6, 2, 2, bytes_), np.uint8))
    refused(np.zeros((6, 2, 2, 16 * 34), np.int8), np.zeros((6, 2, 2, 16 * 34), np.int8), "uint8")


def test_unused_table_entries_may_hold_anything() -> None:
    attention(**changed("block_tables", (1, 1), 10**6))  # sequence 1 has one page
