"""Our own writer of GGUF v3 files, one tensor in memory at a time.

Layout and keys: the GGUF specification (ggml-org/ggml, docs/gguf.md). Numbers are little-endian. The header, with every
tensor's offset, is known before the first weight is read, so the file is written front to back.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from pronk.checkpoints import mixes, names
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.config import ModelConfig
from pronk.errors import TokenizerError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from pronk.text import gguf_vocabulary
from pronk.text.vocabulary import TokenKind, Vocabulary

ALIGNMENT = 32
_VERSION = 3
Progress = Callable[[int], None]  # called with the bytes just written

# Value types (docs/gguf.md, `gguf_metadata_value_type`).
_UINT8, _INT32, _UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 0, 5, 4, 6, 7, 8, 9


def write_gguf(checkpoint: Checkpoint, file: BinaryIO, progress: Progress | None = None) -> None:
    """Write config, tokenizer and tensors, each tensor in the type that it has.

    Raises TokenizerError for a tokenizer that is no plain vocabulary: GGUF holds nothing else.
    """
    tensors = contents(checkpoint)
    file.write(header(metadata(checkpoint), tensors))
    for _, tensor in tensors:
        data = tensor.load()
        file.write(data.data)
        _pad(file)
        if progress:
            progress(data.nbytes)


def contents(checkpoint: Checkpoint) -> list[tuple[str, LazyTensor]]:
    """The file's tensors by GGUF's names, in its order; each begins at a multiple of ALIGNMENT."""
    tensors = [(names.to_gguf(name), tensor) for name, tensor in checkpoint.tensors.items()]
    factors = _rope_factors(checkpoint.config)
    return tensors if factors is None else [*tensors, ("rope_freqs.weight", factors)]


def metadata(checkpoint: Checkpoint) -> dict[str, object]:
    """Every key of the file in its order: general, llama, tokenizer."""
    general: dict[str, object] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": checkpoint.name or checkpoint.path.stem,
        "general.alignment": ALIGNMENT,
        "general.file_type": mixes.file_type(checkpoint.tensors.values()),
        "general.quantization_version": 2,
    }
    defaults = checkpoint.defaults
    sampling = {"temp": defaults.temperature, "top_p": defaults.top_p, "top_k": defaults.top_k}
    general |= {f"general.sampling.{key}": value for key, value in sampling.items() if value is not None}
    return {**general, **_architecture(checkpoint.config), **_tokenizer(checkpoint)}


def _architecture(config: ModelConfig) -> dict[str, object]:
    keys: dict[str, object] = {
        "context_length": config.context_length,
        "embedding_length": config.dim,
        "block_count": config.n_layers,
        "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        "vocab_size": config.vocab_size,
    }
    if config.head_dim * config.n_heads != config.dim:
        keys["attention.key_length"] = config.head_dim
        keys["attention.value_length"] = config.head_dim
    if config.rope_scaling and config.rope_scaling.kind == "linear":
        keys["rope.scaling.type"] = "linear"
        keys["rope.scaling.factor"] = float(config.rope_scaling.factor)
    return {f"llama.{key}": value for key, value in keys.items()}


def _rope_factors(config: ModelConfig) -> LazyTensor | None:
    """llama3 scaling as GGUF has it: what each of the E/2 frequencies is divided by."""
    if config.rope_scaling is None or config.rope_scaling.kind == "linear":
        return None
    plain = replace(config, rope_scaling=None).inverse_frequencies()
    scaled = config.inverse_frequencies()
    factors = np.array([a / b for a, b in zip(plain, scaled, strict=True)], np.float32)  # (E/2)
    return LazyTensor("rope_freqs.weight", factors.shape, types.F32, lambda: factors.view(np.uint8))


def _tokenizer(checkpoint: Checkpoint) -> dict[str, object]:
    tokenizer = checkpoint.load_tokenizer()
    if tokenizer.vocabulary is None:
        raise TokenizerError(
            f"the tokenizer of {checkpoint.name or checkpoint.path} is a pipeline that GGUF cannot hold, "
            "expected plain BPE or sentencepiece; convert to hf, which keeps tokenizer.json as it is"
        )
    vocabulary = _padded(tokenizer.vocabulary, checkpoint.config.vocab_size)
    keys = gguf_vocabulary.write(vocabulary)
    if vocabulary.charsmap:
        keys["tokenizer.ggml.precompiled_charsmap"] = vocabulary.charsmap  # u8, where other arrays are i32
    _keep_stops(keys, vocabulary)
    if checkpoint.chat_template:
        keys["tokenizer.chat_template"] = checkpoint.chat_template
    return keys


def _keep_stops(keys: dict[str, object], vocabulary: Vocabulary) -> None:
    """GGUF has three roles that end an answer: eos, eot, eom. Stop ids beside eos take the roles that are free."""
    roles = [f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot", "eom")]
    left = sorted(vocabulary.stop_ids - {keys.get(role) for role in roles})
    keys.update(zip((role for role in roles if role not in keys), left, strict=False))


def _padded(vocabulary: Vocabulary, rows: int) -> Vocabulary:
    """A token for every row of the embedding, which llama.cpp insists on. Rows without one are training's padding."""
    missing = range(len(vocabulary.tokens), rows)
    return replace(
        vocabulary,
        tokens=vocabulary.tokens + tuple(b"[PAD%d]" % i for i in missing),
        kinds=vocabulary.kinds + (TokenKind.UNUSED,) * len(missing),
        scores=vocabulary.scores + (0.0,) * len(missing) if vocabulary.scores else (),
    )


# --- bytes ---


def header(keys: Mapping[str, object], tensors: Iterable[tuple[str, LazyTensor]]) -> bytes:
    """All that comes before the first tensor's bytes."""
    entries, offset = [], 0
    for name, tensor in tensors:
        dims = tensor.shape[::-1]  # GGUF counts the row's values first
        entries.append(_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, tensor.type.id, offset))
        offset += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
    pairs = [_string(key) + _value(value) for key, value in keys.items()]
    data = b"".join([b"GGUF", struct.pack("<IQQ", _VERSION, len(entries), len(pairs)), *pairs, *entries])
    return data + b"\0" * (-len(data) % ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """A value with its type in front. Whole numbers are u32, in arrays i32."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, bytes):
        return struct.pack("<IIQ", _ARRAY, _UINT8, len(value)) + value
    assert isinstance(value, list), f"no GGUF value is a {type(value).__name__}"
    first = value[0] if value else ""
    if isinstance(first, str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    code, kind = (_FLOAT32, "f") if isinstance(first, float) else (_INT32, "i")
    return struct.pack(f"<IIQ{len(value)}{kind}", _ARRAY, code, len(value), *value)


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
