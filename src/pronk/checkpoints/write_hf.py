"""Hugging Face's directory: config.json, generation_config.json, tokenizer files, sharded safetensors.

Written for transformers' `LlamaForCausalLM` and `AutoTokenizer`. Rope settings stand under their names of before
transformers 5 (rope_theta, rope_scaling), which every version reads. Safetensors: huggingface/safetensors README.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pronk.checkpoints import names, recast
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError, TokenizerError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from pronk.text import sentencepiece_file, tokenizer_json

Progress = Callable[[int], None]  # called with the bytes just written
Named = tuple[str, LazyTensor]  # by the name in the file

_DTYPES = {types.F32: "float32", types.F16: "float16", types.BF16: "bfloat16"}
# Taken over as they are from a Hugging Face directory: a tokenizer.json may say more than we understand.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


def write_hf(checkpoint: Checkpoint, directory: Path, shard_bytes: int, progress: Progress | None = None) -> None:
    """Fill an empty directory. Every tensor is of a float type already (`recast.uniform`).

    Raises CheckpointError or TokenizerError for what these files cannot say.
    """
    files = {"config.json": config_json(checkpoint), "generation_config.json": _generation_config(checkpoint)}
    contents = {name: _json(value) for name, value in files.items()} | _tokenizer_files(checkpoint)
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    tensors = [
        (names.to_hf(name), names.meta_to_hf_rows(tensor, checkpoint.config))
        for name, tensor in checkpoint.tensors.items()
    ]
    _write_weights(directory, _shards(tensors, shard_bytes), progress)


# --- JSON ---


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config),
        "tie_word_embeddings": config.tied_output,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
        "torch_dtype": _DTYPES[recast.common_float(checkpoint)],
        **_special_ids(checkpoint),
    }


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    scaling: RopeScaling | None = config.rope_scaling
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    if scaling.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    raise CheckpointError(
        "this model's rotary factors are a table that config.json cannot say, expected llama3 or linear scaling;"
        " convert to gguf instead"
    )


def _special_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoint.load_tokenizer()
    stops = sorted(tokenizer.stop_ids)
    ids: dict[str, Any] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": stops[0] if len(stops) == 1 else stops}
    if tokenizer.vocabulary and tokenizer.vocabulary.pad_id is not None:
        ids["pad_token_id"] = tokenizer.vocabulary.pad_id
    return {name: value for name, value in ids.items() if value not in (None, [])}


def _generation_config(checkpoint: Checkpoint) -> dict[str, Any]:
    defaults = checkpoint.defaults
    sampling = {"temperature": defaults.temperature, "top_p": defaults.top_p, "top_k": defaults.top_k}
    chosen = {name: value for name, value in sampling.items() if value is not None}
    return {
        "_from_model_config": not chosen,
        **_special_ids(checkpoint),
        **({"do_sample": True} if chosen else {}),
        **chosen,
    }


def _tokenizer_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    vocabulary = checkpoint.load_tokenizer().vocabulary
    if checkpoint.format == "hf":
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        return {name: (folder / name).read_bytes() for name in _TOKENIZER_FILES if (folder / name).is_file()}
    if vocabulary is None:
        raise TokenizerError("the tokenizer is a pipeline that only its own tokenizer.json can say, and there is none")
    config = tokenizer_json.tokenizer_config(vocabulary)
    special = {
        key: value for key, value in config.items() if key in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    if checkpoint.chat_template:
        config["chat_template"] = checkpoint.chat_template
    files = {
        "tokenizer.json": tokenizer_json.write(vocabulary).encode(),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json(special),
    }
    if vocabulary.model == "spm":
        files["tokenizer.model"] = sentencepiece_file.write(vocabulary)
    return files


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


# --- weights ---


def _shards(tensors: Sequence[Named], limit: int) -> list[list[Named]]:
    """Tensors in order, as many in a file as fit into `limit` bytes, at least one."""
    shards: list[list[Named]] = [[]]
    size = 0
    for name, tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append((name, tensor))
        size += tensor.nbytes
    return shards


def _write_weights(directory: Path, shards: Sequence[Sequence[Named]], progress: Progress | None) -> None:
    if len(shards) == 1:
        _write_safetensors(directory / "model.safetensors", shards[0], progress)
        return
    where: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_safetensors(directory / file, tensors, progress)
        where |= {name: file for name, _ in tensors}
    total = sum(tensor.nbytes for tensors in shards for _, tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_bytes(_json(index))


def _write_safetensors(path: Path, tensors: Sequence[Named], progress: Progress | None) -> None:
    """Eight bytes of length, a JSON header padded to a multiple of eight, and the tensors one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors:
        end = offset + tensor.nbytes
        header[name] = {"dtype": tensor.type.name, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors:
            data = tensor.load()
            file.write(data.data)
            if progress:
                progress(data.nbytes)
