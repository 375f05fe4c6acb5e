"""Small random Llama models, written in each format by tools that are not ours.

The model is transformers' `LlamaForCausalLM`; save_pretrained writes the HF directory, the gguf package the GGUF file
(with llama.cpp's row order for wq and wk), torch.save Meta's shards. So both our readers and our forward pass are held
against other people's code. Tokenizers are trained by sentencepiece and tokenizers on a few made-up words.
"""

from __future__ import annotations

import functools
import io
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pronk.config import ModelConfig, RopeScaling
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor


@dataclass(frozen=True)
class Shape:
    """A model to make. `rope` is what transformers calls rope_parameters, without the theta."""

    dim: int = 64
    n_layers: int = 2
    n_heads: int = 8
    n_kv_heads: int = 2
    head_dim: int | None = None
    ffn_dim: int = 96
    vocab_size: int = 320
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    scaling: tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    @property
    def width(self) -> int:
        return self.head_dim or self.dim // self.n_heads

    @property
    def rope(self) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta, **dict(self.scaling)}


def llama3_scaling(original: int = 8192, factor: float = 8.0) -> tuple[tuple[str, Any], ...]:
    return (
        ("rope_type", "llama3"), ("factor", factor), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0),
        ("original_max_position_embeddings", original),
    )  # fmt: skip


def linear_scaling(factor: float) -> tuple[tuple[str, Any], ...]:
    return (("rope_type", "linear"), ("factor", factor))


def random_llama(shape: Shape, dtype: str = "float32") -> Any:
    """A LlamaForCausalLM in eval mode. Weights are large enough that attention is far from uniform and gains from 1."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.dim, num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads, head_dim=shape.width, intermediate_size=shape.ffn_dim,
        vocab_size=shape.vocab_size, max_position_embeddings=shape.context, rms_norm_eps=shape.eps,
        tie_word_embeddings=shape.tied, attention_bias=shape.attention_bias, mlp_bias=shape.mlp_bias,
        rope_parameters=shape.rope, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(shape.seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "norm" in name:
                value.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                value.copy_(0.5 * noise)
            elif "embed" in name:
                value.copy_(noise / (math.sqrt(shape.dim) if shape.tied else 1))
            else:
                value.copy_(1.5 * noise / math.sqrt(value.shape[1]))
    return model.to(getattr(torch, dtype))


def config_of(shape: Shape) -> ModelConfig:
    """The ModelConfig that a reader should find, without going through one."""
    scaling = dict(shape.scaling)
    kind = scaling.get("rope_type")
    rope = None
    if kind == "linear":
        rope = RopeScaling("linear", factor=scaling["factor"])
    elif kind == "llama3":
        rope = RopeScaling(
            "llama3", scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"],
            scaling["original_max_position_embeddings"],
        )  # fmt: skip
    return ModelConfig(
        dim=shape.dim, n_layers=shape.n_layers, n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads,
        head_dim=shape.width, ffn_dim=shape.ffn_dim, vocab_size=shape.vocab_size, context_length=shape.context,
        norm_eps=shape.eps, rope_theta=shape.theta, rope_scaling=rope, tied_output=shape.tied,
        attention_bias=shape.attention_bias, mlp_bias=shape.mlp_bias,
    )  # fmt: skip


# --- by canonical name, in memory ---

_META = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_GGUF = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def meta_state(model: Any, shape: Shape) -> dict[str, np.ndarray]:
    """The model's arrays by Meta's names, rotary pairs interleaved."""
    top = {
        "model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight",
        "lm_head.weight": "output.weight",
    }  # fmt: skip
    return _renamed(model, shape, top, "layers.{}.", _META)


def _renamed(
    model: Any, shape: Shape, top: Mapping[str, str], prefix: str, inner: Mapping[str, str]
) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        if name in top:
            if not (shape.tied and name == "lm_head.weight"):
                state[top[name]] = array
            continue
        _, _, layer, part, *rest = name.split(".")
        stem, kind = ".".join([part, *rest[:-1]]), rest[-1]
        if "q_proj" in stem or "k_proj" in stem:
            array = interleave(array, shape.n_heads if "q_proj" in stem else shape.n_kv_heads)
        state[prefix.format(layer) + f"{inner[stem]}.{kind}"] = array
    return state


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """HF's rotary halves -> Meta's and llama.cpp's interleaved pairs (convert_hf_to_gguf.py `LlamaModel.permute`)."""
    half = rows.shape[0] // heads // 2
    return np.ascontiguousarray(
        rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape), dtype=np.float32
    )


def lazy_tensors(state: Mapping[str, np.ndarray], type: types.TensorType = types.F32) -> dict[str, LazyTensor]:
    """Arrays as a reader would give them, without a file."""
    return {name: _lazy(name, array, type if array.ndim == 2 else types.F32) for name, array in state.items()}


def _lazy(name: str, array: np.ndarray, type: types.TensorType) -> LazyTensor:
    if type == types.F32:
        values: np.ndarray = array.astype(np.float32)
    elif type == types.F16:
        values = array.astype(np.float16)
    else:
        from gguf import GGMLQuantizationType, quants

        values = quants.quantize(array.astype(np.float32), GGMLQuantizationType(type.id))
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return LazyTensor(name, array.shape, type, lambda: data)


# --- files ---


def write_hf(model: Any, directory: Path) -> Path:
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(_byte_level_tokenizer(model.config.vocab_size), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}),
        encoding="utf-8",
    )
    return directory


def write_gguf(model: Any, shape: Shape, path: Path) -> Path:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(shape.vocab_size))
    kinds = [3 if pieces.is_control(i) else 2 if pieces.is_unknown(i) else 6 if pieces.is_byte(i) else 1
             for i in range(shape.vocab_size)]  # fmt: skip
    top = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }  # fmt: skip
    return write_gguf_file(
        path, shape, _renamed(model, shape, top, "blk.{}.", _GGUF),
        [pieces.id_to_piece(i).encode() for i in range(shape.vocab_size)],
        [pieces.get_score(i) for i in range(shape.vocab_size)], kinds,
    )  # fmt: skip


def write_gguf_file(
    path: Path,
    shape: Shape,
    state: Mapping[str, np.ndarray],
    tokens: list[bytes],
    scores: list[float],
    kinds: list[int],
) -> Path:
    """An F32 GGUF with a sentencepiece vocabulary, by the gguf package. `state` has GGUF's names."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.dim)
    writer.add_feed_forward_length(shape.ffn_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_rope_dimension_count(shape.width)
    writer.add_key_length(shape.width)
    writer.add_value_length(shape.width)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    scaling = dict(shape.scaling)
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _rope_factors(shape))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, array in state.items():
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _rope_factors(shape: Shape) -> np.ndarray:
    """What llama.cpp's converter puts into rope_freqs.weight (convert_hf_to_gguf.py, `generate_extra_tensors`)."""
    s = dict(shape.scaling)
    low = s["original_max_position_embeddings"] / s["low_freq_factor"]
    high = s["original_max_position_embeddings"] / s["high_freq_factor"]
    factors = []
    for i in range(0, shape.width, 2):
        wave = 2 * math.pi * shape.theta ** (i / shape.width)
        smooth = (s["original_max_position_embeddings"] / wave - s["low_freq_factor"]) / (
            s["high_freq_factor"] - s["low_freq_factor"]
        )
        middle = 1 / ((1 - smooth) / s["factor"] + smooth)
        factors.append(1.0 if wave < high else s["factor"] if wave > low else middle)
    return np.array(factors, np.float32)


def write_meta(model: Any, shape: Shape, directory: Path, shards: int = 1, dtype: str = "float32") -> Path:
    """Meta's directory: params.json, consolidated.NN.pth, a sentencepiece tokenizer.model."""
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    params = {
        "dim": shape.dim, "n_layers": shape.n_layers, "n_heads": shape.n_heads, "n_kv_heads": shape.n_kv_heads,
        "vocab_size": shape.vocab_size, "norm_eps": shape.eps, "rope_theta": shape.theta,
        "multiple_of": shape.ffn_dim, "ffn_dim_multiplier": 1.5 * shape.ffn_dim / (4 * shape.dim),
    }  # fmt: skip
    if shape.scaling:
        params["use_scaled_rope"] = True  # Meta's code knows one scaling: llama3_scaling()'s default
    (directory / "params.json").write_text(json.dumps(params))
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(shape.vocab_size))
    state = meta_state(model, shape)
    if shape.tied:
        state["output.weight"] = state["tok_embeddings.weight"]
    for shard in range(shards):
        part = {}
        for name, array in state.items():
            value = torch.from_numpy(_shard(name, array, shape, shard, shards)).clone()
            part[name] = value.to(getattr(torch, dtype))
        torch.save(part, directory / f"consolidated.{shard:02}.pth")
    return directory


def _shard(name: str, array: np.ndarray, shape: Shape, shard: int, shards: int) -> np.ndarray:
    """One rank's part of an array, as fairscale's layers cut them: by columns for wo, w2 and Llama 2's embeddings, by
    rows for the rest, key/value heads repeated where there are more ranks than heads, and norms whole."""
    if array.ndim == 1:
        return array
    if shards > shape.n_kv_heads and ("attention.wk" in name or "attention.wv" in name):
        return np.split(array, shape.n_kv_heads)[shard * shape.n_kv_heads // shards]
    llama_3 = shape.theta == 5e5
    by_columns = "attention.wo" in name or "w2" in name or (not llama_3 and "tok_embeddings" in name)
    return np.split(array, shards, axis=int(by_columns))[shard]


# --- tokenizers ---


@functools.lru_cache(maxsize=1)
def _words() -> tuple[str, ...]:
    choose = random.Random(7)
    syllables = ["la", "ma", "pro", "nk", "ti", "so", "be", "ru", "kin", "do"]
    return tuple("".join(choose.choices(syllables, k=choose.randint(2, 4))) for _ in range(600))


@functools.lru_cache(maxsize=4)
def sentencepiece_model(vocab_size: int) -> bytes:
    """A tokenizer.model of exactly this many pieces, with byte fallback, as Llama 2's is."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_words()), model_writer=out, vocab_size=vocab_size, model_type="bpe",
        byte_fallback=True, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return out.getvalue()


@functools.lru_cache(maxsize=4)
def _byte_level_tokenizer(vocab_size: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_words(), trainer)
    text: str = tokenizer.to_str()
    return text
