"""Tensors in another float type, converted when they are loaded. What already has the type is passed on untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.errors import CheckpointError
from pronk.tensors import codec, types
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import TensorType

FLOATS = {"f32": types.F32, "f16": types.F16, "bf16": types.BF16}
_CHUNK = 1 << 20  # values converted at a time
_F16_END = 65520.0  # what this and all above is rounded to is infinity


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

    return replace(checkpoint, tensors={name: recast(t, chosen(t)) for name, t in checkpoint.tensors.items()})


def uniform(checkpoint: Checkpoint, type: TensorType) -> Checkpoint:
    """Every tensor in `type`, but for norms and biases that it cannot hold exactly: they stay what they are."""
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        exact = is_matrix(tensor) or _fits(tensor, type)
        tensors[name] = recast(tensor, type) if exact else tensor
    return replace(checkpoint, tensors=tensors)


def recast(tensor: LazyTensor, type: TensorType) -> LazyTensor:
    """The tensor in a float type. Loading it raises CheckpointError for a value that F16 would make infinite."""
    if tensor.type == type:
        return tensor
    return LazyTensor(tensor.name, tensor.shape, type, lambda: _recast_bytes(tensor, type))


def _recast_bytes(tensor: LazyTensor, type: TensorType) -> NDArray[np.uint8]:
    """Block by block of rows, so that float32 copies of a large tensor are never whole in memory."""
    source = tensor.load().reshape(-1, tensor.type.row_bytes(tensor.shape[-1]))  # (rows, bytes)
    result = np.empty((len(source), type.row_bytes(tensor.shape[-1])), np.uint8)
    step = max(1, _CHUNK // tensor.shape[-1])
    for start in range(0, len(source), step):
        values = codec.decode(source[start : start + step], tensor.type)
        if type == types.F16:
            _check_range(values, tensor.name)
        result[start : start + step] = codec.encode(values, type).reshape(-1, result.shape[1])
    return result.reshape(-1)


def _check_range(values: NDArray[np.float32], name: str) -> None:
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0.0))
    if largest >= _F16_END:
        raise CheckpointError(f"{name} has values up to {largest:.4g}, F16 ends at 65504; choose dtype bf16 or f32")


def _fits(tensor: LazyTensor, type: TensorType) -> bool:
    if tensor.type == type:
        return True
    values = tensor.array().reshape(-1)
    return np.array_equal(codec.decode(codec.encode(values, type), type), values, equal_nan=True)
