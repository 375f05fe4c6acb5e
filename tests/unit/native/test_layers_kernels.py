"""Norm, activation, residual and the sixteen floats under them, against float64 NumPy, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.native import runtime
from pronk.native.layers import add, attention, rms_norm, silu_mul

SIZES = [1, 2, 15, 16, 17, 48, 2048, 2050]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    isa, threads = runtime.isa(), runtime.threads()
    yield
    runtime.select_isa(isa)
    runtime.set_threads(threads)


@pytest.fixture(params=runtime.isas())
def isa(request: pytest.FixtureRequest) -> str:
    runtime.select_isa(request.param)
    return str(request.param)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def on_every_isa(run: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """The result, which has the same bits whichever instruction set computes it."""
    results = []
    for name in runtime.isas():
        runtime.select_isa(name)
        results.append(run())
    for other in results[1:]:
        np.testing.assert_array_equal(other.view(np.uint32), results[0].view(np.uint32))
    return results[0]


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(size: int) -> None:
    x, gain = normal(5, size), normal(size, seed=1)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * gain
    np.testing.assert_allclose(on_every_isa(lambda: rms_norm(x, gain, 1e-5)), expected, rtol=1e-6)


def test_rms_norm_of_zeros_is_zero(isa: str) -> None:
    np.testing.assert_array_equal(rms_norm(np.zeros((2, 33), np.float32), np.ones(33, np.float32), 1e-5), 0)


def silu(x: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.parametrize("size", SIZES)
def test_silu_mul(size: int) -> None:
    gate, up = normal(3, size), normal(3, size, seed=1)
    found = on_every_isa(lambda: silu_mul(gate.copy(), up))
    np.testing.assert_allclose(found, silu(gate) * up, rtol=1e-6)


def test_silu_to_the_last_digits() -> None:
    """Through it e^x is seen over its whole range: no error above four units in the last place."""
    gate = np.linspace(-87, 100, 200_003, dtype=np.float32)
    found = on_every_isa(lambda: silu_mul(gate.copy(), np.ones_like(gate)))
    np.testing.assert_allclose(found, silu(gate), rtol=4 * 2.0**-23)


def test_silu_of_extremes(isa: str) -> None:
    gate = np.array([-np.inf, -1e30, -200, -0.0, 0.0, 200, 1e30, np.nan], np.float32)
    found = silu_mul(gate.copy(), np.ones_like(gate))
    np.testing.assert_array_equal(found[1:5], 0)
    np.testing.assert_array_equal(found[5:7], gate[5:7])
    assert np.isnan(found[7])


@pytest.mark.parametrize("size", SIZES)
def test_add(size: int) -> None:
    x, y = normal(3, size), normal(3, size, seed=1)
    np.testing.assert_array_equal(on_every_isa(lambda: add(x.copy(), y)), x + y)


def test_in_place_functions_return_their_first_argument() -> None:
    x, y = normal(2, 20), normal(2, 20, seed=1)
    assert add(x, y) is x
    assert silu_mul(x, y) is x


def test_large_arrays_are_shared_out_without_a_change(isa: str) -> None:
    """Sizes that are cut among threads at places that are no multiple of anything."""
    x, y, gain = normal(77, 1003), normal(77, 1003, seed=1), normal(1003, seed=2)
    results = []
    for threads in (1, 2, 3):
        runtime.set_threads(threads)
        results.append((rms_norm(x, gain, 1e-5), silu_mul(x.copy(), y), add(x.copy(), y)))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)
    alone = np.concatenate([rms_norm(x[i : i + 1], gain, 1e-5) for i in range(len(x))])
    np.testing.assert_array_equal(alone, results[0][0])


def through_float16_pages(values: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """(what attention writes into float16 pages, what it reads back): one token alone attends to its own value only."""
    width = 14  # not a whole vector: the tail's loads and stores are tried too
    count = -(-len(values) // width)
    v = np.zeros((count, width), np.float32)
    v.reshape(-1)[: len(values)] = values
    q, angles = np.zeros((count, width), np.float32), np.zeros((count, width // 2), np.float32)
    starts = np.arange(count + 1, dtype=np.int32)
    keys, kept = np.zeros((count, 1, 1, width, 16), np.float16), np.zeros((count, 1, 16, width), np.float16)
    zeros, ones = np.zeros(count, np.int32), np.ones(count, np.int32)
    tables = starts[:-1, None].copy()
    out = attention(q, q, v, angles, angles, zeros, starts[:-1] * 16, starts, ones, tables, keys, kept)
    return kept[:, 0, 0].reshape(-1)[: len(values)].copy(), out.reshape(-1)[: len(values)]


def test_every_float16_is_read_exactly(isa: str) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    written, read = through_float16_pages(halves.astype(np.float32))
    np.testing.assert_array_equal(written.view(np.uint16), halves.view(np.uint16))
    np.testing.assert_array_equal(read, halves.astype(np.float32))


def test_float16_is_rounded_to_nearest_even(isa: str) -> None:
    """Halfway points, their neighbours, denormals, and what is too large."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate(
        [
            middle,
            np.nextafter(middle, np.float32(0)),
            np.nextafter(middle, np.float32(1e9)),
            np.float32([65519, 65520, 65536, 1e9, np.inf, 1e-8, 2.9e-8, 3e-8, 1e-40]),
        ]
    )
    values = np.concatenate([values, -values])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(through_float16_pages(values)[0].view(np.uint16), expected.view(np.uint16))
    assert np.isnan(through_float16_pages(np.full(20, np.nan, np.float32))[0]).all()


def test_wrong_arrays_are_refused() -> None:
    x = normal(3, 8)
    for y in (normal(8), normal(3, 7), normal(8, 3), normal(1, 3, 8)):
        with pytest.raises(ValueError):
            add(x, y)
        with pytest.raises(ValueError):
            silu_mul(x, y)
    with pytest.raises(ValueError):
        rms_norm(x, normal(7), 1e-5)
    for wrong in (x.astype(np.float64), normal(8, 3).T):
        with pytest.raises(TypeError):
            rms_norm(wrong, normal(8), 1e-5)
        with pytest.raises(TypeError):
            add(wrong, x)
        with pytest.raises(TypeError):
            add(x, wrong)


def test_a_read_only_array_is_not_written() -> None:
    x = normal(3, 8)
    x.flags.writeable = False
    for run in (add, silu_mul):
        with pytest.raises(TypeError):
            run(x, normal(3, 8))


def test_empty_arrays() -> None:
    nothing = np.zeros((0, 8), np.float32)
    assert rms_norm(nothing, normal(8), 1e-5).shape == (0, 8)
    assert add(nothing, nothing).shape == (0, 8)
