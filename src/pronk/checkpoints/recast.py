"""Tensors in another float type, converted when they are loaded. What already has the type is passed on untouched.

Encoding rounds to nearest, ties to even, as torch and numpy do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import TensorType

FLOATS = {"f32": types.F32, "f16": types.F16, "bf16": types.BF16}
_CHUNK = 1 << 20  # values encoded at a time
_F16_MAX = 65504.0


def by_name(dtype: str) -> TensorType:
    try:
        return FLOATS[dtype.lower()]
    except KeyError:
        raise CheckpointError(f"cannot convert to dtype {dtype!r}, expected one of {', '.join(FLOATS)}") from None


def is_matrix(tensor: LazyTensor) -> bool:
    return len(tensor.shape) > 1


def common_float(checkpoint: Checkpoint) -> TensorType:
    """The float type that a format without quantization keeps a model in.

    That of its matrices where they share one, F32 where they differ; BF16 where any is quantized.
    """
    found = {tensor.type for tensor in checkpoint.tensors.values() if is_matrix(tensor)}
    if not found <= set(FLOATS.values()):
        return types.BF16
    return found.pop() if len(found) == 1 else types.F32


def for_gguf(checkpoint: Checkpoint, type: TensorType | None) -> Checkpoint:
    """Matrices in `type`, or each in its own; norms and biases in F32, as every GGUF reader expects."""

    def chosen(tensor: LazyTensor) -> TensorType:
        return (type or tensor.type) if is_matrix(tensor) else types.F32

    return _mapped(checkpoint, {name: recast(t, chosen(t)) for name, t in checkpoint.tensors.items()})


def uniform(checkpoint: Checkpoint, type: TensorType) -> Checkpoint:
    """Every tensor in `type`, but for norms and biases that it cannot hold exactly: they stay what they are."""
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        exact = is_matrix(tensor) or _fits(tensor, type)
        tensors[name] = recast(tensor, type) if exact else tensor
    return _mapped(checkpoint, tensors)


def recast(tensor: LazyTensor, type: TensorType) -> LazyTensor:
    if tensor.type == type:
        return tensor
    return LazyTensor(tensor.name, tensor.shape, type, lambda: encode(tensor.array(), type, tensor.name))


def encode(values: NDArray[np.float32], type: TensorType, name: str) -> NDArray[np.uint8]:
    """Bytes of a float type. Raises CheckpointError, naming the tensor, for a value that F16 would make infinite."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if type == types.F32:
        return flat.view(np.uint8)
    words = np.empty(len(flat), np.uint16)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        words[start : start + _CHUNK] = _bf16(part) if type == types.BF16 else _f16(part, name)
    return words.view(np.uint8)


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded)  # rounding could make a NaN an infinity


def _f16(values: NDArray[np.float32], name: str) -> NDArray[np.uint16]:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if (np.isinf(halves) & np.isfinite(values)).any():
        largest = float(np.abs(values[np.isfinite(values)]).max())
        raise CheckpointError(
            f"{name} has values up to {largest:.4g}, F16 holds {_F16_MAX:.0f}; choose dtype bf16 or f32"
        )
    return halves.view(np.uint16)


def _fits(tensor: LazyTensor, type: TensorType) -> bool:
    if tensor.type == type:
        return True
    values = tensor.array()
    try:
        data = encode(values, type, tensor.name)
    except CheckpointError:
        return False
    again = LazyTensor(tensor.name, tensor.shape, type, lambda: data).array()
    return np.array_equal(again, values, equal_nan=True)


def _mapped(checkpoint: Checkpoint, tensors: dict[str, LazyTensor]) -> Checkpoint:
    return replace(checkpoint, tensors=tensors)
