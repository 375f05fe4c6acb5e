"""params.json -> ModelConfig: the one door for Meta's numbers.

Keys, defaults and the feed-forward width: meta-llama/llama3 `llama/model.py` (`ModelArgs`, `FeedForward`) and
llama-models `models/llama3/args.py`. What params.json does not say, and how it is found out:

- The context: Llama 1 (eps 1e-6) 2048, Llama 2 4096, Code Llama (theta 1e6) 16384, Llama 3 (theta 5e5) 8192, with
  use_scaled_rope (3.1 and later) 131072. `max_seq_len` is believed where it is there.
- The factor of use_scaled_rope: 8, or 32 where the output is the embedding matrix, as in Llama 3.2 1B and 3B. Meta's
  own code uses 8 for all; Hugging Face's configs of the same models say 32. `rope_scaling_factor` is believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pronk.checkpoints.fields import Fields
from pronk.config import ModelConfig, RopeScaling

_READ = frozenset({
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "rope_scaling_factor", "rope_high_freq_factor", "max_seq_len", "head_dim",
    "hidden_dim",
})  # fmt: skip
_HARMLESS = frozenset({"max_batch_size", "model_parallel_size", "use_kv_cache", "flash", "name", "version"})
_OFF = (0, -1, False)  # how keys of other models say that they are not used


@dataclass(frozen=True)
class Found:
    """What the tensors say and params.json does not."""

    vocab_size: int
    tied_output: bool


def refuse_unknown(params: Fields) -> None:
    """Raises CheckpointError for a key that a plain Llama's params.json does not have: quantization_args, lora_args,
    vision_chunk_size, moe and the like."""
    for key in params.values:
        if key not in _READ and key not in _HARMLESS:
            params.refuse_unless(key, *_OFF)


def head_dim(params: Fields) -> int:
    return params.head_dim("head_dim", params.integer("dim"), params.integer("n_heads"))


def ffn_dim(params: Fields) -> int:
    """Two thirds of 4 * dim, times ffn_dim_multiplier, rounded up to a multiple of multiple_of."""
    if params.has("hidden_dim"):
        return params.integer("hidden_dim")
    hidden = int(8 * params.integer("dim") / 3)
    if params.has("ffn_dim_multiplier"):
        hidden = int(params.number("ffn_dim_multiplier") * hidden)
    multiple_of = params.integer("multiple_of", 256)
    if multiple_of < 1:
        raise params.wrong("multiple_of", "a number above 0")
    return -(-hidden // multiple_of) * multiple_of


def read_config(params: Fields, found: Found, n_kv_heads: int) -> ModelConfig:
    """Raises CheckpointError for numbers that make no Llama."""
    theta, eps = params.number("rope_theta", 10000.0), params.number("norm_eps", 1e-5)
    scaled = params.flag("use_scaled_rope", False)
    return ModelConfig(
        dim=params.integer("dim"),
        n_layers=params.integer("n_layers"),
        n_heads=params.integer("n_heads"),
        n_kv_heads=n_kv_heads,
        head_dim=head_dim(params),
        ffn_dim=ffn_dim(params),
        vocab_size=found.vocab_size,
        context_length=params.integer("max_seq_len", _context(theta, eps, scaled)),
        norm_eps=eps,
        rope_theta=theta,
        rope_scaling=_scaling(params, found.tied_output) if scaled else None,
        tied_output=found.tied_output,
    )


def _context(theta: float, eps: float, scaled: bool) -> int:
    if scaled:
        return 131072
    if theta >= 1e6:
        return 16384
    if theta > 10000:
        return 8192
    return 2048 if eps == 1e-6 else 4096


def _scaling(params: Fields, tied: bool) -> RopeScaling:
    return RopeScaling(
        "llama3",
        factor=params.number("rope_scaling_factor", 32.0 if tied else 8.0),
        low_freq_factor=1.0,
        high_freq_factor=params.number("rope_high_freq_factor", 4.0),
        original_context=8192,
    )
