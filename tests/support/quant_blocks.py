"""Random weights in every type's blocks, and what they mean according to the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from pronk.tensors import types
from pronk.tensors.types import TensorType

COMPUTABLE = tuple(t for t in types.ALL if t in types.COMPUTABLE)
QUANTIZED = tuple(t for t in COMPUTABLE if t.block > 1)
# Where the fp16 numbers of a block lie.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def random_weights(kind: TensorType, rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    """(rows * row_bytes) bytes: every quantized value and scale is hit; float scales are of ordinary size."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, cols), dtype=np.float32)
    if kind is types.F32:
        return values.reshape(-1).view(np.uint8)
    if kind is types.F16:
        return values.astype(np.float16).reshape(-1).view(np.uint8)
    if kind is types.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).reshape(-1).view(np.uint8)
    blocks = rng.integers(0, 256, (rows * cols // kind.block, kind.bytes), dtype=np.uint8)
    for at in HALVES[kind.name]:
        scales = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def dequantized(data: NDArray[np.uint8], kind: TensorType) -> NDArray[np.float32]:
    """The values of whole blocks, flat, by the `gguf` package."""
    quantization = gguf.GGMLQuantizationType(kind.id)
    if kind is types.F32:
        return data.view(np.float32).copy()
    if kind is types.F16:
        return data.view(np.float16).astype(np.float32)
    return np.asarray(gguf.quants.dequantize(data.reshape(1, -1), quantization), dtype=np.float32).reshape(-1)
