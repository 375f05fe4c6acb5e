"""Random weights in every type's blocks, and what they mean according to the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from pronk.tensors import types
from pronk.tensors.types import TensorType

COMPUTABLE = tuple(t for t in types.ALL if t in types.COMPUTABLE)
QUANTIZED = tuple(t for t in COMPUTABLE if t.block > 1)
# Where the fp16 numbers of a block lie. (IQ1_M's is in pieces and MXFP4's a power of two: see set_scales.)
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "IQ3_S": [0], "IQ3_XXS": [0], "IQ2_S": [0], "IQ2_XS": [0], "IQ2_XXS": [0],
    "IQ1_S": [0], "TQ1_0": [52], "TQ2_0": [64],
}  # fmt: skip


def set_scales(blocks: NDArray[np.uint8], kind: TensorType, rng: np.random.Generator) -> None:
    """Float scales of ordinary size in `blocks` (n, bytes of a block); the other bits stay."""
    if kind is types.MXFP4:
        blocks[:, 0] = rng.integers(115, 126, len(blocks))
        return
    for at in HALVES.get(kind.name, [None]):
        scales = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16).view(np.uint16)
        if at is None:  # IQ1_M: four bits on top of each of four words, the lowest first
            words = blocks[:, 48:56].copy().view(np.uint16)
            words &= 0x0FFF
            words |= (scales[:, None] >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
            blocks[:, 48:56] = words.view(np.uint8)
        else:
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)


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
    set_scales(blocks, kind, rng)
    return blocks.reshape(-1)


def dequantized(data: NDArray[np.uint8], kind: TensorType) -> NDArray[np.float32]:
    """The values of whole blocks, flat, by the `gguf` package."""
    quantization = gguf.GGMLQuantizationType(kind.id)
    if kind is types.F32:
        return data.view(np.float32).copy()
    if kind is types.F16:
        return data.view(np.float16).astype(np.float32)
    return np.asarray(gguf.quants.dequantize(data.reshape(1, -1), quantization), dtype=np.float32).reshape(-1)
