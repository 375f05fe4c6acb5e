"""How much memory a model needs to run: what `pronk show` prints before anybody loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pronk.config import ModelConfig
from pronk.errors import RequestError
from pronk.tensors.lazy import LazyTensor

KV_BLOCK = 32  # the pages' size here: a sequence's last page counts whole


@dataclass(frozen=True)
class MemoryEstimate:
    """All in bytes."""

    weights: int
    kv: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.activations


def memory_estimate(
    config: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    context: int,
    kv_type: str = "f16",
    sequences: int = 1,
    *,
    chunk: int = 512,
    bytes_per_weight: int | None = None,
) -> MemoryEstimate:
    """The need of `sequences` sequences of `context` tokens each, prompts read `chunk` tokens at a time.

    weights: the file's own bytes, as the cpu backend uses them; with `bytes_per_weight` the decoded size, as the torch
    backends hold them (2 in bfloat16). activations: the largest set of float32 arrays alive at once in a step of
    `chunk` rows, which is in the feed-forward or in the attention, and the logits of one row for each sequence.
    """
    if context < 1 or sequences < 1:
        raise RequestError(f"{sequences} sequences of {context} tokens, expected at least 1 of each")
    if bytes_per_weight is None:
        weights = sum(tensor.nbytes for tensor in tensors.values())
    else:
        weights = bytes_per_weight * config.parameter_count()
    held = sequences * -(-context // KV_BLOCK) * KV_BLOCK
    return MemoryEstimate(
        weights=weights,
        kv=held * config.kv_bytes_per_token(kv_type),
        activations=_activations(config, max(min(chunk, context), sequences), sequences),
    )


def _activations(config: ModelConfig, rows: int, sequences: int) -> int:
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    quantized = max(config.dim, config.ffn_dim) // 3  # 8 bits a value, and scales
    feed_forward = 2 * config.dim + 2 * config.ffn_dim + quantized  # x and its norm; gate and up
    attention = 2 * config.dim + 2 * q + 2 * kv  # x and its norm; q and the output; k and v
    return 4 * (rows * max(feed_forward, attention) + sequences * config.vocab_size)
