"""The arithmetic of a model, and nothing else.

A ModelConfig comes from params.json, config.json, GGUF metadata or a llama2.c header; each of those has one door in
`pronk.checkpoints`. Llama 2, 3, 3.1, 3.2 and their relatives differ only in these numbers.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

from pronk.errors import CheckpointError, RequestError

KvType = Literal["f16", "f32", "q8_0"]  # what keys and values are kept as
KV_BYTES = {"f16": 2.0, "f32": 4.0, "q8_0": 34 / 32}  # of one of their values
_Q8_0_BLOCK = 32  # values along E that share a scale

_LARGE = 1e18  # what no sound config reaches, and float32 holds with room


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

    def __post_init__(self) -> None:
        for factor in (self.factor, *self.factors):
            if not 1 / _LARGE < factor < _LARGE:
                raise CheckpointError(f"a rope scaling factor is {factor}, expected a number above 0")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor < _LARGE:
            raise CheckpointError(
                f"rope scaling's low_freq_factor is {self.low_freq_factor} and its high_freq_factor "
                f"{self.high_freq_factor}, expected 0 < low < high"
            )
        if self.original_context < 1:
            raise CheckpointError(f"rope scaling's original context is {self.original_context}, expected at least 1")


# Far above any Llama's sizes: a config that claims more is damaged, and must not be believed when memory is asked for.
_CEILINGS = {"n_layers": 4096, "head_dim": 1 << 16}
_CEILING = 1 << 31


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
            most = _CEILINGS.get(name, _CEILING)
            if not 1 <= value <= most:
                raise CheckpointError(f"{name} is {value}, expected 1 to {most}; the model's config is damaged")
        for name in ("norm_eps", "rope_theta"):
            number = getattr(self, name)
            if not 0 < number < _LARGE:
                raise CheckpointError(f"{name} is {number}, expected a number above 0; the model's config is damaged")
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads};"
                " the model's config is damaged"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim is {self.head_dim}, expected an even number (rotary pairs)")
        if self.rope_theta < 1:
            raise CheckpointError(f"rope_theta is {self.rope_theta}, expected 1 or more; the model's config is damaged")
        scaling = self.rope_scaling
        if scaling and scaling.kind == "factors" and len(scaling.factors) != self.head_dim // 2:
            raise CheckpointError(
                f"rope_freqs has {len(scaling.factors)} factors, expected {self.head_dim // 2}"
                f" (head_dim {self.head_dim} / 2)"
            )

    def inverse_frequencies(self) -> tuple[float, ...]:
        """Radians a position for each of the E/2 rotary pairs, scaling applied.

        Every step is rounded to float32, as in the code that models are trained with (Meta's `precompute_freqs_cis`,
        transformers' `modeling_rope_utils`): past position 8000 a last bit here is a fourth digit in the logits.
        """
        theta, width = _f32(self.rope_theta), self.head_dim
        plain = [_f32(1 / _f32(theta ** _f32(i / width))) for i in range(0, width, 2)]
        return tuple(_scaled(self.rope_scaling, plain)) if self.rope_scaling else tuple(plain)

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

    def check_kv_type(self, kv_type: str) -> None:
        """Raises RequestError for a type of key/value cache that does not exist, or that does not fit the heads."""
        if kv_type not in KV_BYTES:
            raise RequestError(f"kv_type is {kv_type!r}, expected one of {', '.join(KV_BYTES)}")
        if kv_type == "q8_0" and self.head_dim % _Q8_0_BLOCK:
            raise RequestError(
                f"a q8_0 key/value cache needs heads of a multiple of {_Q8_0_BLOCK} values, this model's have"
                f" {self.head_dim}; choose --kv-type f16"
            )

    def kv_bytes_per_token(self, kv_type: str = "f16") -> int:
        """Of the key/value cache, all layers. Raises RequestError as check_kv_type does."""
        self.check_kv_type(kv_type)
        return int(2 * self.n_layers * self.n_kv_heads * self.head_dim * KV_BYTES[kv_type])


def _scaled(scaling: RopeScaling, frequencies: list[float]) -> list[float]:
    if scaling.kind == "factors":
        return [_f32(f / factor) for f, factor in zip(frequencies, scaling.factors, strict=True)]
    if scaling.kind == "linear":
        return [_f32(f / scaling.factor) for f in frequencies]
    return [_llama3_scaled(scaling, f) for f in frequencies]


def _llama3_scaled(scaling: RopeScaling, frequency: float) -> float:
    """Meta, llama_models/llama3/model.py `apply_scaling`. PyTorch divides a number by a tensor in two steps: the
    reciprocal first."""
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    wavelength = _f32(_f32(1 / frequency) * _f32(2 * math.pi))
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return _f32(frequency / scaling.factor)
    smooth = _f32(_f32(_f32(_f32(1 / wavelength) * original) - low) / (high - low))
    return _f32(_f32(_f32(_f32(1 - smooth) * frequency) / scaling.factor) + _f32(smooth * frequency))


def _f32(value: float) -> float:
    """Rounded to float32."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
