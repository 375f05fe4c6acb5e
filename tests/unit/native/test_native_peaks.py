"""The kernels that measure the machine: what they compute is right, so nothing of it was left out. No test asserts a
speed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from pronk.errors import BackendError
from pronk.native import _core, peaks, runtime

RNG = np.random.default_rng(0)
LEFT8 = RNG.integers(-127, 128, (peaks.ROWS, peaks.WIDTH), np.int8)
LEFT = RNG.integers(-9, 10, peaks.ROWS).astype(np.float32)  # whole numbers: their sums are exact


@pytest.fixture(autouse=True)
def _restore_runtime() -> Iterator[None]:
    isa, threads = runtime.isa(), runtime.threads()
    yield
    runtime.select_isa(isa)
    runtime.set_threads(threads)


@pytest.fixture(params=[(isa, threads) for isa in runtime.isas() for threads in (1, 3)], ids=str)
def threads(request: pytest.FixtureRequest) -> int:
    isa, count = request.param
    runtime.select_isa(isa)
    runtime.set_threads(count)
    return count


@pytest.mark.parametrize("size", [64, 192, 64 * 1000])
def test_every_byte_is_read_once(size: int, threads: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert peaks.read_sum(data) == sum(map(int, data.view(np.uint64))) % 2**64


@pytest.mark.parametrize(("rows", "passes"), [(8, 1), (32, 3), (40, 1000)])
def test_every_product_of_int8_is_made(rows: int, passes: int, threads: int) -> None:
    right = np.random.default_rng(rows).integers(0, 16, (rows, peaks.WIDTH), np.int8)
    once = int((LEFT8.astype(np.int64) @ right.T.astype(np.int64)).sum())
    assert peaks.int8_sum(LEFT8, right, passes) == threads * passes * once % 2**32


def test_the_largest_products_fit(threads: int) -> None:
    left, right = np.full((peaks.ROWS, peaks.WIDTH), -127, np.int8), np.full((8, peaks.WIDTH), 15, np.int8)
    assert peaks.int8_sum(left, right, 5) == -threads * 5 * peaks.ROWS * 8 * peaks.WIDTH * 127 * 15 % 2**32


@pytest.mark.parametrize(("rows", "passes"), [(8, 1), (32, 3), (40, 100)])
def test_every_product_of_float32_is_made(rows: int, passes: int, threads: int) -> None:
    right = np.random.default_rng(rows).integers(-3, 4, (rows, peaks.LANES)).astype(np.float32)
    assert peaks.float_sum(LEFT, right, passes) == threads * passes * float(LEFT.sum()) * float(right.sum())


def test_wrong_shapes_are_refused() -> None:
    right = np.zeros((12, peaks.WIDTH), np.int8)
    with pytest.raises(ValueError, match="12 rows for 1 passes, expected a multiple of 8"):
        peaks.int8_sum(LEFT8, right, 1)
    with pytest.raises(ValueError, match="at least one pass"):
        peaks.float_sum(LEFT, np.zeros((8, peaks.LANES), np.float32), 0)
    with pytest.raises(ValueError, match="65 bytes are no multiple of 64"):
        peaks.read_sum(np.zeros(65, np.uint8))
    with pytest.raises(TypeError):
        _core.int8_sum(LEFT8[:, :128].copy(), right[:8], 1)


def test_peaks_are_positive_and_finite(threads: int) -> None:
    found = peaks.measure(seconds=0.002, buffer=1 << 20)
    for value in (found.bandwidth, found.int8, found.float32):
        assert 0 < value < math.inf


def test_too_little_memory_is_one_clear_error() -> None:
    with pytest.raises(BackendError, match=r"too little memory for the \d+ bytes"):
        peaks.measure(seconds=0.002, buffer=1 << 60)
