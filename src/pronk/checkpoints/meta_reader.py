"""Meta's directory -> Checkpoint: params.json, consolidated.NN.pth and tokenizer.model.

Any number of shards opens anywhere: with one, tensors are the file's own bytes; with several, each is put together when
it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pronk.checkpoints import meta_config, names, torch_file
from pronk.checkpoints.checkpoint import Checkpoint, check_shapes
from pronk.checkpoints.fields import Fields
from pronk.checkpoints.mapped import read_json
from pronk.checkpoints.sharded import Sharded, repeated_heads, same_rows, sharded
from pronk.checkpoints.tokenizer_files import fitting, once, read_model_file
from pronk.config import ModelConfig
from pronk.errors import CheckpointError, TokenizerError
from pronk.tensors.lazy import LazyTensor
from pronk.text.tokenizer import Tokenizer

_SHARD = re.compile(r"consolidated\.(\d{2,3})\.pth")
Parts = Mapping[str, Sequence[LazyTensor]]  # by name, in shard order


def open_meta(directory: Path, file: Path | None = None) -> Checkpoint:
    """Open a directory; `file` is the shard in it that was asked for. Raises CheckpointError."""
    path = directory / "params.json"
    if not path.exists():
        raise CheckpointError(f"{directory} has no params.json, which says how the weights are used; download it again")
    params = Fields(read_json(path), str(path))
    meta_config.refuse_unknown(params)
    paths = shard_paths(directory, file)
    parts = _read_parts(paths)
    _check_count(params, parts, paths)
    try:
        config, tensors = _assemble(params, parts)
        check_shapes(config, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from None
    return Checkpoint(
        path=directory,
        format="meta",
        config=config,
        tensors=tensors,
        load_tokenizer=once(lambda: _tokenizer(directory, config)),
        name=directory.resolve().name,
    )


def shard_paths(directory: Path, file: Path | None = None) -> list[Path]:
    """consolidated.00.pth and those after it, none missing; or the one file that was asked for, under another name."""
    if file is not None and not _SHARD.fullmatch(file.name):
        return [file]
    numbered = {int(m[1]): p for p in directory.iterdir() if (m := _SHARD.fullmatch(p.name))}
    if not numbered:
        others = sorted(directory.glob("*.pth"))
        if len(others) == 1:
            return others
        raise CheckpointError(
            f"{directory} has params.json and no consolidated.00.pth"
            + (f" ({len(others)} other .pth files: name one of them)" if others else "; download it again")
        )
    missing = sorted(set(range(max(numbered) + 1)) - set(numbered))
    if missing:
        raise CheckpointError(
            f"{directory} has {_listed(numbered)}, and not {_listed(missing)}; download the missing shards"
        )
    return [numbered[i] for i in sorted(numbered)]


def _listed(numbers: Sequence[int] | Mapping[int, Path]) -> str:
    shown = [f"consolidated.{i:02}.pth" for i in sorted(numbers)]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


def _read_parts(paths: Sequence[Path]) -> Parts:
    """Every tensor's parts. Raises CheckpointError unless each shard has the same names."""
    shards = [torch_file.read_file(path) for path in paths]
    wanted = [name for name in shards[0] if not names.is_meta_table(name)]
    for path, shard in zip(paths, shards, strict=True):
        different = set(wanted) ^ {name for name in shard if not names.is_meta_table(name)}
        if different:
            raise CheckpointError(
                f"{path} and {paths[0].name} differ in {min(different)[:100]!r}, expected the same tensors in each; "
                "they are of different models"
            )
    return {name: [shard[name].lazy(name) for shard in shards] for name in wanted}


def _check_count(params: Fields, parts: Parts, paths: Sequence[Path]) -> None:
    """Whether there are as many shards as the weights were cut into: wq is cut by rows."""
    name = "layers.0.attention.wq.weight"
    if name not in parts:
        raise CheckpointError(f"{paths[0]} has no {name}, expected Meta's names; it is no Llama checkpoint of Meta's")
    whole, part = params.integer("n_heads") * meta_config.head_dim(params), parts[name][0].shape[0]
    if whole % part == 0 and whole // part != len(paths):
        count = whole // part
        missing = _listed(range(len(paths), count)) if count > len(paths) else ""
        raise CheckpointError(
            f"{paths[0].parent} has {len(paths)} of {count} shards: {name} has {part} of {whole} rows in each; "
            + (f"{missing} missing, download the missing shards" if missing else "remove what belongs to another model")
        )


def _assemble(params: Fields, parts: Parts) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    n_kv_heads, repeats = _kv_heads(params, parts)
    rows = _vocab_size(params, parts)
    untied = meta_config.read_config(params, meta_config.Found(rows, tied_output=False), n_kv_heads)
    shapes = untied.tensor_shapes()
    for name in parts:
        if name not in shapes:
            raise CheckpointError(f"the tensor {name[:200]!r} is not part of a Llama with these params.json")
    found = {
        name: sharded(name, shapes[name], part, repeats if ".wk." in name or ".wv." in name else 1)
        for name, part in parts.items()
    }
    tied = _tied(found)
    config = meta_config.read_config(params, meta_config.Found(rows, tied), n_kv_heads) if tied else untied
    return config, {name: whole.lazy() for name, whole in found.items() if not (tied and name == "output.weight")}


def _tied(found: Mapping[str, Sharded]) -> bool:
    """Llama 3.2 1B and 3B have one matrix for both; a file may hold it twice."""
    output, embeddings = found.get("output.weight"), found.get("tok_embeddings.weight")
    return output is None or (embeddings is not None and same_rows(output, embeddings))


def _kv_heads(params: Fields, parts: Parts) -> tuple[int, int]:
    """How many different key/value heads there are, and how many shards in a row hold the same one.

    Cut for more GPUs than it has such heads, a model repeats them, and its params.json may count the copies (Llama
    3.1 405B in 16 shards has 8 heads and says 16).
    """
    said = params.integer("n_kv_heads", params.integer("n_heads"))
    matrices = [part for name, part in parts.items() if ".wk." in name or ".wv." in name]
    count = len(next(iter(parts.values())))
    head = meta_config.head_dim(params)
    if count == 1 or not matrices or any(part.shape[:1] != (head,) for matrix in matrices for part in matrix):
        return said, 1
    if 0 < said < count and count % said == 0:
        return said, count // said
    if said != count:
        raise CheckpointError(
            f"{params.where}: n_kv_heads is {said}, but each of {count} shards holds one; "
            "the two do not belong together"
        )
    repeats = repeated_heads(matrices)
    return count // repeats, repeats


def _vocab_size(params: Fields, parts: Parts) -> int:
    """params.json may say -1, for "as many as the tokenizer has"; the embedding's parts tell the number of rows too."""
    said = params.integer("vocab_size", -1)
    embeddings = parts.get("tok_embeddings.weight")
    if said >= 0 or embeddings is None or len(embeddings[0].shape) != 2:
        return said
    rows, columns = embeddings[0].shape
    return rows * len(embeddings) if columns == params.integer("dim") else rows


def _tokenizer(directory: Path, config: ModelConfig) -> Tokenizer:
    """tokenizer.model beside the weights, or one level up, where Meta's download script puts it.

    Llama 3.0 and 3.1 have the same file and different special tokens; only 3.1 and later scale their rope.
    """
    for folder in (directory, directory.resolve().parent):
        path = folder / "tokenizer.model"
        if path.exists():
            return fitting(read_model_file(path, llama3_1=config.rope_scaling is not None), config, str(path))
    raise TokenizerError(f"{directory} has no tokenizer.model; put the model's own into it")
