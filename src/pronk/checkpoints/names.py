"""The one place that knows three dialects of tensor names, and two orders of rotary rows.

Canonical names are Meta's. Hugging Face's wq and wk (weights and biases) have each head's rotary pairs as two halves,
(i, i + E/2); Meta and GGUF have them interleaved, (2i, 2i + 1). A row is moved whole, so its type does not matter.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors.lazy import LazyTensor

# Meta: (Hugging Face `LlamaForCausalLM`, GGUF)
_TOP = {
    "tok_embeddings": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "output": ("lm_head", "output"),
}
_LAYER = {
    "attention.wq": ("self_attn.q_proj", "attn_q"),
    "attention.wk": ("self_attn.k_proj", "attn_k"),
    "attention.wv": ("self_attn.v_proj", "attn_v"),
    "attention.wo": ("self_attn.o_proj", "attn_output"),
    "feed_forward.w1": ("mlp.gate_proj", "ffn_gate"),
    "feed_forward.w2": ("mlp.down_proj", "ffn_down"),
    "feed_forward.w3": ("mlp.up_proj", "ffn_up"),
    "attention_norm": ("input_layernorm", "attn_norm"),
    "ffn_norm": ("post_attention_layernorm", "ffn_norm"),
}
_HF_TOP = {hf: meta for meta, (hf, _) in _TOP.items()}
_HF_LAYER = {hf: meta for meta, (hf, _) in _LAYER.items()}
_GGUF_TOP = {gguf: meta for meta, (_, gguf) in _TOP.items()}
_GGUF_LAYER = {gguf: meta for meta, (_, gguf) in _LAYER.items()}

_META_NAME = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")
_HF_NAME = re.compile(r"model\.layers\.(0|[1-9]\d{0,8})\.(.+)\.(weight|bias)")
_GGUF_NAME = re.compile(r"blk\.(0|[1-9]\d{0,8})\.(.+)\.(weight|bias)")
# Rotary tables that older writers stored: every reader computes them from the config instead.
_HF_TABLES = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
_GGUF_TABLES = re.compile(r"blk\.\d+\.attn_rot_embd(\.weight)?")
_META_TABLES = re.compile(r"rope\.freqs")


def from_hf(name: str) -> str | None:
    """Meta's name; None for a table that no model needs. Raises CheckpointError for any other name."""
    return None if _HF_TABLES.fullmatch(name) else _to_meta(name, _HF_NAME, _HF_TOP, _HF_LAYER)


def from_gguf(name: str) -> str | None:
    """Meta's name; None for a table that no model needs. Raises CheckpointError for any other name."""
    return None if _GGUF_TABLES.fullmatch(name) else _to_meta(name, _GGUF_NAME, _GGUF_TOP, _GGUF_LAYER)


def is_meta_table(name: str) -> bool:
    """Whether a Meta checkpoint's tensor is a table that no model needs."""
    return _META_TABLES.fullmatch(name) is not None


def to_hf(name: str) -> str:
    """layers.0.attention.wq.weight -> model.layers.0.self_attn.q_proj.weight"""
    return _from_meta(name, "model.layers", 0)


def to_gguf(name: str) -> str:
    """layers.0.attention.wq.weight -> blk.0.attn_q.weight"""
    return _from_meta(name, "blk", 1)


def _to_meta(name: str, pattern: re.Pattern[str], top: dict[str, str], layer: dict[str, str]) -> str:
    match = pattern.fullmatch(name)
    if match and match[2] in layer:
        return f"layers.{match[1]}.{layer[match[2]]}.{match[3]}"
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem in top:
        return f"{top[stem]}.weight"
    raise CheckpointError(
        f"the tensor {name[:200]!r} is not part of a Llama; leaving it out would change what the model computes"
    )


def _from_meta(name: str, prefix: str, dialect: int) -> str:
    match = _META_NAME.fullmatch(name)
    if match:
        return f"{prefix}.{match[1]}.{_LAYER[match[2]][dialect]}.{match[3]}"
    stem, _, kind = name.rpartition(".")
    return f"{_TOP[stem][dialect]}.{kind}"


def rotary_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads' rows a tensor holds whose order differs between the dialects; None where it does not."""
    if ".attention.wq." in name:
        return config.n_heads
    return config.n_kv_heads if ".attention.wk." in name else None


def interleaved(data: NDArray[np.uint8], heads: int, head_dim: int) -> NDArray[np.uint8]:
    """Bytes of H * E rows in HF's order -> a copy in Meta's: each head's (2, E/2) rows become (E/2, 2)."""
    return _rows_swapped(data, heads, 2, head_dim // 2)


def halved(data: NDArray[np.uint8], heads: int, head_dim: int) -> NDArray[np.uint8]:
    """Bytes of H * E rows in Meta's order -> a copy in HF's: each head's (E/2, 2) rows become (2, E/2)."""
    return _rows_swapped(data, heads, head_dim // 2, 2)


def _rows_swapped(data: NDArray[np.uint8], heads: int, outer: int, inner: int) -> NDArray[np.uint8]:
    row_bytes = data.size // (heads * outer * inner)
    rows = data.reshape(heads, outer, inner, row_bytes).swapaxes(1, 2)  # (H, inner, outer, bytes)
    return np.ascontiguousarray(rows).reshape(-1)


def hf_to_meta_rows(tensor: LazyTensor, config: ModelConfig) -> LazyTensor:
    """A tensor by its canonical name with HF's rows -> the same with Meta's rows; itself where they are equal."""
    heads = rotary_heads(tensor.name, config)
    if heads is None:
        return tensor
    return LazyTensor(
        tensor.name, tensor.shape, tensor.type, lambda: interleaved(tensor.load(), heads, config.head_dim)
    )


def meta_to_hf_rows(tensor: LazyTensor, config: ModelConfig) -> LazyTensor:
    """The inverse of `hf_to_meta_rows`; the tensor keeps its canonical name."""
    heads = rotary_heads(tensor.name, config)
    if heads is None:
        return tensor
    return LazyTensor(tensor.name, tensor.shape, tensor.type, lambda: halved(tensor.load(), heads, config.head_dim))
