"""Any model to a GGUF file of chosen types, one piece of one tensor in memory at a time; see `journal` for what a kill
leaves behind.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import recast, write_gguf
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.convert import check_paths, check_space
from pronk.errors import CheckpointError
from pronk.quantize.importance import ImportanceMatrix, column_weights
from pronk.quantize.journal import Journal, resumable
from pronk.quantize.recipes import Fallback, Plan, needs_importance
from pronk.tensors import codec, types
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import TensorType

_FLOATS = (types.F32, types.F16, types.BF16)
_CHUNK = 1 << 24  # values of a tensor that are decoded, and encoded, at a time: 64 MB
_REVISION = 3  # of the encoders' results: what an older one began is not continued

Progress = Callable[[str, TensorType, int, int], None]  # tensor, its new type, bytes written and in all


@dataclass(frozen=True)
class Quantized:
    """What was written. `resumed`: tensors that an earlier run had made. `unweighted`: quantized matrices of which the
    importance matrix, where there is one, says nothing."""

    path: Path
    recipe: str
    nbytes: int  # of the file
    parameters: int
    tensors: tuple[tuple[str, TensorType, int], ...]  # name, type, bytes
    fallbacks: tuple[Fallback, ...]
    unweighted: tuple[str, ...]
    resumed: int
    seconds: float

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(nbytes for _, _, nbytes in self.tensors) / self.parameters


def quantize(
    source: Checkpoint,
    destination: Path,
    plan: Plan,
    *,
    importance: ImportanceMatrix | None = None,
    allow_requantize: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Write `source` as the GGUF file `destination`, each tensor in its type of `plan`.

    A tensor that has its type already is copied bit for bit. Raises CheckpointError, before anything is written, for a
    type that needs an importance matrix where there is none, and for a quantized tensor that would be quantized again
    without `allow_requantize`. The same call after a kill goes on where that one stopped.
    """
    started = time.monotonic()
    check(source, plan, importance, allow_requantize)
    check_paths(source, destination, "gguf", overwrite)
    model = typed(source, plan)
    check_space(destination, model.nbytes)
    contents = write_gguf.contents(model)
    header = write_gguf.header(metadata(model, plan, importance), contents)
    total = sum(tensor.nbytes for _, tensor in contents)
    with resumable(destination, _work(source, header, importance)) as journal:
        resumed = len(journal.done)
        if not resumed:
            journal.write(header)
            journal.piece_done("")
        written = 0
        for index, (_, tensor) in enumerate(contents, 1):
            if index >= resumed:
                if progress:
                    progress(tensor.name, tensor.type, written, total)
                _write(journal, source, tensor, importance)
            written += tensor.nbytes
    size = destination.stat().st_size
    tensors = tuple((tensor.name, tensor.type, tensor.nbytes) for _, tensor in contents)
    unweighted = _unweighted(model, importance)
    return Quantized(
        destination, plan.recipe, size, source.config.parameter_count(), tensors, plan.fallbacks, unweighted,
        max(resumed - 1, 0), time.monotonic() - started,
    )  # fmt: skip


def check(source: Checkpoint, plan: Plan, importance: ImportanceMatrix | None, allow_requantize: bool) -> None:
    """Raises CheckpointError for what `quantize` refuses."""
    for name, kind in plan.types.items():
        old = source.tensors[name].type
        if kind not in types.COMPUTABLE:
            raise CheckpointError(f"{kind} cannot be written, expected another type for {name}")
        if needs_importance(name, kind) and (importance is None or importance.weights(name) is None) and old != kind:
            said = "there is no importance matrix" if importance is None else "the importance matrix says nothing of it"
            raise CheckpointError(
                f"{name} is to be {kind}, which without an importance matrix is noise, and {said};"
                " make one with pronk imatrix and give it with --imatrix, or choose a type of more bits"
            )
        if old not in _FLOATS and kind not in _FLOATS and old != kind and not allow_requantize:
            raise CheckpointError(
                f"{name} is {old} already, and {kind} made of it is worse than one made of the original;"
                " take the original model, or say --allow-requantize"
            )


def typed(source: Checkpoint, plan: Plan) -> Checkpoint:
    """The model as the file will have it. Its tensors have types and sizes; only those that stay as they are load."""
    tensors = {name: _typed(source.tensors[name], plan.types[name]) for name in source.tensors}
    return replace(source, tensors=tensors)


def encoded(
    tensor: LazyTensor, kind: TensorType, weights: NDArray[np.float32] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of `tensor` as `kind`, piece by piece; `weights` are one a column. Raises CheckpointError for values
    that are not finite: no block could hold them, and one of them would spoil a whole block."""
    rows = tensor.load().reshape(-1, tensor.type.row_bytes(tensor.shape[-1]))  # (rows, bytes)
    columns = tensor.shape[-1]
    step = max(1, _CHUNK // columns)
    for start in range(0, len(rows), step):
        values = codec.decode(rows[start : start + step], tensor.type).reshape(-1, columns)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{tensor.name} has values that are infinite or no numbers; the model is damaged")
        yield codec.encode(values, kind, weights)


def _typed(tensor: LazyTensor, kind: TensorType) -> LazyTensor:
    if kind in _FLOATS:
        return recast.recast(tensor, kind)

    def refuse() -> NDArray[np.uint8]:
        raise AssertionError("a quantized tensor is written piece by piece")

    return tensor if kind == tensor.type else LazyTensor(tensor.name, tensor.shape, kind, refuse)


def _write(journal: Journal, source: Checkpoint, tensor: LazyTensor, importance: ImportanceMatrix | None) -> None:
    old = source.tensors.get(tensor.name)
    if old is None or old.type == tensor.type or tensor.type in _FLOATS:
        journal.write(tensor.load().data)
    else:
        for piece in encoded(old, tensor.type, column_weights(source, tensor.name, importance)):
            journal.write(piece.data)
    journal.write(b"\0" * (-tensor.nbytes % write_gguf.ALIGNMENT))
    journal.piece_done(tensor.name)


def metadata(model: Checkpoint, plan: Plan, importance: ImportanceMatrix | None) -> dict[str, object]:
    """The file's keys: those of any GGUF, the recipe's number, and llama.cpp's for what the importance is of."""
    keys = write_gguf.metadata(model)
    if plan.file_type is not None:
        keys["general.file_type"] = plan.file_type
    if importance:
        keys["quantize.imatrix.dataset"] = ", ".join(importance.datasets)
        keys["quantize.imatrix.entries_count"] = len(importance.entries)
        keys["quantize.imatrix.chunks_count"] = importance.chunks
    return keys


def _unweighted(model: Checkpoint, importance: ImportanceMatrix | None) -> tuple[str, ...]:
    if importance is None:
        return ()
    tables = ("tok_embeddings.weight", "output.weight")
    return tuple(
        name
        for name, tensor in model.tensors.items()
        if tensor.type not in _FLOATS and name not in tables and importance.weights(name) is None
    )


def _work(source: Checkpoint, header: bytes, importance: ImportanceMatrix | None) -> str:
    """A digest of all that the result depends on. Of the source's weights it has the files' sizes and times."""
    digest = hashlib.sha256(f"pronk quantize {_REVISION} {source.path.absolute()}".encode())
    for path in _files(source.path):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    digest.update(header)
    for name, entry in sorted(importance.entries.items()) if importance else ():
        digest.update(f"{name} {entry.count}".encode() + entry.sums.tobytes())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    return [path] if path.is_file() else []


def table(tensors: Sequence[tuple[str, TensorType, int]]) -> list[dict[str, Any]]:
    """One row a type: how many tensors, how many bytes; the largest first."""
    rows: dict[str, dict[str, Any]] = {}
    for _, kind, nbytes in tensors:
        row = rows.setdefault(kind.name, {"type": kind.name, "tensors": 0, "bytes": 0})
        row["tensors"] += 1
        row["bytes"] += nbytes
    return sorted(rows.values(), key=lambda row: -int(row["bytes"]))
