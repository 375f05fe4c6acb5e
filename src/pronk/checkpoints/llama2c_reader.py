"""llama2.c's `.bin` (karpathy/llama2.c, `run.c` and `export.py`): a header of seven int32 and float32 tensors.

Version 0 has no magic number, only a size that must fit its header to the byte; version 1 begins with "ak42" and orders
the tensors otherwise. Rotary base 10000 and eps 1e-5 are part of the format. The tokenizer is a file of its own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from pronk.checkpoints.checkpoint import Checkpoint, check_shapes
from pronk.checkpoints.mapped import MappedFile
from pronk.checkpoints.tokenizer_files import once, read_bytes, read_model_file
from pronk.config import ModelConfig
from pronk.errors import CheckpointError, TokenizerError
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import F32
from pronk.text.tokenizer import Tokenizer

MAGIC = (0x616B3432).to_bytes(4, "little")  # "ak42"
_HEADER = struct.Struct("<7i")
_V1_HEADER_BYTES = 256

_PER_LAYER = {
    "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn_norm", "feed_forward.w1",
    "feed_forward.w2", "feed_forward.w3",
}  # fmt: skip
# The order of tensors in the file; one name stands for that tensor of every layer.
_ORDER_V0 = (
    "tok_embeddings", "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo", "ffn_norm",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "norm", "freq_cis", "output",
)  # fmt: skip
_ORDER_V1 = (
    "attention_norm", "ffn_norm", "norm", "tok_embeddings", "attention.wq", "attention.wk", "attention.wv",
    "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "output",
)  # fmt: skip


def looks_like(path: Path) -> bool:
    """Whether the file begins with a llama2.c header, of either version."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except OSError:
        return False
    if head[:4] == MAGIC:
        return True
    if len(head) < _HEADER.size:
        return False
    dim, ffn, layers, heads, kv_heads, vocab, context = _HEADER.unpack(head)
    return (
        0 < layers <= 1024
        and 0 < kv_heads <= heads <= dim <= 1 << 20
        and 0 < ffn <= 1 << 22
        and bool(0 < abs(vocab) <= 1 << 24 and 0 < context <= 1 << 24)
    )


def open_llama2c(path: Path) -> Checkpoint:
    """Open a `.bin` file. Raises CheckpointError unless its size is exactly what its header says."""
    file = MappedFile(path)
    config, start, order = _read_header(file)
    tensors = _place(file, config, start, order)
    check_shapes(config, tensors)
    return Checkpoint(
        path=path,
        format="llama2c",
        config=config,
        tensors=tensors,
        load_tokenizer=once(lambda: _tokenizer_beside(path, config)),
        name=path.stem,
    )


def _read_header(file: MappedFile) -> tuple[ModelConfig, int, tuple[str, ...]]:
    """The config, where the tensors begin, and their order."""
    version1 = file.buffer[:4] == MAGIC
    begin = 8 if version1 else 0
    start = _V1_HEADER_BYTES if version1 else _HEADER.size
    if file.size < start:
        raise CheckpointError(f"{file.path} has {file.size} bytes, expected a llama2.c header of {start}")
    if version1:
        (version,) = struct.unpack_from("<i", file.buffer, 4)
        if version != 1:
            raise CheckpointError(
                f"{file.path} is llama2.c version {version}, expected 0 or 1 (float32); "
                "export it again with --version 1"
            )
    dim, ffn, layers, heads, kv_heads, vocab, context = _HEADER.unpack_from(file.buffer, begin)
    tied = file.buffer[begin + _HEADER.size] != 0 if version1 else vocab > 0
    if heads < 1 or dim % heads:
        raise CheckpointError(f"{file.path}: dim {dim} is no multiple of n_heads {heads}; the file is damaged")
    config = ModelConfig(
        dim=dim,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=dim // heads,
        ffn_dim=ffn,
        vocab_size=vocab if version1 else abs(vocab),
        context_length=context,
        tied_output=tied,
    )
    return config, start, _ORDER_V1 if version1 else _ORDER_V0


def _place(file: MappedFile, config: ModelConfig, start: int, order: tuple[str, ...]) -> dict[str, LazyTensor]:
    shapes = config.tensor_shapes()
    tables = 4 * config.context_length * config.head_dim  # cos and sin, (context, E/2) each, computed here instead
    expected = start + 4 * config.parameter_count() + (tables if "freq_cis" in order else 0)
    if file.size != expected:
        raise CheckpointError(
            f"{file.path} has {file.size} bytes, expected {expected} from its header "
            f"(dim {config.dim}, {config.n_layers} layers, vocabulary {config.vocab_size}); "
            "it is truncated or no llama2.c model"
        )
    tensors = {}
    for name in _names_in(order, config):
        if name == "freq_cis":
            start += tables
        elif name in shapes:
            tensors[name] = file.tensor(name, shapes[name], F32, start)
            start += 4 * math.prod(shapes[name])
    return tensors


def _names_in(order: tuple[str, ...], config: ModelConfig) -> Iterator[str]:
    for name in order:
        if name in _PER_LAYER:
            yield from (f"layers.{i}.{name}.weight" for i in range(config.n_layers))
        else:
            yield name if name == "freq_cis" else f"{name}.weight"


def _tokenizer_beside(path: Path, config: ModelConfig) -> Tokenizer:
    """The one tokenizer in the model's folder that has exactly as many pieces as the model.

    The format has no place for it, and names vary: tokenizer.bin, tok512.bin, tok105.model, tokenizer.model.
    """
    others = sorted(p for p in path.parent.iterdir() if p.suffix in (".bin", ".model") and p != path)
    found: dict[Path, Tokenizer] = {}
    reasons = []
    for candidate in others:
        if candidate.stem in {p.stem for p in found}:
            continue  # tok512.model beside tok512.bin: the same vocabulary twice
        try:
            tokenizer = _read_candidate(candidate)
        except TokenizerError as error:
            reasons.append(str(error))
            continue
        if tokenizer.vocab_size == config.vocab_size:
            found[candidate] = tokenizer
        else:
            reasons.append(f"{candidate.name} has {tokenizer.vocab_size} tokens")
    if len(found) > 1:
        raise TokenizerError(
            f"{' and '.join(p.name for p in found)} both fit the {config.vocab_size} tokens of {path}; "
            "leave one of them beside it"
        )
    if not found:
        raise TokenizerError(
            f"no tokenizer of {config.vocab_size} tokens lies beside {path}, expected a tokenizer.bin or .model"
            + (f" ({reasons[0]})" if reasons else "")
        )
    return next(iter(found.values()))


def _read_candidate(path: Path) -> Tokenizer:
    if path.suffix == ".model":
        return read_model_file(path)
    from pronk.text import llama2c_vocabulary
    from pronk.text.tokenizers import build_tokenizer

    if looks_like(path):
        raise TokenizerError(f"{path.name} is a model")
    return build_tokenizer(llama2c_vocabulary.read(read_bytes(path)))
