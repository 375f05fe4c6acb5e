"""Values -> blocks of GGUF's types, searched for the levels of least weighted squared error.

The bytes do not depend on the number of threads, nor on the instruction set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pronk.native import _core
from pronk.native import runtime as runtime  # PRONK_ISA and PRONK_THREADS are obeyed before the first kernel runs


def encode(
    values: NDArray[np.float32],
    type_id: int,
    importance: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
) -> None:
    """values (R, C) as blocks of GGUF's type `type_id`, row by row, into `out`, which must have just their bytes.

    `importance` (C) weighs the squared error of each column; zero is allowed, less is not. Raises ValueError for a type
    without an encoder, rows that are no whole blocks, and a value that is infinite or NaN (`out` is then of no use).
    """
    _core.encode(values, type_id, importance, out)
