"""The GGUF container: metadata and where each tensor's bytes are. What they mean is `gguf_reader`'s.

Layout: the GGUF specification (ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian. Every length, count and
offset is held against the file's size before it is used, so a file that lies costs an error and no memory. Strings of
an array are found at once, as there is no other way past them, and decoded when asked for: Llama 3 has 408,000.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from pronk.checkpoints.mapped import MappedFile
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MAX_STRINGS = 1 << 23  # in one array; twice the tokens that any vocabulary may have
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 17

_U64 = struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Value type: NumPy type (docs/gguf.md, `gguf_metadata_value_type`).
_NUMBERS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class _Array:
    """An array that nobody has asked for yet."""

    make: Callable[[], list[object]]


class Metadata(Mapping[str, object]):
    """Keys and values in the file's order. Numbers, booleans and strings are Python's, arrays are lists.

    An array is made when it is first asked for, and kept. Its strings keep bytes that are no UTF-8 as lone surrogates.
    """

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> object:
        value = self._values[key]
        if isinstance(value, _Array):
            value = self._values[key] = value.make()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class GGUFFile:
    """`tensors` are by the file's own names, shapes rows first."""

    path: Path
    metadata: Metadata
    tensors: Mapping[str, LazyTensor]


def read(path: Path) -> GGUFFile:
    """Open one GGUF file. Raises CheckpointError for one that is damaged or of another kind."""
    file = MappedFile(path)
    cursor = _Cursor(file)
    if cursor.bytes(4, "the magic number") != MAGIC:
        raise CheckpointError(f"{path} does not begin with GGUF; it is another kind of file, or damaged")
    _check_version(cursor.number("<I", "the version"), path)
    tensor_count = cursor.count("the number of tensors", _MAX_TENSORS, least_bytes=24)
    key_count = cursor.count("the number of metadata keys", _MAX_KEYS, least_bytes=13)
    metadata = _read_metadata(cursor, key_count)
    tensors = _read_tensors(cursor, tensor_count, _alignment(metadata, path))
    return GGUFFile(path, metadata, tensors)


def _check_version(version: int, path: Path) -> None:
    if version in _VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        raise CheckpointError(f"{path} is a big-endian GGUF, expected little-endian; convert the original model again")
    raise CheckpointError(f"{path} is GGUF version {version}, expected 2 or 3; convert the original model again")


class _Cursor:
    """A place in the file. Each method takes what is there and moves on, or says what is cut off."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.at = 0

    def take(self, count: int, what: str) -> int:
        """Where the next `count` bytes begin."""
        start, end = self.at, self.at + count
        if end > self.file.size:
            raise CheckpointError(
                f"{self.file.path} is truncated or damaged: {what} ends at byte {end}, the file at {self.file.size}; "
                "download it again"
            )
        self.at = end
        return start

    def bytes(self, count: int, what: str) -> bytes:
        start = self.take(count, what)
        return self.file.buffer[start : self.at]

    def number(self, code: str, what: str) -> int:
        value: int
        (value,) = struct.unpack_from(code, self.file.buffer, self.take(struct.calcsize(code), what))
        return value

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A number of things, each of which takes at least so many bytes of the rest of the file."""
        count = self.number("<Q", what)
        most = min(most, (self.file.size - self.at) // least_bytes)
        if count > most:
            raise CheckpointError(f"{self.file.path} is damaged: {what} is {count}, expected at most {most}")
        return count

    def text(self, what: str) -> str:
        data = self.bytes(self.number("<Q", what), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.file.path} is damaged: {what} is {data[:40]!r}, expected UTF-8") from None

    def strings(self, count: int, what: str) -> array[int]:
        """Where each of `count` strings begins (its length, then its bytes), and the end of the last."""
        buffer, unpack, at, last = self.file.buffer, _U64.unpack_from, self.at, self.file.size - _U64.size
        starts = array("Q")
        for _ in range(count):
            if at > last:
                break
            starts.append(at)
            at += unpack(buffer, at)[0] + 8
        if len(starts) < count or at > self.file.size:
            raise CheckpointError(
                f"{self.file.path} is truncated or damaged: {what} has {count} strings and the file ends within string "
                f"{len(starts) - 1}; download it again"
            )
        self.at = at
        starts.append(at)
        return starts


def _read_metadata(cursor: _Cursor, count: int) -> Metadata:
    values: dict[str, object] = {}
    for index in range(count):
        key = cursor.text(f"metadata key {index}")
        what = f"the metadata key {key[:100]!r}"
        if not key or key in values:
            raise CheckpointError(f"{cursor.file.path} is damaged: {what} is {'there twice' if key else 'empty'}")
        kind = cursor.number("<I", what)
        values[key] = _Array(_read_array(cursor, what)) if kind == _ARRAY else _read_value(cursor, kind, what)
    return Metadata(values)


def _read_value(cursor: _Cursor, kind: int, what: str) -> object:
    if kind == _STRING:
        return cursor.text(what)
    return _numbers(cursor, kind, 1, what)()[0]


def _read_array(cursor: _Cursor, what: str) -> Callable[[], list[object]]:
    kind = cursor.number("<I", what)
    if kind != _STRING:
        width = np.dtype(_NUMBERS.get(kind, "u1")).itemsize
        return _numbers(cursor, kind, cursor.count(f"{what}'s length", cursor.file.size, width), what)
    starts = cursor.strings(cursor.count(f"{what}'s length", _MAX_STRINGS, 8), what)
    return partial(_decode_strings, cursor.file, starts)


def _decode_strings(file: MappedFile, starts: array[int]) -> list[object]:
    first = starts[0]
    data = file.buffer[first : starts[-1]]
    return [data[a - first + 8 : b - first].decode(errors="surrogateescape") for a, b in pairwise(starts)]


def _numbers(cursor: _Cursor, kind: int, count: int, what: str) -> Callable[[], list[object]]:
    if kind not in _NUMBERS:
        raise CheckpointError(
            f"{cursor.file.path}: {what} has value type {kind}, expected a number, a string or an array of these"
        )
    dtype = np.dtype(_NUMBERS[kind])
    start = cursor.take(count * dtype.itemsize, what)
    values = np.frombuffer(cursor.file.buffer, dtype, count, start)
    if kind != _BOOL:
        return values.tolist
    if count and values.max() > 1:
        raise CheckpointError(f"{cursor.file.path} is damaged: {what} is {values.max()}, expected 0 or 1 for a boolean")
    return values.astype(bool).tolist


def _alignment(metadata: Metadata, path: Path) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 24 or value & (value - 1):
        raise CheckpointError(f"{path}: general.alignment is {value!r}, expected a power of two")
    return value


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type: types.TensorType
    offset: int


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, LazyTensor]:
    entries: dict[str, _Entry] = {}
    for index in range(count):
        entry = _read_entry(cursor, index, alignment)
        if entry.name in entries:
            raise CheckpointError(f"{cursor.file.path} is damaged: the tensor {entry.name[:100]!r} is there twice")
        entries[entry.name] = entry
    file, start = cursor.file, -(-cursor.at // alignment) * alignment
    end, before = 0, ""
    for entry in sorted(entries.values(), key=lambda e: e.offset):
        if entry.offset < end:
            raise CheckpointError(
                f"{file.path} is damaged: the tensors {before[:100]!r} and {entry.name[:100]!r} overlap"
            )
        end, before = entry.offset + entry.type.nbytes(entry.shape), entry.name
        if start + end > file.size:
            raise CheckpointError(
                f"{file.path} is truncated: {entry.name[:100]!r} ends at byte {start + end}, the file at {file.size}; "
                "download it again"
            )
    return {e.name: file.tensor(e.name, e.shape, e.type, start + e.offset) for e in entries.values()}


def _read_entry(cursor: _Cursor, index: int, alignment: int) -> _Entry:
    path = cursor.file.path
    name = cursor.text(f"the name of tensor {index}")
    what = f"the tensor {name[:100]!r}"
    dimensions = cursor.number("<I", what)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: {what} has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}")
    # GGUF counts the values of a row first
    shape = tuple(cursor.number("<Q", what) for _ in range(dimensions))[::-1]
    type = types.by_id(cursor.number("<I", what), f"{path}: {what}")
    offset = cursor.number("<Q", what)
    if not all(shape):
        raise CheckpointError(f"{path}: {what} has the shape {shape}, expected no zeros; the file is damaged")
    if shape[-1] % type.block:
        raise CheckpointError(f"{path}: {what} is {type} with rows of {shape[-1]}, expected a multiple of {type.block}")
    if offset % alignment:
        raise CheckpointError(f"{path}: {what} begins at {offset}, expected a multiple of the alignment {alignment}")
    return _Entry(name, shape, type, offset)
