"""Any format to any other, one tensor in memory at a time, and the result there whole or not at all.

Weights whose type stays are copied bit for bit. Without a dtype GGUF keeps each matrix as it is; Hugging Face's and
Meta's formats keep the float type that all matrices share, and hold quantized ones as BF16.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pronk.checkpoints import recast
from pronk.checkpoints.atomic import new_directory, new_file
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.errors import CheckpointError

Target = Literal["gguf", "hf", "meta"]
Progress = Callable[[int, int], None]  # bytes of weights written so far, and in all

SHARD_BYTES = 5_000_000_000
_SPARE = 64 << 20  # what a tokenizer and the rest may take, when disk space is counted


@dataclass(frozen=True)
class Conversion:
    """What was written. `dtype` is the matrices' types, the most common first."""

    path: Path
    format: Target
    dtype: str
    nbytes: int


def convert(
    source: Checkpoint,
    destination: Path,
    to: Target,
    *,
    dtype: str | None = None,
    shards: int = 1,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write `source` as a GGUF file or as a directory of Hugging Face's or Meta's.

    `dtype` is f32, f16 or bf16 and holds for all matrices. `shards` is for Meta, `shard_bytes` for Hugging Face. Norms
    and biases are F32 in GGUF; elsewhere they get the matrices' type where it holds them exactly.
    Raises CheckpointError or TokenizerError before anything is written where possible; never leaves half a result.
    """
    check_options(to, dtype, shards)
    check_paths(source, destination, to, overwrite)
    type = recast.by_name(dtype) if dtype else None
    if to == "gguf":
        model = recast.for_gguf(source, type)
    else:
        model = recast.uniform(source, type or recast.common_float(source))
    check_space(destination, model.nbytes)
    _write(model, destination, to, shards, shard_bytes, _counting(model.nbytes, progress))
    return Conversion(destination, to, _types(model), model.nbytes)


def check_options(to: str, dtype: str | None, shards: int) -> None:
    """Raises CheckpointError for options that no conversion has. Needs no model, so it can come first."""
    if to not in get_args(Target):
        raise CheckpointError(f"cannot convert to {to!r}, expected one of {', '.join(get_args(Target))}")
    if dtype:
        recast.by_name(dtype)
    if shards < 1:
        raise CheckpointError(f"{shards} shards asked for, expected at least 1")
    if shards > 1 and to != "meta":
        raise CheckpointError(f"--shards is for Meta's format, which is cut for tensor parallelism; {to} needs none")


def _write(
    model: Checkpoint, destination: Path, to: Target, shards: int, shard_bytes: int, count: Callable[[int], None]
) -> None:
    if to == "gguf":
        from pronk.checkpoints.write_gguf import write_gguf

        with new_file(destination) as file:
            write_gguf(model, file, count)
        return
    with new_directory(destination) as directory:
        if to == "hf":
            from pronk.checkpoints.write_hf import write_hf

            write_hf(model, directory, shard_bytes, count)
        else:
            from pronk.checkpoints.write_meta import write_meta

            write_meta(model, directory, shards, count)


def check_paths(source: Checkpoint, destination: Path, to: Target, overwrite: bool) -> None:
    if source.format != "random":
        origin, end = source.path.resolve(), destination.resolve()
        if origin == end or end in origin.parents or (to != "gguf" and origin in end.parents and origin.is_dir()):
            raise CheckpointError(
                f"{destination} is, holds or lies in the model that is read; choose another destination"
            )
    if not destination.resolve().parent.is_dir():
        raise CheckpointError(f"the directory {destination.parent} does not exist; make it first")
    if not destination.exists() and not destination.is_symlink():
        return
    if to == "gguf" and not destination.is_file():
        raise CheckpointError(f"{destination} is no file, expected a file name such as {destination}/model.gguf")
    if to != "gguf" and not destination.is_dir():
        raise CheckpointError(f"{destination} is a file, and {to} is a directory; choose another destination")
    if to != "gguf" and not any(destination.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{destination} exists; choose another destination, or --overwrite")
    if to != "gguf":
        _check_replaceable(destination)


def _check_replaceable(directory: Path) -> None:
    """Overwriting a directory removes what is in it, so it must be a model and nothing besides."""
    names = [path.name for path in directory.iterdir()]
    is_model = "config.json" in names or "params.json" in names
    if not is_model or directory.is_symlink() or any(path.is_dir() for path in directory.iterdir()):
        raise CheckpointError(
            f"{directory} is not just a model, and overwriting would remove all in it; empty it first"
        )


def check_space(destination: Path, nbytes: int) -> None:
    free = shutil.disk_usage(destination.resolve().parent).free
    if free < nbytes + _SPARE:
        raise CheckpointError(
            f"{destination} needs {nbytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free there;"
            " free some, or choose a smaller dtype"
        )


def _counting(total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    return count


def _types(model: Checkpoint) -> str:
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        if recast.is_matrix(tensor):
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.nbytes
    return ", ".join(sorted(sizes, key=lambda name: -sizes[name]))
