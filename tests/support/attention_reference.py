"""Attention over a paged cache in float64 NumPy, and random batches for it: what the kernels are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pronk.model.batch import Batch, make_batch
from pronk.tensors import codec, types

Q8_0 = np.uint8  # the element type of q8_0 pages
GROUP = 16  # tokens that lie side by side in a page


@dataclass
class Attention:
    """Sequences of random q, k, v, fed to a kernel in any chunks. H query heads, K key/value heads, E head width."""

    heads: int
    kv_heads: int
    width: int
    block: int
    dtype: type
    q: list[NDArray[np.float32]]  # for each sequence (length, H*E)
    k: list[NDArray[np.float32]]  # (length, K*E)
    v: list[NDArray[np.float32]]
    pages: list[list[int]]  # of each sequence
    key_pages: NDArray[np.generic]  # as pronk.native.layers.attention has them
    value_pages: NDArray[np.generic]

    @classmethod
    def random(
        cls,
        lengths: Sequence[int],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        width: int = 8,
        block: int = 32,
        dtype: type = np.float16,
        seed: int = 0,
        scale: float = 1.0,
    ) -> Attention:
        """Pages are scattered, and hold NaN wherever nothing has been written: whoever reads there is found out."""
        rng = np.random.default_rng(seed)

        def values(columns: int, size: float) -> list[NDArray[np.float32]]:
            return [(size * rng.standard_normal((n, columns))).astype(np.float32) for n in lengths]

        counts = [-(-n // block) for n in lengths]
        order = iter(rng.permutation(sum(counts) + 3))
        keys = values_ = (sum(counts) + 3, kv_heads, block // GROUP, GROUP * width // 32 * 34)
        if dtype is not Q8_0:
            keys, values_ = (*keys[:3], width, GROUP), (*keys[:2], block, width)
        unwritten = 255 if dtype is Q8_0 else np.nan  # 0xFFFF is a NaN among the scales
        return cls(
            heads=heads,
            kv_heads=kv_heads,
            width=width,
            block=block,
            dtype=dtype,
            q=values(heads * width, scale),
            k=values(kv_heads * width, scale),
            v=values(kv_heads * width, 1.0),
            pages=[[int(next(order)) for _ in range(count)] for count in counts],
            key_pages=np.full(keys, unwritten, dtype),
            value_pages=np.full(values_, unwritten, dtype),
        )

    def batch(self, spans: Sequence[tuple[int, int, int]]) -> Batch:
        """spans: (sequence, first, last) rows of this step."""
        return make_batch([([0] * (last - first), first, self.pages[s]) for s, first, last in spans], self.block)

    def arguments(self, spans: Sequence[tuple[int, int, int]]) -> tuple[NDArray[np.generic], ...]:
        """What pronk.native.layers.attention takes for one step."""
        batch = self.batch(spans)
        cos, sin = rotary(batch.positions, self.width)

        def rows(values: list[NDArray[np.float32]]) -> NDArray[np.float32]:
            return np.ascontiguousarray(np.concatenate([values[s][first:last] for s, first, last in spans]))

        return (
            rows(self.q),
            rows(self.k),
            rows(self.v),
            cos,
            sin,
            batch.positions,
            batch.slots,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            self.key_pages,
            self.value_pages,
        )

    def expected(self, s: int) -> NDArray[np.float64]:
        """(length, H*E) of sequence s, in float64 from the keys and values as the pages round them."""
        n = len(self.q[s])
        cos, sin = rotary(np.arange(n, dtype=np.int32), self.width)
        q = self.q[s].reshape(n, self.heads, self.width)
        if self.dtype is Q8_0:
            scale = np.float32(1) / np.sqrt(np.float32(self.width))
            q = rounded_query(rotated(q, cos, sin, np.float32) * scale)
        else:
            q = rotated(q, cos, sin) / np.sqrt(self.width)
        k = self.kept(rotated(self.k[s].reshape(n, self.kv_heads, self.width), cos, sin, np.float32))
        v = self.kept(self.v[s].reshape(n, self.kv_heads, self.width))
        group = self.heads // self.kv_heads
        hidden = np.triu(np.ones((n, n), bool), 1)
        out = np.empty((n, self.heads, self.width))
        for h in range(self.heads):
            scores = q[:, h] @ k[:, h // group].T
            scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out[:, h] = (weights / weights.sum(1, keepdims=True)) @ v[:, h // group]
        return out.reshape(n, -1)

    def kept(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """x as the cache rounds it."""
        if self.dtype is Q8_0:
            return codec.decode(codec.encode(x, types.Q8_0), types.Q8_0).reshape(x.shape).astype(np.float64)
        return x.astype(self.dtype).astype(np.float64)

    def written(self, s: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The keys and the values (length, K, E) that the pages of sequence s hold."""
        pages = [self.key_pages[self.pages[s]], self.value_pages[self.pages[s]]]
        if self.dtype is Q8_0:
            keys, values = (self._dequantized(p, keys=i == 0) for i, p in enumerate(pages))
        else:
            keys = pages[0].astype(np.float64).swapaxes(3, 4).reshape(pages[1].shape)
            values = pages[1].astype(np.float64)
        length = len(self.q[s])
        return tuple(a.transpose(0, 2, 1, 3).reshape(-1, *a.shape[1::2])[:length] for a in (keys, values))

    def _dequantized(self, pages: NDArray[np.uint8], keys: bool) -> NDArray[np.float64]:
        """(blocks, K, block, E)."""
        shape, cut = pages.shape[:3], GROUP * self.width
        scales = np.ascontiguousarray(pages[..., cut:]).view(np.float16).reshape(*shape, -1, GROUP)
        q = np.ascontiguousarray(pages[..., :cut]).view(np.int8)
        if keys:
            q = q.reshape(*shape, self.width // 4, GROUP, 4).swapaxes(3, 4)
        q = q.reshape(*shape, GROUP, self.width // 32, 32)
        values = q.astype(np.float64) * scales.swapaxes(3, 4)[..., None]
        return values.reshape(*shape[:2], self.block, self.width)


def rounded_query(q: NDArray[np.float32]) -> NDArray[np.float64]:
    """int8 in blocks of 32 and back, ties to even."""
    blocks = q.reshape(*q.shape[:-1], -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    values = np.rint(blocks * (np.float32(127) / largest)).astype(np.float64) * (largest / np.float32(127))
    return values.reshape(q.shape)


def rotary(positions: NDArray[np.int32], width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin (T, E/2) of the rotary embedding with theta 10000."""
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotated(
    x: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32], dtype: type = np.float64
) -> NDArray[np.floating]:
    """x (T, heads, E) with its interleaved pairs turned, computed in `dtype`.

    Keys are turned in float32, as the kernel does it: rounding to float16 would make a last digit's difference large.
    """
    pairs = x.astype(dtype).reshape(*x.shape[:2], -1, 2)
    c, s = cos.astype(dtype)[:, None], sin.astype(dtype)[:, None]
    even, odd = pairs[..., 0], pairs[..., 1]
    return np.stack([even * c - odd * s, even * s + odd * c], -1).reshape(x.shape)
