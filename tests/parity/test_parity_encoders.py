"""The error of the encoders against llama.cpp's, with the same importances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.tensors.codec import decode, encode
from pronk.tensors.types import TensorType
from support import llama_cpp_encoder
from support.quant_blocks import QUANTIZED

pytestmark = pytest.mark.skipif(not llama_cpp_encoder.available(), reason="llama-cpp-python is not installed")


def weighted_error(
    values: NDArray[np.float32], data: NDArray[np.uint8], kind: TensorType, weights: NDArray[np.float32]
) -> float:
    decoded = decode(data, kind).reshape(values.shape)
    return float((weights.astype(np.float64) * (values.astype(np.float64) - decoded) ** 2).sum())


@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
@pytest.mark.parametrize("tail", [4, 1000])
def test_no_worse_than_llama_cpp(kind: TensorType, tail: int) -> None:
    rng = np.random.default_rng(tail)
    values = (rng.standard_t(tail, (8, 1024)) * 0.02).astype(np.float32)
    weights = (rng.standard_normal(1024) ** 2 * np.exp(rng.standard_normal(1024)) + 0.01).astype(np.float32)
    for importance in (weights, None):
        if importance is None and kind.name in llama_cpp_encoder.NEEDS_IMPORTANCE:
            continue
        measure = np.ones_like(weights) if importance is None else importance
        ours = weighted_error(values, encode(values, kind, importance), kind, measure)
        theirs = weighted_error(values, llama_cpp_encoder.encode(values, kind, importance), kind, measure)
        assert ours <= 1.02 * theirs
