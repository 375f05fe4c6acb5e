"""GGUF metadata -> ModelConfig: the one door for a GGUF file's numbers.

Keys: the GGUF specification (ggml-org/ggml, docs/gguf.md) and llama.cpp's `llm_load_hparams`. Every `llama.*` key is
either read here, known to be harmless, or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pronk.checkpoints.fields import Fields, shortest
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

_READ = frozenset({
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
})  # fmt: skip
# Said about the model, but not used by a forward pass over it.
_HARMLESS = frozenset({
    "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned", "pooling_type",
    "decoder_start_token_id", "attention.layer_norm_epsilon",
})  # fmt: skip
# Other kinds of model share the key space. With these values they change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "attention.scale": (0,),
    "rope.scaling.attn_factor": (0, 1),
}


def llama_fields(metadata: Mapping[str, object], where: str) -> Fields:
    """The `llama.*` keys without their prefix. Raises CheckpointError for an architecture, a key or a value that is not
    a plain Llama's."""
    _check_architecture(Fields(metadata, where))
    prefix = "llama."
    keys = {key.removeprefix(prefix): _single(metadata[key]) for key in metadata if key.startswith(prefix)}
    fields = Fields(keys, f"{where}, llama.*")
    _refuse_unknown(fields)
    return fields


def read_config(fields: Fields, tensors: Mapping[str, LazyTensor], names: frozenset[str]) -> ModelConfig:
    """From `llama_fields`, and what only the tensors say. `tensors` are by the file's own names (rope_freqs, the
    vocabulary's size), `names` are the canonical ones (biases, tied output). Raises CheckpointError.
    """
    dim, n_heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = fields.head_dim("attention.key_length", dim, n_heads)
    fields.refuse_unless("attention.value_length", head_dim)
    fields.refuse_unless("rope.dimension_count", head_dim)
    config = ModelConfig(
        dim=dim,
        n_layers=fields.integer("block_count"),
        n_heads=n_heads,
        n_kv_heads=fields.integer("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        ffn_dim=fields.integer("feed_forward_length"),
        vocab_size=_vocab_size(fields, tensors),
        context_length=fields.integer("context_length"),
        norm_eps=shortest(fields.number("attention.layer_norm_rms_epsilon")),
        rope_theta=shortest(fields.number("rope.freq_base", 10000.0)),
        tied_output="output.weight" not in names,
        attention_bias=any(".attention." in name and name.endswith(".bias") for name in names),
        mlp_bias=any(".feed_forward." in name and name.endswith(".bias") for name in names),
    )
    return _with_rope_scaling(config, fields, tensors)


def _check_architecture(fields: Fields) -> None:
    kind = fields.text("general.type", "model")
    if kind != "model":
        raise CheckpointError(f"{fields.where} holds a GGUF {kind!r:.60}, expected a model")
    architecture = fields.text("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"{fields.where} has the architecture {architecture!r:.60}, expected llama: only Llama models are supported"
        )


def _refuse_unknown(fields: Fields) -> None:
    for key in fields.values:
        if key in _NEUTRAL:
            fields.refuse_unless(key, *_NEUTRAL[key])
        elif key not in _READ and key not in _HARMLESS:
            raise fields.unsupported(key)


def _single(value: object) -> object:
    """A value for each layer, all of them equal, as the one value."""
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        return value[0]
    return value


def _vocab_size(fields: Fields, tensors: Mapping[str, LazyTensor]) -> int:
    """The embedding's rows: llama.vocab_size is often left as it was when tokens were added."""
    embedding = tensors.get("token_embd.weight")
    return embedding.shape[0] if embedding else fields.integer("vocab_size")


def _with_rope_scaling(config: ModelConfig, fields: Fields, tensors: Mapping[str, LazyTensor]) -> ModelConfig:
    kind = fields.text("rope.scaling.type", "linear")
    fields.refuse_unless("rope.scaling.type", "none", "linear")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    linear = kind == "linear" and factor not in (0.0, 1.0)
    factors = tensors.get("rope_freqs.weight")
    if factors is None:
        return replace(config, rope_scaling=RopeScaling("linear", factor=shortest(factor))) if linear else config
    if linear:
        raise CheckpointError(
            f"{fields.where}: rope.scaling.factor is {factor} and there is a rope_freqs.weight; "
            "expected one kind of rope scaling"
        )
    if factors.type != types.F32 or factors.shape != (config.head_dim // 2,):
        raise CheckpointError(
            f"{fields.where}: rope_freqs.weight is {factors.type} {factors.shape}, "
            f"expected F32 ({config.head_dim // 2},)"
        )
    return _with_factors(config, [shortest(float(v)) for v in factors.load().view("<f4")])


def _with_factors(config: ModelConfig, factors: list[float]) -> ModelConfig:
    """rope_freqs.weight as the llama3 scaling that produces it, where one does: other formats can say that too."""
    if all(factor == 1.0 for factor in factors):
        return config
    exact = replace(config, rope_scaling=RopeScaling("factors", factors=tuple(factors)))
    wanted = exact.inverse_frequencies()
    for context in (8192, *(1 << i for i in range(5, 21))):
        llama3 = replace(config, rope_scaling=RopeScaling("llama3", max(factors), 1.0, 4.0, context))
        if np.allclose(llama3.inverse_frequencies(), wanted, rtol=1e-5, atol=0):
            return llama3
    return exact
