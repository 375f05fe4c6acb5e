"""Ops over PyTorch: NVIDIA GPUs, Apple's, and CPUs. In float64 it is the oracle that the tests hold the kernels
against.

Weights are decoded to `dtype` when they are loaded, whatever their type in the file: a quantized model takes the memory
of an unquantized one here. A step sends one integer array to the device and reads the logits back; nothing in between
waits for the device. Matrix products are PyTorch's, so a row's last bits may depend on the other rows of the batch (the
cpu backend's do not).

Run on CPUs so far. What CUDA and MPS do differently is chosen by the documentation, and not yet tested there.

Shapes: T tokens, S sequences, D model width, H query heads, K key/value heads, G = H/K, E head width, L keys attended
to.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.errors import BackendError
from pronk.model.batch import Batch, adapter_rows
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise BackendError("this backend needs PyTorch, which is not installed: pip install 'pronk[torch]'") from error

Tensor = Any  # torch.Tensor; the type checker does not read PyTorch

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_AS_STORED = {types.F32: torch.float32, types.F16: torch.float16, types.BF16: torch.bfloat16}


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's part on one weight."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scale: float


@dataclass(frozen=True)
class Weight:
    value: Tensor  # (out, in)
    bias: Tensor | None  # (out)
    adapters: Mapping[int, Adapter] = field(default_factory=dict)


@dataclass(frozen=True)
class UsedAdapter:
    """AdapterRows on the device."""

    number: int
    rows: Tensor
    logit_rows: Tensor


@dataclass(frozen=True)
class FloatPages:
    """One layer's keys, or its values."""

    data: Tensor  # (blocks, K, block, E)

    def write(self, pages: Tensor, offsets: Tensor, x: Tensor) -> None:
        """x (T, K, E) at `offsets` (T) of `pages` (T)."""
        self.data[pages, :, offsets] = x.to(self.data.dtype)

    def read(self, pages: Tensor, dtype: Any) -> Tensor:
        """(..., K, block, E) of pages (...)."""
        return self.data[pages].to(dtype)


@dataclass(frozen=True)
class QuantizedPages:
    """The same in q8_0, with the values that the cpu backend's pages have. They are widened when they are read."""

    data: Tensor  # (blocks, K, block, E/32, 32) int8
    scales: Tensor  # (blocks, K, block, E/32, 1) float16

    def write(self, pages: Tensor, offsets: Tensor, x: Tensor) -> None:
        blocks = x.to(torch.float32).unflatten(-1, (-1, 32))
        scales = blocks.abs().amax(-1, keepdim=True) / 127
        scaled = blocks * torch.where(scales == 0, scales, 1 / scales)
        whole = scaled.trunc()  # halves are rounded away from zero
        self.data[pages, :, offsets] = (whole + (2 * (scaled - whole)).trunc()).to(torch.int8)
        self.scales[pages, :, offsets] = scales.to(torch.float16)

    def read(self, pages: Tensor, dtype: Any) -> Tensor:
        wide = self.data[pages].to(torch.float32) * self.scales[pages].to(torch.float32)
        return wide.flatten(-2).to(dtype)


Pages = FloatPages | QuantizedPages


@dataclass(frozen=True)
class Cache:
    """Pages of `block` tokens: the keys and the values of each layer."""

    keys: tuple[Pages, ...]
    values: tuple[Pages, ...]
    block: int


@dataclass(frozen=True)
class Prompt:
    """The rows start..stop of one sequence that brings more than one token, and what they attend to."""

    start: int
    stop: int
    pages: Tensor  # (blocks)
    context: int  # L
    mask: Tensor | None  # (stop - start, L), true where attended; None: nothing was cached, plainly causal


@dataclass(frozen=True)
class Decoding:
    """All sequences that bring one token, padded to the longest."""

    rows: Tensor | None  # (S); None: every row of the batch, in order
    tables: Tensor  # (S, blocks)
    mask: Tensor  # (S, 1, 1, L), true where attended


@dataclass(frozen=True)
class TorchBatch:
    """A Batch on the device, with what all layers share."""

    tokens: Tensor  # (T)
    pages: Tensor  # (T) the page that a row's key and value go to,
    offsets: Tensor  # (T) and the place in it
    cos: Tensor  # (T, 1, E/2)
    sin: Tensor
    logit_rows: Tensor | None  # (R); None: all rows
    prompts: tuple[Prompt, ...]
    decoding: Decoding | None
    adapters: tuple[UsedAdapter, ...]


class TorchBackend:
    """Backend over PyTorch. device: "cpu", "cuda", "cuda:N" or "mps". dtype: a name in DTYPES; by default float32 on
    the CPU and bfloat16 elsewhere. In float64 the norms, the softmax and the cache are float64 too; the rotary angles
    stay float32, as the models were trained. `threads` sets PyTorch's number for the whole process."""

    def __init__(self, device: str = "cpu", *, dtype: str | None = None, threads: int | None = None) -> None:
        self.beat = 0.0
        self.device = _device(device)
        self.dtype = _dtype(dtype or ("float32" if self.device.type == "cpu" else "bfloat16"), self.device)
        self.wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.name = "torch" if self.device.type == "cpu" else device
        if threads is not None:
            torch.set_num_threads(threads)

    # Crossing the border

    def weight(self, tensor: LazyTensor, bias: LazyTensor | None = None) -> Weight:
        return Weight(
            value=self._load(tensor, self.dtype),
            bias=None if bias is None else self._load(bias, self.dtype),
        )

    def adapter(self, a: LazyTensor, b: LazyTensor, scale: float) -> Adapter:
        return Adapter(self._load(a, self.dtype), self._load(b, self.dtype), scale)

    def adapted(self, weight: Weight, adapters: Mapping[int, Adapter]) -> Weight:
        return replace(weight, adapters=dict(adapters))

    def vector(self, tensor: LazyTensor) -> Tensor:
        return self._load(tensor, self.wide)

    def cache(self, config: ModelConfig, blocks: int, block: int, kv_type: str) -> Cache:
        """Zeroed pages. "f16" is 16 bits a value: bfloat16 when the backend computes in that. The oracle's are
        float64."""
        config.check_kv_type(kv_type)
        shape = (blocks, config.n_kv_heads, block, config.head_dim)
        with self._out_of_memory(f"the key/value cache of {blocks * block} tokens"):
            pages = [self._zeroed_pages(shape, kv_type) for _ in range(2 * config.n_layers)]
        return Cache(keys=tuple(pages[::2]), values=tuple(pages[1::2]), block=block)

    def prepare(self, batch: Batch, config: ModelConfig, cache: Cache) -> TorchBatch:
        plan, used = _Plan(batch, cache.block), adapter_rows(batch)
        tokens, positions, slots, logit_rows, tables, single_rows, single_lens, single_tables, *rows = self._send(
            batch.tokens, batch.positions, batch.slots, batch.logit_rows, batch.block_tables[:, : plan.blocks],
            plan.single_rows, batch.context_lens[plan.singles], batch.block_tables[plan.singles, : plan.single_blocks],
            *(of.rows for of in used), *(of.logit_rows for of in used),
        )  # fmt: skip
        cos, sin = self._rotary(positions, config)
        return TorchBatch(
            tokens=tokens,
            pages=slots // cache.block,
            offsets=slots % cache.block,
            cos=cos,
            sin=sin,
            logit_rows=None if len(batch.logit_rows) == len(batch.tokens) else logit_rows,
            prompts=tuple(self._prompt(s, batch, positions, tables, cache.block) for s in plan.prompts),
            decoding=self._decoding(plan, single_rows, single_lens, single_tables, cache.block),
            adapters=tuple(UsedAdapter(of.number, rows[i], rows[len(used) + i]) for i, of in enumerate(used)),
        )

    def logits(self, x: Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = x.to("cpu", torch.float32).numpy()
        return result

    # Ops

    def embed(self, table: Weight, ids: Tensor) -> Tensor:
        return F.embedding(ids, table.value)

    def rms_norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x.to(self.wide), gain.shape, gain, eps).to(self.dtype)

    def linear(self, x: Tensor, *weights: Weight, batch: TorchBatch) -> tuple[Tensor, ...]:
        self.beat = time.monotonic()
        results = tuple(F.linear(x, weight.value, weight.bias) for weight in weights)
        for used in batch.adapters:
            rows = used.rows if len(x) == len(batch.tokens) else used.logit_rows
            for y, weight in zip(results, weights, strict=True):
                if adapter := weight.adapters.get(used.number):
                    y[rows] += F.linear(F.linear(x[rows], adapter.a) * adapter.scale, adapter.b)
        return results

    def attention(self, q: Tensor, k: Tensor, v: Tensor, batch: TorchBatch, cache: Cache, layer: int) -> Tensor:
        keys, values = cache.keys[layer], cache.values[layer]
        rows, heads = q.shape[0], (-1, 2 * batch.cos.shape[-1])
        q = self._rotate(q.unflatten(1, heads), batch)  # (T, H, E)
        k = self._rotate(k.unflatten(1, heads), batch)  # (T, K, E)
        keys.write(batch.pages, batch.offsets, k)
        values.write(batch.pages, batch.offsets, v.unflatten(1, heads))
        if batch.decoding and batch.decoding.rows is None:
            return self._decode(q, batch.decoding, keys, values)
        out = q.new_empty(rows, q.shape[1] * q.shape[2])
        if batch.decoding:
            out[batch.decoding.rows] = self._decode(q[batch.decoding.rows], batch.decoding, keys, values)
        for prompt in batch.prompts:
            out[prompt.start : prompt.stop] = self._prefill(q[prompt.start : prompt.stop], prompt, keys, values)
        return out

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x.add_(y)

    def take(self, x: Tensor, batch: TorchBatch) -> Tensor:
        return x if batch.logit_rows is None else x[batch.logit_rows]

    def reduce(self, x: Tensor) -> Tensor:
        return x

    # Attention

    def _decode(self, q: Tensor, decoding: Decoding, keys: Pages, values: Pages) -> Tensor:
        """(S, H, E) -> (S, H*E). The G query heads of a key/value head stand where SDPA has the query's tokens."""
        k = keys.read(decoding.tables, q.dtype).transpose(1, 2).flatten(2, 3)  # (S, K, L, E)
        v = values.read(decoding.tables, q.dtype).transpose(1, 2).flatten(2, 3)
        grouped = q.unflatten(1, (k.shape[1], -1))  # (S, K, G, E)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=decoding.mask).flatten(1)

    def _prefill(self, q: Tensor, prompt: Prompt, keys: Pages, values: Pages) -> Tensor:
        """(n, H, E) -> (n, H*E)."""
        k = keys.read(prompt.pages, q.dtype).transpose(0, 1).flatten(1, 2)[:, : prompt.context]  # (K, L, E)
        v = values.read(prompt.pages, q.dtype).transpose(0, 1).flatten(1, 2)[:, : prompt.context]
        attended = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k[None], v[None],
            attn_mask=prompt.mask, is_causal=prompt.mask is None, enable_gqa=True,
        )  # (1, H, n, E)  # fmt: skip
        return attended[0].transpose(0, 1).flatten(1)

    def _rotate(self, x: Tensor, batch: TorchBatch) -> Tensor:
        """(T, heads, E): each interleaved pair turned by its angle."""
        a, b = x[..., 0::2].to(self.wide), x[..., 1::2].to(self.wide)
        return torch.stack((a * batch.cos - b * batch.sin, a * batch.sin + b * batch.cos), -1).flatten(-2).to(x.dtype)

    def _rotary(self, positions: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
        angles = positions.to(torch.float32)[:, None] * _frequencies(config, self.device)  # (T, E/2)
        angles = angles.to(self.wide)[:, None]  # (T, 1, E/2)
        return angles.cos(), angles.sin()

    def _prompt(self, s: int, batch: Batch, positions: Tensor, tables: Tensor, block: int) -> Prompt:
        start, stop, context = int(batch.query_starts[s]), int(batch.query_starts[s + 1]), int(batch.context_lens[s])
        mask = None
        if context > stop - start:
            mask = torch.arange(context, device=self.device) <= positions[start:stop, None]
        return Prompt(start, stop, tables[s, : _pages(context, block)], context, mask)

    def _decoding(self, plan: _Plan, rows: Tensor, lens: Tensor, tables: Tensor, block: int) -> Decoding | None:
        if not len(plan.singles):
            return None
        keys = torch.arange(plan.single_blocks * block, device=self.device)
        mask = (keys < lens[:, None])[:, None, None]
        return Decoding(rows=rows if plan.prompts else None, tables=tables, mask=mask)

    # Memory

    def _load(self, tensor: LazyTensor, dtype: Any) -> Tensor:
        stored = _AS_STORED.get(tensor.type)
        with self._out_of_memory(tensor.name):
            host = torch.from_numpy(tensor.array()) if stored is None else _view(tensor.load(), stored)
            return host.reshape(tensor.shape).to(self.device, dtype)

    def _send(self, *arrays: NDArray[np.int32]) -> list[Tensor]:
        """All arrays in one transfer. Indices are 64 bits wide, as PyTorch likes them."""
        packed = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]).astype(np.int64))
        parts = packed.to(self.device, non_blocking=True).split([array.size for array in arrays])
        return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]

    def _zeroed_pages(self, shape: tuple[int, ...], kv_type: str) -> Pages:
        if kv_type != "q8_0":
            return FloatPages(torch.zeros(shape, dtype=self._cache_dtype(kv_type), device=self.device))
        blocks = (*shape[:-1], shape[-1] // 32)
        return QuantizedPages(
            data=torch.zeros((*blocks, 32), dtype=torch.int8, device=self.device),
            scales=torch.zeros((*blocks, 1), dtype=torch.float16, device=self.device),
        )

    def _cache_dtype(self, kv_type: str) -> Any:
        if self.dtype == torch.float64:
            return torch.float64
        if kv_type == "f32":
            return torch.float32
        return self.dtype if self.dtype.itemsize == 2 else torch.float16

    @contextmanager
    def _out_of_memory(self, what: str) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._too_little(what) from error
        except RuntimeError as error:
            if "memory" not in str(error):  # what PyTorch's CPU and MPS allocators raise
                raise
            raise self._too_little(what) from error

    def _too_little(self, what: str) -> BackendError:
        return BackendError(
            f"{self.device} has too little memory for {what}; choose a smaller --ctx or model, or --backend cpu, where"
            " quantized weights stay so"
        )


class _Plan:
    """Which sequences bring one token and which bring more; worked out on the host, where the batch is."""

    def __init__(self, batch: Batch, block: int) -> None:
        counts = np.diff(batch.query_starts)
        self.prompts: list[int] = np.flatnonzero(counts > 1).tolist()
        self.singles = np.flatnonzero(counts == 1)
        self.single_rows = batch.query_starts[self.singles]
        self.blocks = _pages(int(batch.context_lens.max(initial=0)), block)
        self.single_blocks = _pages(int(batch.context_lens[self.singles].max(initial=0)), block)


def _pages(tokens: int, block: int) -> int:
    return -(-tokens // block)


def _view(data: NDArray[np.uint8], dtype: Any) -> Tensor:
    """The bytes as they lie, where they are: a mapped file's pages are not copied. Nobody writes to a weight."""
    if data.ctypes.data % dtype.itemsize:
        data = data.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.frombuffer(data, dtype=dtype)


@lru_cache(maxsize=8)
def _frequencies(config: ModelConfig, device: Any) -> Tensor:
    return torch.tensor(config.inverse_frequencies(), dtype=torch.float32, device=device)  # (E/2)


def _device(name: str) -> Any:
    kind, _, index = name.partition(":")
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if here.get(kind, 0) and (not index or (index.isdecimal() and int(index) < here[kind])):
        return torch.device(name)
    names = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in here.items() if count)
    raise BackendError(f"no device {name!r} for PyTorch {torch.__version__} on this machine, which has: {names}")


def _dtype(name: str, device: Any) -> Any:
    if name not in DTYPES:
        raise BackendError(f"unknown dtype {name!r}, expected one of {', '.join(DTYPES)}")
    if name == "float64" and device.type == "mps":
        raise BackendError("mps has no float64, expected float32, float16 or bfloat16")
    return DTYPES[name]
