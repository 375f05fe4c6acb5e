"""config.json -> ModelConfig: the one door for Hugging Face's numbers; and generation_config.json.

Keys and defaults: transformers, `LlamaConfig`. Keys that other models share with Llama and that change its arithmetic
are refused by name; the many others (training, bookkeeping) are ignored.
"""

from __future__ import annotations

from pathlib import Path

from pronk.checkpoints.checkpoint import GenerationDefaults
from pronk.checkpoints.fields import Fields
from pronk.checkpoints.mapped import read_json
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError

_ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")  # the second is how the first conversions spelled it
# With these values they change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "quantization_config": (),
    "compression_config": (),
    "sliding_window": (0,),
    "partial_rotary_factor": (1,),
    "hidden_act": ("silu", "swish"),
    "rope_interleaved": (False,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "logits_scaling": (1,),
    "scale_emb": (1,),
    "scale_depth": (1,),
    "final_logit_softcapping": (0,),
    "attn_logit_softcapping": (0,),
    "qk_norm": (False,),
    "use_qk_norm": (False,),
    "clip_qkv": (),
    "num_experts": (0,),
    "num_local_experts": (0, 1),
    "no_rope_layers": (),
    "is_encoder_decoder": (False,),
    "vision_config": (),
}


def read_config(path: Path) -> ModelConfig:
    """Raises CheckpointError for anything but a plain Llama."""
    return parse_config(Fields(read_json(path), str(path)))


def parse_config(fields: Fields) -> ModelConfig:
    _check_architecture(fields)
    for key, neutral in _NEUTRAL.items():
        fields.refuse_unless(key, *neutral)
    dim, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    return ModelConfig(
        dim=dim,
        n_layers=fields.integer("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads", n_heads),
        head_dim=fields.head_dim("head_dim", dim, n_heads),
        ffn_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        context_length=fields.integer("max_position_embeddings", 2048),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(fields),
        rope_scaling=_rope_scaling(fields),
        tied_output=fields.flag("tie_word_embeddings", False),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
    )


def _check_architecture(fields: Fields) -> None:
    named = fields.values.get("architectures")
    kind = fields.text("model_type", "llama")
    if named is None:
        named = ["LlamaForCausalLM"] if fields.has("model_type") else []
    if not isinstance(named, list) or len(named) != 1 or named[0] not in _ARCHITECTURES or kind != "llama":
        found = ", ".join(map(str, named)) if isinstance(named, list) else str(named)
        raise CheckpointError(
            f"{fields.where} has the architecture {found[:80] or '(none)'} and the model_type {kind[:40]}, expected "
            "LlamaForCausalLM and llama: only Llama models are supported"
        )


def _rope_theta(fields: Fields) -> float:
    """At the top, or within rope_parameters since transformers 5."""
    return fields.child("rope_parameters").number("rope_theta", fields.number("rope_theta", 10000.0))


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    key = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    rope = fields.child(key)
    kind = rope.text("rope_type", rope.text("type", "default"))
    rope.refuse_unless("partial_rotary_factor", 1)
    if kind == "default":
        return None
    if kind == "linear":
        factor = rope.number("factor")
        return RopeScaling("linear", factor=factor) if factor != 1 else None
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
            original_context=rope.integer("original_max_position_embeddings"),
        )
    raise CheckpointError(
        f"{fields.where}: {key} has the type {kind[:40]!r}, expected default, linear or llama3; "
        "others are not supported"
    )


def read_generation(directory: Path) -> tuple[GenerationDefaults, frozenset[int]]:
    """What generation_config.json recommends, and the ids that end an answer, from it or else from config.json."""
    path = directory / "generation_config.json"
    fields = Fields(read_json(path), str(path)) if path.exists() else Fields({}, str(path))
    stops = _eos_ids(fields)
    if not stops:
        config = directory / "config.json"
        stops = _eos_ids(Fields(read_json(config), str(config)))
    if fields.values.get("do_sample") is False:
        return GenerationDefaults(temperature=0.0), stops
    return GenerationDefaults(
        temperature=fields.number("temperature") if fields.has("temperature") else None,
        top_p=fields.number("top_p") if fields.has("top_p") else None,
        top_k=fields.integer("top_k") if fields.has("top_k") else None,
    ), stops


def _eos_ids(fields: Fields) -> frozenset[int]:
    value = fields.values.get("eos_token_id")
    found = value if isinstance(value, list) else [] if value is None else [value]
    ids = [i for i in found if isinstance(i, int) and not isinstance(i, bool)]
    if len(ids) != len(found):
        raise fields.wrong("eos_token_id", "an id or a list of ids")
    return frozenset(i for i in ids if i >= 0)  # -1 means none
