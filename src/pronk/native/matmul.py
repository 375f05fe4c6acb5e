"""Matrix products with weights in the file's own bytes, embedding rows, and block decoding.

A row of a result never depends on the other rows, on their number, or on the number of threads; and all instruction
sets give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pronk.native import _core
from pronk.native import runtime as runtime  # PRONK_ISA and PRONK_THREADS are obeyed before the first kernel runs
from pronk.native._core import Matrix as Matrix


def linear(x: NDArray[np.float32], weights: Sequence[Matrix]) -> tuple[NDArray[np.float32], ...]:
    """x (T, in) -> (T, rows) for each weight (rows, in), x times the weight's transpose.

    The weights share one quantization of x and one job of the thread pool.
    """
    results: tuple[NDArray[np.float32], ...] = _core.linear(x, weights)
    return results


def embed(table: Matrix, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """ids (T) -> (T, cols): rows of the table as float32. Raises ValueError for an id outside of it."""
    rows: NDArray[np.float32] = _core.embed(table, ids)
    return rows


def decode(data: NDArray[np.uint8], type_id: int, count: int) -> NDArray[np.float32]:
    """The `count` values of blocks of GGUF's type `type_id`, bit for bit as the `gguf` package gives them."""
    values: NDArray[np.float32] = _core.decode(data, type_id, count)
    return values
