"""The error of the encoders against llama.cpp's, with the same importances: as it is written, and with each block of
both at its best scale.

Ours do not shrink (`stretch` in encode_fit.hpp), so what is written is above the least error that its levels allow; the
best scale shows how well the levels were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.tensors.codec import decode, encode
from pronk.tensors.types import TensorType
from support import llama_cpp_encoder
from support.quant_blocks import QUANTIZED

pytestmark = pytest.mark.skipif(not llama_cpp_encoder.available(), reason="llama-cpp-python is not installed")


def weighted_error(
    values: NDArray[np.float32],
    data: NDArray[np.uint8],
    kind: TensorType,
    weights: NDArray[np.float32],
    *,
    as_written: bool = False,
) -> float:
    """Over all blocks, each at its best scale or as it is written."""
    blocks = (-1, kind.block)
    x, y = values.astype(np.float64).reshape(blocks), decode(data, kind).astype(np.float64).reshape(blocks)
    w = np.broadcast_to(weights.astype(np.float64), values.shape).reshape(blocks)
    yy = (w * y * y).sum(-1, keepdims=True)
    best = np.ones_like(yy) if as_written else (w * x * y).sum(-1, keepdims=True) / np.where(yy > 0, yy, 1)
    return float((w * (x - best * y) ** 2).sum())


def cases(kind: TensorType, tail: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Values, and importances or none."""
    rng = np.random.default_rng(tail)
    values = (rng.standard_t(tail, (8, 1024)) * 0.02).astype(np.float32)
    weights = (rng.standard_normal(1024) ** 2 * np.exp(rng.standard_normal(1024)) + 0.01).astype(np.float32)
    yield values, weights
    if kind.name not in llama_cpp_encoder.NEEDS_IMPORTANCE:
        yield values, None


@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
@pytest.mark.parametrize("tail", [4, 1000])
def test_no_worse_than_llama_cpp(kind: TensorType, tail: int) -> None:
    for values, importance in cases(kind, tail):
        measure = np.ones(1024, np.float32) if importance is None else importance
        ours, theirs = encode(values, kind, importance), llama_cpp_encoder.encode(values, kind, importance)
        for as_written in (False, True):
            error = weighted_error(values, ours, kind, measure, as_written=as_written)
            assert error <= 1.02 * weighted_error(values, theirs, kind, measure, as_written=as_written)
