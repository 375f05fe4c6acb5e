"""The arithmetic of a model, and nothing else.

A ModelConfig comes from params.json, config.json, GGUF metadata or a llama2.c header; each of those has one door in
`pronk.checkpoints`. Llama 2, 3, 3.1, 3.2 and their relatives differ only in these numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pronk.errors import CheckpointError


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for a longer context.

    kind "linear": every frequency is divided by `factor`.
    kind "llama3": low frequencies are divided by `factor`, high ones kept, those between blended
        (Meta's llama3_1 `apply_scaling`).
    kind "factors": frequency i is divided by `factors[i]`, as GGUF's `rope_freqs.weight` has it.
    """

    kind: Literal["linear", "llama3", "factors"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """One Llama: D=dim, H=n_heads, K=n_kv_heads, E=head_dim, F=ffn_dim, V=vocab_size."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    context_length: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied_output: bool = False
    attention_bias: bool = False  # on wq, wk, wv and wo, as LlamaForCausalLM has it
    mlp_bias: bool = False  # on w1, w2 and w3

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size", "context_length"):
            value = getattr(self, name)
            if value < 1:
                raise CheckpointError(f"{name} is {value}, expected at least 1; the model's config is damaged")
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}; the model's config is damaged"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim is {self.head_dim}, expected an even number (rotary pairs)")
        scaling = self.rope_scaling
        if scaling and scaling.kind == "factors" and len(scaling.factors) != self.head_dim // 2:
            raise CheckpointError(
                f"rope_freqs has {len(scaling.factors)} factors, expected {self.head_dim // 2} (head_dim {self.head_dim} / 2)"
            )

    def inverse_frequencies(self) -> tuple[float, ...]:
        """Radians a position for each of the E/2 rotary pairs, scaling applied."""
        half = self.head_dim // 2
        plain = [self.rope_theta ** (-i / half) for i in range(half)]
        if self.rope_scaling is None:
            return tuple(plain)
        return tuple(f / s for f, s in zip(plain, _divisors(self.rope_scaling, plain), strict=True))

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a checkpoint of this model holds, by canonical (Meta) name, rows first."""
        d, f, v = self.dim, self.ffn_dim, self.vocab_size
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (v, d)}
        for i in range(self.n_layers):
            linear = {
                "attention.wq": (q, d), "attention.wk": (kv, d), "attention.wv": (kv, d), "attention.wo": (d, q),
                "feed_forward.w1": (f, d), "feed_forward.w2": (d, f), "feed_forward.w3": (f, d),
            }  # fmt: skip
            shapes[f"layers.{i}.attention_norm.weight"] = (d,)
            shapes[f"layers.{i}.ffn_norm.weight"] = (d,)
            for name, shape in linear.items():
                shapes[f"layers.{i}.{name}.weight"] = shape
                if self.attention_bias if name.startswith("attention") else self.mlp_bias:
                    shapes[f"layers.{i}.{name}.bias"] = shape[:1]
        shapes["norm.weight"] = (d,)
        if not self.tied_output:
            shapes["output.weight"] = (v, d)
        return shapes

    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> int:
        return int(2 * self.n_layers * self.n_kv_heads * self.head_dim * bytes_per_value)


def _divisors(scaling: RopeScaling, frequencies: list[float]) -> list[float]:
    if scaling.kind == "factors":
        return list(scaling.factors)
    if scaling.kind == "linear":
        return [scaling.factor] * len(frequencies)
    return [_llama3_divisor(scaling, 2 * math.pi / f) for f in frequencies]


def _llama3_divisor(scaling: RopeScaling, wavelength: float) -> float:
    """Meta, llama_models/llama3/model.py `apply_scaling`, as the number that a frequency is divided by."""
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    if wavelength < original / high:
        return 1.0
    if wavelength > original / low:
        return scaling.factor
    smooth = (original / wavelength - low) / (high - low)
    return 1.0 / ((1.0 - smooth) / scaling.factor + smooth)
