"""Ops over our C++ kernels and NumPy: the default backend, and the one without PyTorch.

Weights are the checkpoint's own bytes, in their own type; what is mapped stays mapped. Arrays are float32. A row's
result is the same bits whatever else is in the batch, however its prompt was cut, with any number of threads.

A token is some 150 calls, so a call does nothing in Python that could be done when the model is loaded.

Shapes: T tokens, R rows whose logits are wanted, D model width, H query heads, K key/value heads, E head width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.errors import BackendError
from pronk.model.batch import AdapterRows, Batch, adapter_rows
from pronk.native import layers, matmul, runtime
from pronk.tensors.lazy import LazyTensor

Array = NDArray[np.float32]

_KV_DTYPES: dict[str, type[np.generic]] = {"f16": np.float16, "f32": np.float32, "q8_0": np.uint8}
_GROUP = 16  # tokens that lie together in a page
_LINE = 64  # bytes


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's part on one weight."""

    a: matmul.Matrix  # (rank, in)
    b: matmul.Matrix  # (out, rank)
    scale: float


@dataclass(frozen=True)
class Weight:
    matrix: matmul.Matrix  # (out, in)
    bias: Array | None  # (out)
    adapters: Mapping[int, Adapter] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """For each layer: pages of keys and of values, in the shapes that native.layers.attention names."""

    keys: tuple[NDArray[Any], ...]
    values: tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class CpuBatch:
    """A Batch, with what all layers share."""

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int32]
    query_starts: NDArray[np.int32]
    context_lens: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    logit_rows: NDArray[np.int32] | None  # None: all rows
    cos: Array  # (T, E/2)
    sin: Array
    adapters: tuple[AdapterRows, ...]


class CpuBackend:
    """Backend over `pronk.native`. `threads` is set for the whole process."""

    name = "cpu"

    def __init__(self, *, threads: int | None = None) -> None:
        self.beat = 0.0
        if threads is not None:
            runtime.set_threads(threads)

    # Crossing the border

    def weight(self, tensor: LazyTensor, bias: LazyTensor | None = None) -> Weight:
        return Weight(matrix=_matrix(tensor), bias=None if bias is None else bias.array())

    def adapter(self, a: LazyTensor, b: LazyTensor, scale: float) -> Adapter:
        return Adapter(_matrix(a), _matrix(b), scale)

    def adapted(self, weight: Weight, adapters: Mapping[int, Adapter]) -> Weight:
        return replace(weight, adapters=dict(adapters))

    def vector(self, tensor: LazyTensor) -> Array:
        return tensor.array()

    def cache(self, config: ModelConfig, blocks: int, block: int, kv_type: str) -> Cache:
        """Zeroed pages. The system gives their memory when they are first written to."""
        config.check_kv_type(kv_type)
        keys, values = _page_shapes(config, block, kv_type)
        dtype = _KV_DTYPES[kv_type]
        try:
            pages = [
                _aligned_zeros((blocks, *shape), dtype) for _ in range(config.n_layers) for shape in (keys, values)
            ]
        except MemoryError:
            raise BackendError(
                f"too little memory for the key/value cache of {blocks * block} tokens; choose a smaller --ctx"
            ) from None
        return Cache(keys=tuple(pages[::2]), values=tuple(pages[1::2]))

    def prepare(self, batch: Batch, config: ModelConfig, cache: Cache) -> CpuBatch:
        cos, sin = _rotary(batch.positions, config)
        return CpuBatch(
            tokens=batch.tokens,
            positions=batch.positions,
            slots=batch.slots,
            query_starts=batch.query_starts,
            context_lens=batch.context_lens,
            block_tables=batch.block_tables,
            logit_rows=None if len(batch.logit_rows) == len(batch.tokens) else batch.logit_rows,
            cos=cos,
            sin=sin,
            adapters=adapter_rows(batch),
        )

    def logits(self, x: Array) -> Array:
        return x

    # Ops

    def embed(self, table: Weight, ids: NDArray[np.int32]) -> Array:
        return matmul.embed(table.matrix, ids)

    def rms_norm(self, x: Array, gain: Array, eps: float) -> Array:
        return layers.rms_norm(x, gain, eps)

    def linear(self, x: Array, *weights: Weight, batch: CpuBatch) -> tuple[Array, ...]:
        self.beat = time.monotonic()
        results = matmul.linear(x, [weight.matrix for weight in weights])
        for y, weight in zip(results, weights, strict=True):
            if weight.bias is not None:
                y += weight.bias
        for used in batch.adapters:
            _add_adapter(used, x, weights, results, batch)
        return results

    def attention(self, q: Array, k: Array, v: Array, batch: CpuBatch, cache: Cache, layer: int) -> Array:
        return layers.attention(
            q, k, v, batch.cos, batch.sin, batch.positions, batch.slots, batch.query_starts, batch.context_lens,
            batch.block_tables, cache.keys[layer], cache.values[layer],
        )  # fmt: skip

    def silu_mul(self, gate: Array, up: Array) -> Array:
        return layers.silu_mul(gate, up)

    def add(self, x: Array, y: Array) -> Array:
        return layers.add(x, y)

    def take(self, x: Array, batch: CpuBatch) -> Array:
        return x if batch.logit_rows is None else x[batch.logit_rows]

    def reduce(self, x: Array) -> Array:
        return x


def _matrix(tensor: LazyTensor) -> matmul.Matrix:
    rows, columns = tensor.shape
    try:
        data = tensor.load()
    except MemoryError:  # only where the bytes are put together and not mapped
        raise BackendError(
            f"too little memory for {tensor.name}, {tensor.nbytes} bytes; convert to GGUF, which is mapped"
        ) from None
    return matmul.Matrix(data, tensor.type.id, rows, columns)


def _add_adapter(
    used: AdapterRows, x: Array, weights: tuple[Weight, ...], results: tuple[Array, ...], batch: CpuBatch
) -> None:
    """results += scale * B (A x) in the rows that use the adapter, by the kernels, whose rows know nothing of each
    other. All A share one reading of x."""
    carrying = [(y, weight.adapters[used.number]) for y, weight in zip(results, weights, strict=True)
                if used.number in weight.adapters]  # fmt: skip
    rows = used.rows if len(x) == len(batch.tokens) else used.logit_rows
    if not carrying or not len(rows):
        return
    inner = matmul.linear(x if len(rows) == len(x) else x[rows], [adapter.a for _, adapter in carrying])  # (n, rank)
    for (y, adapter), low in zip(carrying, inner, strict=True):
        low *= adapter.scale
        (added,) = matmul.linear(low, [adapter.b])  # (n, out)
        if len(rows) == len(y):
            y += added
        else:
            y[rows] += added


def _page_shapes(config: ModelConfig, block: int, kv_type: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of one page of keys, and of one of values."""
    if block % _GROUP:
        raise BackendError(f"pages of {block} tokens, expected a multiple of {_GROUP}")
    heads, width, groups = config.n_kv_heads, config.head_dim, block // _GROUP
    if kv_type == "q8_0":
        quantized = (heads, groups, _GROUP * width // 32 * 34)
        return quantized, quantized
    return (heads, groups, width, _GROUP), (heads, block, width)


def _aligned_zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """From the start of a cache line on: the kernels read whole lines."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(dtype).reshape(shape)


def _rotary(positions: NDArray[np.int32], config: ModelConfig) -> tuple[Array, Array]:
    """cos and sin (T, E/2) of position x inverse frequency, both float32, as Meta's code and transformers have it.

    Taken in float64: NumPy's float32 sine has other last bits on other processors, and rounding hides float64's.
    """
    angles = (positions.astype(np.float32)[:, None] * _frequencies(config)).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@lru_cache(maxsize=8)
def _frequencies(config: ModelConfig) -> Array:
    return np.array(config.inverse_frequencies(), np.float32)  # (E/2)
