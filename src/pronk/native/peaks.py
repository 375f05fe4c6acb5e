"""What this machine does at most: reads of memory, products of int8 and of float32, with the threads in use.

Each is measured by a kernel of the instruction set in use that does nothing else (cpp/include/pronk/peaks.hpp), and the
best of several runs counts: what slows a run down is no property of the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pronk.errors import BackendError
from pronk.native import _core, runtime

ROWS, WIDTH, LANES = 12, 256, 16  # of peaks.hpp: rows of the left side, int8 values of a row, floats of a vector
_COUNT = 32  # rows of the right side: both sides lie in the smallest L1 cache
_BUFFER = 512 << 20  # bytes read: several times the largest caches of most machines


@dataclass(frozen=True)
class Peaks:
    """Bytes read a second, and operations a second: of a product and its sum, each counts as one."""

    bandwidth: float
    int8: float
    float32: float


def measure(*, seconds: float = 0.5, buffer: int = _BUFFER) -> Peaks:
    """Takes about `seconds` for each of the three. Raises BackendError where there is no memory for the buffer."""
    rng = np.random.default_rng(0)
    left8 = rng.integers(-127, 128, (ROWS, WIDTH), np.int8)
    right8 = rng.integers(0, 16, (_COUNT, WIDTH), np.int8)
    left, right = rng.standard_normal(ROWS, np.float32), rng.standard_normal((_COUNT, LANES), np.float32)
    each = 2 * ROWS * _COUNT * runtime.threads()  # operations of a pass, by the width of a row
    return Peaks(
        bandwidth=_bandwidth(seconds, buffer),
        int8=each * WIDTH * _passes_per_second(lambda passes: int8_sum(left8, right8, passes), seconds),
        float32=each * LANES * _passes_per_second(lambda passes: float_sum(left, right, passes), seconds),
    )


def _bandwidth(seconds: float, buffer: int) -> float:
    try:
        data = np.ones(buffer, np.uint8)  # written to: pages of zeros that nobody wrote are all the same page
    except MemoryError:
        raise BackendError(f"too little memory for the {buffer} bytes that are read to measure it; free some") from None
    return buffer / _fastest(lambda: read_sum(data), seconds)


def _passes_per_second(run: Callable[[int], object], seconds: float) -> float:
    """With so many passes in a run that its start does not count."""
    passes = 1
    while _time(partial(run, passes)) < seconds / 50:
        passes *= 2
    return passes / _fastest(partial(run, passes), seconds)


def _fastest(run: Callable[[], object], seconds: float) -> float:
    """Of the runs that the time allows, and at least two."""
    best, end = min(_time(run), _time(run)), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, _time(run))
    return max(best, math.ulp(1.0))  # a clock's tick may be longer than a tiny run


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# The kernels. Each returns what it computed, so that nothing of the work can be left out.


def read_sum(data: NDArray[np.uint8]) -> int:
    """The sum of the 64-bit words of `data`, a multiple of 64 bytes, modulo 2^64. The threads share the reading."""
    return _core.read_sum(data)


def int8_sum(left: NDArray[np.int8], right: NDArray[np.int8], passes: int) -> int:
    """The sum of all dot products of a row of `left` (12, 256) with one of `right` (R, 256), whose values are 0 to 15
    and whose R is a multiple of 8; `passes` times, by every thread; modulo 2^32."""
    return _core.int8_sum(left, right, passes)


def float_sum(left: NDArray[np.float32], right: NDArray[np.float32], passes: int) -> float:
    """The sum of all products of a number of `left` (12) with one of `right` (R, 16), R a multiple of 8; `passes`
    times, by every thread."""
    return _core.float_sum(left, right, passes)
