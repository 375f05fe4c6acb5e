"""Values <-> the bytes of a tensor type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.native import matmul
from pronk.tensors import types
from pronk.tensors.types import TensorType


def decode(data: NDArray[np.uint8], kind: TensorType) -> NDArray[np.float32]:
    """The values of whole blocks: bytes of any shape -> flat float32, bit for bit what GGUF defines.

    Raises CheckpointError for a type that cannot be decoded, or bytes that are no whole number of blocks.
    """
    if kind not in types.COMPUTABLE:
        known = ", ".join(t.name for t in types.ALL if t in types.COMPUTABLE)
        raise CheckpointError(
            f"cannot decode {kind.name} tensors, expected one of {known}; convert the model to such a type"
        )
    if data.size % kind.bytes:
        raise CheckpointError(f"{data.size} bytes are no whole number of {kind.name} blocks of {kind.bytes} bytes")
    flat = np.ascontiguousarray(data).reshape(-1)
    return matmul.decode(flat, kind.id, flat.size // kind.bytes * kind.block)


def encode(array: NDArray[np.floating], kind: TensorType) -> NDArray[np.uint8]:
    """Values -> flat bytes of `kind`: F32, F16 and BF16, rounded to nearest, ties to even; Q8_0 as llama.cpp rounds it.

    The result may share the array's memory. A finite value too large for F16 becomes infinite. Raises CheckpointError
    for the other types.
    """
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        known = ", ".join(t.name for t in _ENCODERS)
        raise CheckpointError(f"cannot write {kind.name} tensors yet, expected one of {known}")
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    return encoder(values).reshape(-1)


def _encode_f32(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return values.view(np.uint8)


def _encode_f16(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint8)


def _encode_bf16(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16  # a carry into the exponent is what rounding up asks for
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    quiet = (bits >> 16) | 0x0040  # the cut-off bits may have been all that made it a NaN
    return np.where(nan, quiet, rounded).astype(np.uint16).view(np.uint8)


def _encode_q8_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of 32: an f16 scale, the largest magnitude over 127, and 32 int8 (ggml-quants.c, quantize_row_q8_0_ref).
    Halves are rounded away from zero."""
    if values.size % types.Q8_0.block:
        raise CheckpointError(f"{values.size} values do not divide into Q8_0's blocks of {types.Q8_0.block}")
    blocks = values.reshape(-1, types.Q8_0.block)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)  # (N, 1)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    whole = np.trunc(scaled)
    rounded = whole + np.trunc(2 * (scaled - whole))
    return np.concatenate((scale.astype(np.float16).view(np.uint8), rounded.astype(np.int8).view(np.uint8)), axis=1)


_ENCODERS: dict[TensorType, Callable[[NDArray[np.float32]], NDArray[np.uint8]]] = {
    types.F32: _encode_f32,
    types.F16: _encode_f16,
    types.BF16: _encode_bf16,
    types.Q8_0: _encode_q8_0,
}
