"""Values <-> the bytes of a tensor type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.native import matmul, quantize
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


def encode(
    array: NDArray[np.floating], kind: TensorType, importance: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """Values (..., columns) -> flat bytes of `kind`: F32, F16 and BF16 rounded to nearest, ties to even; Q8_0 as
    llama.cpp rounds it; blocks of every other type with the levels of least squared error found, at a scale that keeps
    their length (least squares would shrink them). `importance` (columns), not negative, weighs each column's squared
    error; the float types and Q8_0 have no choice that it could sway.

    The result may share the array's memory. A finite value too large for F16 becomes infinite. Raises CheckpointError
    for a type that cannot be written, columns that are no whole blocks, and, in a quantized type, a value that is
    infinite or NaN.
    """
    values = np.ascontiguousarray(array, dtype=np.float32)
    if encoder := _ENCODERS.get(kind):
        return encoder(values.reshape(-1)).reshape(-1)
    if kind not in ENCODABLE:
        known = ", ".join(t.name for t in types.ALL if t in ENCODABLE)
        raise CheckpointError(f"cannot write {kind.name} tensors yet, expected one of {known}")
    columns = values.shape[-1] if values.ndim else 1
    if columns % kind.block:
        raise CheckpointError(f"{columns} values do not divide into {kind.name}'s blocks of {kind.block}")
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    result = np.empty(values.size // kind.block * kind.bytes, np.uint8)
    try:
        quantize.encode(values.reshape(-1, columns), kind.id, weights, result)
    except ValueError as error:
        raise CheckpointError(f"cannot write a tensor as {kind.name}: {error}") from None
    return result


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


_ENCODERS: dict[TensorType, Callable[[NDArray[np.float32]], NDArray[np.uint8]]] = {
    types.F32: _encode_f32,
    types.F16: _encode_f16,
    types.BF16: _encode_bf16,
}
# The types that this version writes.
ENCODABLE = types.COMPUTABLE
