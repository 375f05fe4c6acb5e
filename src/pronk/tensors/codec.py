"""Bytes of a tensor type to float32, and floats to the plain types. Quantized types are decoded in C++."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.types import TensorType


def decode(data: NDArray[np.uint8], type: TensorType) -> NDArray[np.float32]:
    """The values of whole blocks, shape (n,), in a new array. `data` is (bytes,). Raises CheckpointError for a type
    that this version cannot compute with, and for a length that is no whole number of blocks."""
    if type not in types.COMPUTABLE:
        raise CheckpointError(f"type {type} cannot be decoded by this version, expected one of {_names()}")
    blocks, rest = divmod(data.size, type.bytes)
    if rest:
        raise CheckpointError(f"{data.size} bytes of {type}, not a multiple of {type.bytes}; the data is cut short")
    from pronk.native import matmul

    return matmul.decode(data, type.id, blocks * type.block)


def encode(values: NDArray[np.floating], type: TensorType) -> NDArray[np.uint8]:
    """The bytes, shape (n,), of values as F32, F16 or BF16, rounded to nearest even. CheckpointError for others."""
    if type is types.F32:
        return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
    if type is types.F16:
        with np.errstate(over="ignore"):  # past 65504 is infinity, as in every other converter
            return np.ascontiguousarray(values, np.float32).reshape(-1).astype(np.float16).view(np.uint8)
    if type is types.BF16:
        return _to_bf16(np.ascontiguousarray(values, np.float32).reshape(-1)).view(np.uint8)
    raise CheckpointError(f"values cannot be written as {type} by this version, expected F32, F16 or BF16")


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40  # rounding could carry a NaN over into infinity
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def _names() -> str:
    return ", ".join(t.name for t in types.ALL if t in types.COMPUTABLE)
