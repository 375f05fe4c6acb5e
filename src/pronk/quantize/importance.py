"""Importance matrices: the mean square of what each column of a matrix is multiplied with, over a calibration text.

An error in a column that is multiplied with large values costs more, so encoders weight it by this. Two file forms,
both llama.cpp's (tools/imatrix): GGUF, with `NAME.in_sum2` and `NAME.counts` for each matrix, and the older binary
form, a list of name, calls, length and sums. Names are GGUF's (blk.0.attn_q.weight).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import gguf_file, names, write_gguf
from pronk.checkpoints.atomic import new_file
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

_MOST_COLUMNS = 1 << 24
_MOST_ENTRIES = 1 << 17
_MOST_NAME = 1 << 12
_ENDINGS = (".in_sum2", ".counts")
# The norm before each matrix, both of one layer.
_NORMS = {
    "wq": "attention_norm", "wk": "attention_norm", "wv": "attention_norm", "w1": "ffn_norm", "w3": "ffn_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One matrix: the sum of squares of each column's inputs (in), and how many inputs there were."""

    sums: NDArray[np.float64]
    count: float


@dataclass(frozen=True)
class ImportanceMatrix:
    """`entries` by GGUF names. `chunks` pieces of text of `chunk_size` tokens were read for it; 0: not known."""

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0

    def weights(self, name: str) -> NDArray[np.float32] | None:
        """One weight a column for the matrix with canonical name `name`; None where nothing is known of it."""
        entry = self.entries.get(names.to_gguf(name))
        if entry is None or entry.count <= 0 or not entry.sums.any():
            return None
        return (entry.sums / entry.count).astype(np.float32)

    def check(self, config: ModelConfig, where: str) -> None:
        """Raises CheckpointError where this was made of another model."""
        shapes = {names.to_gguf(name): shape for name, shape in config.tensor_shapes().items() if len(shape) > 1}
        for name, entry in self.entries.items():
            if name == "output.weight" and config.tied_output:
                continue
            if name not in shapes:
                raise CheckpointError(f"{where} has {name[:100]!r}, which this model has not; it is of another model")
            if len(entry.sums) != shapes[name][-1]:
                raise CheckpointError(
                    f"{where} has {len(entry.sums)} columns for {name}, expected {shapes[name][-1]};"
                    " it is of another model"
                )
        if not self.entries.keys() & shapes.keys():
            raise CheckpointError(f"{where} says nothing of any matrix of this model")


def column_weights(
    source: Checkpoint, name: str, importance: ImportanceMatrix | None = None
) -> NDArray[np.float32] | None:
    """How much an error in each column (in) of a matrix counts: by the importance matrix, or, where that says nothing,
    by the norm whose output the matrix is multiplied with. None where there is none.

    A norm's inputs have the mean square 1. Were they all alike, the outputs' mean squares would be the norm's weights
    squared; since they are not, a quarter of those weights' mean is added."""
    known = importance.weights(name) if importance else None
    layer, _, matrix = name.removesuffix(".weight").rpartition(".")
    norm = _NORMS.get(matrix)
    if known is not None or norm is None:
        return known
    squares = np.square(source.tensors[f"{layer.rpartition('.')[0]}.{norm}.weight"].array())
    weights: NDArray[np.float32] = squares + squares.mean() / 4
    return weights


def merge(matrices: Iterable[ImportanceMatrix]) -> ImportanceMatrix:
    """All of them as if their texts had been read in one go. Raises CheckpointError where they are of two models."""
    entries: dict[str, Entry] = {}
    datasets: list[str] = []
    chunks, sizes = 0, set()
    for matrix in matrices:
        for name, entry in matrix.entries.items():
            old = entries.get(name)
            if old is not None and len(old.sums) != len(entry.sums):
                raise CheckpointError(
                    f"{name} has {len(old.sums)} columns in one importance matrix and {len(entry.sums)} in another;"
                    " they are of two models"
                )
            entries[name] = entry if old is None else Entry(old.sums + entry.sums, old.count + entry.count)
        datasets += [d for d in matrix.datasets if d not in datasets]
        chunks += matrix.chunks
        sizes.add(matrix.chunk_size)
    return ImportanceMatrix(entries, tuple(datasets), chunks, sizes.pop() if len(sizes) == 1 else 0)


# --- files ---


def read(path: Path) -> ImportanceMatrix:
    """A file of either form. Raises CheckpointError for one that is damaged or holds something else."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        matrix = _read_gguf(path) if head == gguf_file.MAGIC else _read_binary(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    for name, entry in matrix.entries.items():
        if not np.isfinite(entry.sums).all() or (entry.sums < 0).any() or not np.isfinite(entry.count):
            raise CheckpointError(f"{path}: {name[:100]!r} has values that no mean square has; the file is damaged")
    return matrix


def write(matrix: ImportanceMatrix, path: Path, *, binary: bool = False) -> None:
    """The file whole or not at all; `binary` is the older form. Raises CheckpointError."""
    data = _binary(matrix) if binary else _gguf(matrix)
    with new_file(path) as file:
        file.write(data)


def _read_gguf(path: Path) -> ImportanceMatrix:
    file = gguf_file.read(path)
    if file.metadata.get("general.type") != "imatrix":
        raise CheckpointError(
            f"{path} is a GGUF {file.metadata.get('general.type', 'model')!r:.60}, expected an imatrix"
        )
    entries = {}
    for name in file.tensors:
        stem = name.removesuffix(_ENDINGS[0])
        if stem != name:
            counts = file.tensors.get(stem + _ENDINGS[1])
            if counts is None:
                raise CheckpointError(f"{path}: {stem[:100]!r} has no counts; the file is damaged")
            entries[stem] = _entry(file.tensors[name], counts, path)
    datasets = file.metadata.get("imatrix.datasets", [])
    return ImportanceMatrix(
        entries,
        tuple(str(d) for d in datasets) if isinstance(datasets, list) else (),
        _whole(file.metadata.get("imatrix.chunk_count")),
        _whole(file.metadata.get("imatrix.chunk_size")),
    )


def _entry(sums: LazyTensor, counts: LazyTensor, path: Path) -> Entry:
    if sums.type != types.F32 or counts.type != types.F32:
        raise CheckpointError(f"{path}: {sums.name[:100]!r} is {sums.type}, expected F32")
    count = counts.array().reshape(-1)
    if len(count) != 1:
        raise CheckpointError(
            f"{path}: {sums.name[:100]!r} is of {len(count)} experts, expected a matrix of a plain Llama"
        )
    return Entry(sums.array().reshape(-1).astype(np.float64), float(count[0]))


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _gguf(matrix: ImportanceMatrix) -> bytes:
    keys: dict[str, object] = {
        "general.type": "imatrix",
        "general.alignment": write_gguf.ALIGNMENT,
        "imatrix.datasets": list(matrix.datasets),
        "imatrix.chunk_count": matrix.chunks,
        "imatrix.chunk_size": matrix.chunk_size,
    }
    tensors = []
    for name, entry in sorted(matrix.entries.items()):
        tensors += [
            _vector(name + _ENDINGS[0], entry.sums.astype(np.float32)),
            _vector(name + _ENDINGS[1], np.array([entry.count], np.float32)),
        ]
    parts = [write_gguf.header(keys, tensors)]
    for _, tensor in tensors:
        data = tensor.load().tobytes()
        parts.append(data + b"\0" * (-len(data) % write_gguf.ALIGNMENT))
    return b"".join(parts)


def _vector(name: str, values: NDArray[np.float32]) -> tuple[str, LazyTensor]:
    return name, LazyTensor(name, values.shape, types.F32, lambda: values.view(np.uint8))


# --- the older form: sums are means times `calls`, and calls are pieces of text ---


def _read_binary(data: bytes, path: Path) -> ImportanceMatrix:
    reader = _Reader(data, path)
    count = reader.number(_MOST_ENTRIES, "the number of entries")
    entries = {}
    for index in range(count):
        name = reader.text(f"the name of entry {index}")
        calls = reader.number(1 << 30, f"the calls of {name!r:.100}")
        columns = reader.number(_MOST_COLUMNS, f"the columns of {name!r:.100}")
        entries[name] = Entry(reader.floats(columns, name), float(calls))
    chunks = 0
    datasets: tuple[str, ...] = ()
    if not reader.at_end():
        chunks = reader.number(1 << 30, "the number of chunks")
        datasets = (reader.text("the data set's name"),) if not reader.at_end() else ()
    return ImportanceMatrix(entries, tuple(d for d in datasets if d), chunks)


def _binary(matrix: ImportanceMatrix) -> bytes:
    calls = max(matrix.chunks, 1)
    parts = [struct.pack("<i", len(matrix.entries))]
    for name, entry in sorted(matrix.entries.items()):
        values = (entry.sums / entry.count * calls if entry.count > 0 else entry.sums * 0).astype("<f4")
        parts += [_text(name), struct.pack("<ii", calls if entry.count > 0 else 0, len(values)), values.tobytes()]
    return b"".join([*parts, struct.pack("<i", matrix.chunks), _text(", ".join(matrix.datasets))])


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<i", len(data)) + data


class _Reader:
    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._path, self._at = data, path, 0

    def at_end(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise CheckpointError(f"{self._path} is no importance matrix, or cut off: {what} ends past the file's end")
        piece, self._at = self._data[self._at : end], end
        return piece

    def number(self, most: int, what: str) -> int:
        value: int
        (value,) = struct.unpack("<i", self.take(4, what))
        if not 0 <= value <= most:
            raise CheckpointError(f"{self._path} is no importance matrix: {what} is {value}, expected 0 to {most}")
        return value

    def text(self, what: str) -> str:
        data = self.take(self.number(_MOST_NAME, f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self._path} is no importance matrix: {what} is {data[:40]!r}") from None

    def floats(self, count: int, name: str) -> NDArray[np.float64]:
        data = self.take(4 * count, f"the values of {name!r:.100}")
        return np.frombuffer(data, "<f4").astype(np.float64)
