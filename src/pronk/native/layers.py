"""Everything of a layer that is not a matrix product: attention over the paged KV cache, norm, activation, residual.

Sizes: T tokens in the batch, S sequences, D model width, H query heads, K key/value heads, E head width. Arrays are
C-contiguous and float32 unless said otherwise; another shape or an index out of range raises ValueError, another type
TypeError.

A row of a result never depends on the other rows, on the chunks a prompt is cut into, or on the number of threads; and
all instruction sets give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.native import _core
from pronk.native import runtime as runtime  # PRONK_ISA and PRONK_THREADS are obeyed before the first kernel runs


def rms_norm(x: NDArray[np.float32], gain: NDArray[np.float32], eps: float) -> NDArray[np.float32]:
    """(T, D): x / sqrt(mean(x^2) + eps), then times the gain (D) (Zhang and Sennrich 2019)."""
    return _core.rms_norm(x, gain, eps)


def silu_mul(gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
    """silu(gate) * up, both of one shape, in place on `gate`, which is returned (SwiGLU: Shazeer 2020)."""
    _core.silu_mul(gate, up)
    return gate


def add(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """x + y, both of one shape, in place on `x`, which is returned."""
    _core.add(x, y)
    return x


def attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    positions: NDArray[np.int32],
    slots: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lens: NDArray[np.int32],
    block_tables: NDArray[np.int32],
    key_pages: NDArray[Any],
    value_pages: NDArray[Any],
) -> NDArray[np.float32]:
    """(T, H*E): causal attention within each sequence, H/K query heads to a key/value head, scaled by 1/sqrt(E).

    q (T, H*E), k and v (T, K*E) come unrotated and stay as they are; cos and sin (T, E/2) turn the interleaved pairs of
    q and k. The pages get this batch's rotated k and v at `slots` (T) first. The rest is as in
    `pronk.model.batch.Batch`: positions (T), query_starts (S+1), context_lens (S), block_tables (S, pages). E is even,
    a page's `block` a multiple of 16, and positions rise within a sequence.

    Pages are float16, float32, or uint8 for q8_0, where E is a multiple of 32. In floats keys are (blocks, K, block/16,
    E, 16), sixteen tokens side by side, and values (blocks, K, block, E). In q8_0 both are (blocks, K, block/16,
    16*E*34/32), int8 and scales as attention_pages.hpp lays them out; q is then rounded to int8 for the scores as well.
    """
    return _core.attention(
        q, k, v, cos, sin, positions, slots, query_starts, context_lens, block_tables, key_pages, value_pages
    )
