"""safetensors files, alone or with an index (huggingface/safetensors, README "Format").

Eight bytes of header length, a JSON header that names every tensor's type, shape and bytes, then the bytes. As the
original library, this one wants the tensors to cover the data exactly: no hole, no overlap, nothing behind the last.
F32, F16 and BF16 are used as they are. Other types (F64 among them) are refused by name, where a model needs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from pronk.checkpoints.mapped import MappedFile, parse_json, read_json
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

MAX_HEADER_BYTES = 100_000_000  # the original library's bound
INDEX = "model.safetensors.index.json"
_MAX_DIMENSIONS = 8
_COMPUTABLE = {"F32": types.F32, "F16": types.F16, "BF16": types.BF16}
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: what the header says of it, checked."""

    file: MappedFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    def lazy(self, name: str) -> LazyTensor:
        """The tensor under the name that pronk has for it. Raises CheckpointError for a type it cannot compute with."""
        if self.dtype not in _COMPUTABLE:
            raise CheckpointError(
                f"{self.file.path}: {self.name[:200]!r} is {self.dtype}, expected one of {', '.join(_COMPUTABLE)}; "
                "convert it with the tool that wrote it"
            )
        if not self.shape or not all(self.shape):
            raise CheckpointError(
                f"{self.file.path}: {self.name[:200]!r} has the shape {self.shape}, expected values in it"
            )
        return self.file.tensor(name, self.shape, _COMPUTABLE[self.dtype], self.start)


def read_file(path: Path) -> dict[str, Entry]:
    """Every tensor of one file by its name. Raises CheckpointError."""
    file = MappedFile(path)
    size = int.from_bytes(file.buffer[:8], "little")
    if file.size < 8 or size > min(MAX_HEADER_BYTES, file.size - 8):
        raise CheckpointError(
            f"{path} is truncated or no safetensors file: its header would have {size} bytes, "
            f"and the file has {file.size}; download it again"
        )
    header = parse_json(file.buffer[8 : 8 + size], f"the header of {path}")
    header.pop("__metadata__", None)
    entries = [_entry(file, name, value, 8 + size) for name, value in header.items()]
    _check_cover(file, entries, 8 + size)
    return {entry.name: entry for entry in entries}


def _entry(file: MappedFile, name: str, value: object, base: int) -> Entry:
    what = f"{file.path}: {name[:200]!r}"
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is no object in the header; the file is damaged")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"{what} has the type {str(dtype)[:40]!r}, expected a safetensors type such as BF16")
    if not _whole_numbers(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"{what} has no shape of whole numbers; the file is damaged")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{what} has no data_offsets [begin, end]; the file is damaged")
    bits = math.prod(shape) * _BITS[dtype]
    if 8 * (offsets[1] - offsets[0]) != bits:
        raise CheckpointError(
            f"{what} is {dtype} {tuple(shape)}, {bits // 8} bytes, but has {offsets[1] - offsets[0]}; it is damaged"
        )
    return Entry(file, name, dtype, tuple(shape), base + offsets[0])


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in value)


def _check_cover(file: MappedFile, entries: list[Entry], base: int) -> None:
    end, before = base, "the header"
    for entry in sorted(entries, key=lambda e: (e.start, _bytes(e))):
        if entry.start != end:
            wrong = "overlap" if entry.start < end else "have a gap between them"
            raise CheckpointError(f"{file.path} is damaged: {before} and {entry.name[:200]!r} {wrong}")
        end, before = end + _bytes(entry), repr(entry.name[:200])
    if end != file.size:
        raise CheckpointError(
            f"{file.path} has {file.size} bytes, expected {end} from its header; "
            f"it is {'truncated' if file.size < end else 'damaged'}, download it again"
        )


def _bytes(entry: Entry) -> int:
    return math.prod(entry.shape) * _BITS[entry.dtype] // 8


def read_indexed(directory: Path, index: str = INDEX) -> dict[str, Entry]:
    """Every tensor that an index names, each from the file that it names. Raises CheckpointError for a missing file or
    tensor."""
    places = weight_map(directory / index)
    files: dict[str, dict[str, Entry]] = {}
    entries = {}
    for name, file in places.items():
        if file not in files:
            files[file] = read_file(directory / file)
        if name not in files[file]:
            raise CheckpointError(f"{directory / file} has no {name}, which {index} places there; download it again")
        entries[name] = files[file][name]
    return entries


def weight_map(index: Path) -> Mapping[str, str]:
    """Tensor name -> file name, every file there. The names stay within the index's directory."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    for file in places.values():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise CheckpointError(f"{index} names the file {str(file)[:80]!r}, expected one beside it")
    missing = sorted({file for file in places.values() if not (index.parent / file).exists()})
    if missing:
        raise CheckpointError(
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} of {len(set(places.values()))} shards "
            f"{'is' if len(missing) == 1 else 'are'} missing beside {index}; download the missing shards"
        )
    return places
