"""Meta's directory: params.json, consolidated.NN.pth for any number of shards, tokenizer.model, checklist.chk.

Sources: meta-llama/llama3 `llama/model.py` (params and the parallel layers that cut the weights), llama `download.sh`
(checklist.chk is md5sum's format). What params.json cannot say is refused, with the reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import meta_config
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.fields import Fields
from pronk.checkpoints.write_torch import TorchFile
from pronk.config import ModelConfig
from pronk.errors import CheckpointError, TokenizerError
from pronk.tensors.lazy import LazyTensor
from pronk.text import sentencepiece_file, tiktoken_file
from pronk.text.vocabulary import Vocabulary

Progress = Callable[[int], None]  # called with the bytes just written

# Meta's own pairs of (multiple_of, ffn_dim_multiplier), in an order in which each of Meta's models finds its own.
_FFN_PAIRS = ((256, None), (256, 1.5), (4096, 1.3), (1024, 1.3), (4096, 1.2))


def write_meta(checkpoint: Checkpoint, directory: Path, shards: int, progress: Progress | None = None) -> None:
    """Fill an empty directory. Every tensor is of a float type already (`recast.uniform`).

    Raises CheckpointError for a model that Meta's files cannot say or that does not divide into so many shards.
    """
    vocabulary = _vocabulary(checkpoint)
    check(checkpoint.config, shards, vocabulary)
    (directory / "params.json").write_text(json.dumps(params(checkpoint.config, shards), indent=2) + "\n")
    (directory / "tokenizer.model").write_bytes(_tokenizer_model(vocabulary))
    _write_shards(checkpoint, directory, shards, embeddings_by_rows=vocabulary.model == "bpe", progress=progress)
    lines = [f"{_md5(file)}  {file.name}\n" for file in sorted(directory.iterdir())]
    (directory / "checklist.chk").write_text("".join(lines))


def params(config: ModelConfig, shards: int) -> dict[str, Any]:
    """params.json. With more shards than key/value heads they are repeated, and counted so, as in Meta's 405B MP16.

    Numbers that a reader assumes for Meta's own models are left out, because Meta's code takes no other keys: a context
    or a scaling factor is there only where it is another.
    """
    multiple_of, multiplier = ffn_numbers(config.dim, config.ffn_dim)
    values: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": max(config.n_kv_heads, shards),
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_of,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
    }
    if multiplier is not None:
        values["ffn_dim_multiplier"] = multiplier
    scaling = config.rope_scaling
    if scaling:
        values["use_scaled_rope"] = True
    assumed = _read(values, config)
    if config.context_length != assumed.context_length:
        values["max_seq_len"] = config.context_length
    if scaling and assumed.rope_scaling and scaling.factor != assumed.rope_scaling.factor:
        values["rope_scaling_factor"] = scaling.factor
    if scaling and assumed.rope_scaling and scaling.high_freq_factor != assumed.rope_scaling.high_freq_factor:
        values["rope_high_freq_factor"] = scaling.high_freq_factor
    found = _read(values, config)
    assert found == config, f"{values} is read as {found}, not {config}"
    return values


def _read(values: dict[str, Any], config: ModelConfig) -> ModelConfig:
    found = meta_config.Found(config.vocab_size, config.tied_output)
    return meta_config.read_config(Fields(values, "params.json"), found, config.n_kv_heads)


def ffn_numbers(dim: int, ffn_dim: int) -> tuple[int, float | None]:
    """multiple_of and ffn_dim_multiplier from which Meta's formula makes `ffn_dim`."""
    for multiple_of, multiplier in _FFN_PAIRS:
        if meta_ffn_dim(dim, multiple_of, multiplier) == ffn_dim:
            return multiple_of, multiplier
    multiple_of = ffn_dim & -ffn_dim  # the largest power of two in it
    middle = ffn_dim + 1 - multiple_of / 2  # of all that is cut to a whole number and rounded up to ffn_dim
    multiplier = middle / int(2 * (4 * dim) / 3)
    found = meta_ffn_dim(dim, multiple_of, multiplier)
    assert found == ffn_dim, f"{found} is not {ffn_dim}"
    return multiple_of, multiplier


def meta_ffn_dim(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's feed-forward width (`FeedForward.__init__`)."""
    hidden = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


def check(config: ModelConfig, shards: int, vocabulary: Vocabulary) -> None:
    """Raises CheckpointError for what Meta's files cannot say, and for parts that do not divide."""
    reasons = {
        "biases": config.attention_bias or config.mlp_bias,
        f"a head width of {config.head_dim}, not dim / n_heads": config.head_dim * config.n_heads != config.dim,
        "this rotary scaling": not _has_metas_scaling(config),
        f"special tokens other than {_variant(config)}'s": not _has_metas_specials(config, vocabulary),
        f"{config.n_heads} heads on {shards} shards": config.n_heads % shards != 0,
        f"{config.n_kv_heads} key/value heads on {shards} shards": (
            config.n_kv_heads % shards != 0 and shards % config.n_kv_heads != 0
        ),
        f"a feed-forward width of {config.ffn_dim} on {shards} shards": config.ffn_dim % shards != 0,
        f"{config.vocab_size} tokens on {shards} shards": config.vocab_size % shards != 0,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        remedy = "choose --to hf or gguf" + (", or other shards" if shards > 1 else "")
        raise CheckpointError(f"Meta's format cannot hold {' and '.join(found)}; {remedy}")


def _has_metas_scaling(config: ModelConfig) -> bool:
    scaling = config.rope_scaling
    return scaling is None or (
        (scaling.kind, scaling.low_freq_factor, scaling.original_context) == ("llama3", 1.0, 8192)
    )


def _variant(config: ModelConfig) -> tiktoken_file.Specials:
    """Whose special tokens a tiktoken file is read with; it does not name them itself."""
    return "llama3.1" if config.rope_scaling else "llama3"


def _has_metas_specials(config: ModelConfig, vocabulary: Vocabulary) -> bool:
    if vocabulary.model == "spm":
        return True
    expected = tuple(name.encode() for name in tiktoken_file.special_tokens(_variant(config)))
    return vocabulary.tokens[-len(expected) :] == expected


def _vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    vocabulary = checkpoint.load_tokenizer().vocabulary
    if vocabulary is None:
        raise TokenizerError(
            "the tokenizer is no plain BPE or sentencepiece, which is all that a tokenizer.model holds"
        )
    return vocabulary


def _tokenizer_model(vocabulary: Vocabulary) -> bytes:
    if vocabulary.model == "bpe":
        return tiktoken_file.write(vocabulary)
    return sentencepiece_file.write(vocabulary)


# --- weights ---


def _write_shards(
    checkpoint: Checkpoint, directory: Path, shards: int, *, embeddings_by_rows: bool, progress: Progress | None
) -> None:
    """All shards at once, so that each tensor is loaded once."""
    config = checkpoint.config
    with _open_all(directory, shards) as files:
        for name, tensor in checkpoint.tensors.items():
            data = tensor.load()
            axis = _cut(name, embeddings_by_rows)
            names: tuple[str, ...] = (name,)
            if name == "tok_embeddings.weight" and config.tied_output:
                # Meta's files always have an output. Cut alike it is the same storage under two names.
                if axis == 0 or shards == 1:
                    names = (name, "output.weight")
                else:
                    _add(files, ("output.weight",), tensor, data, 0, config)
            _add(files, names, tensor, data, axis, config)
            if progress:
                progress(data.nbytes)


def _cut(name: str, embeddings_by_rows: bool) -> int | None:
    """The axis along which a tensor is parted; None for norms, which every shard has whole."""
    stem = name.removesuffix(".weight")
    if stem.endswith("norm"):
        return None
    if stem == "tok_embeddings":
        return 0 if embeddings_by_rows else 1
    return 1 if stem.endswith((".wo", ".w2")) else 0


def _add(
    files: list[TorchFile],
    names: tuple[str, ...],
    tensor: LazyTensor,
    data: NDArray[np.uint8],
    axis: int | None,
    config: ModelConfig,
) -> None:
    table = data.reshape(tensor.shape[0], -1)  # (rows, bytes of a row)
    shards = len(files)
    parts = [table] * shards if axis is None else np.split(table, _pieces(names[0], shards, config), axis=axis)
    for i, file in enumerate(files):
        part = np.ascontiguousarray(parts[i * len(parts) // shards])
        shape = tensor.shape
        if axis is not None:
            shape = tuple(size // len(parts) if d == axis else size for d, size in enumerate(shape))
        file.add(names, shape, tensor.type, part.reshape(-1))


def _pieces(name: str, shards: int, config: ModelConfig) -> int:
    """Parts that differ: fewer than shards where key/value heads are repeated."""
    return min(shards, config.n_kv_heads) if ".wk." in name or ".wv." in name else shards


@contextlib.contextmanager
def _open_all(directory: Path, shards: int) -> Iterator[list[TorchFile]]:
    with contextlib.ExitStack() as stack:
        paths = [directory / f"consolidated.{i:02}.pth" for i in range(shards)]
        yield [stack.enter_context(TorchFile(stack.enter_context(path.open("xb")))) for path in paths]


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
