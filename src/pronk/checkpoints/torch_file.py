"""What `torch.save` writes since PyTorch 1.6: a zip archive with a pickle (data.pkl) and one member for each storage.

Members are stored, not compressed, so a tensor is the file's own bytes. Nothing of the pickle is run (`unpickle`).
"""

from __future__ import annotations

import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pronk.checkpoints.mapped import MappedFile
from pronk.checkpoints.unpickle import MAX_BYTES, StoredTensor, unpickle
from pronk.errors import CheckpointError
from pronk.tensors.lazy import LazyTensor

ZIP_MAGIC = b"PK\x03\x04"
_PICKLED_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # torch/serialization.py MAGIC_NUMBER
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_MAX_MEMBERS = 1 << 17
# What zipfile raises for damaged archives, besides its own errors.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, ValueError, OverflowError, EOFError, RuntimeError,
    IndexError, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, checked: dense, and within its storage."""

    file: MappedFile
    name: str
    tensor: StoredTensor
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def lazy(self, name: str) -> LazyTensor:
        """The tensor under the name that pronk has for it. Raises CheckpointError for a type it cannot compute with."""
        kind = self.tensor.storage.kind
        if kind.type is None:
            raise CheckpointError(
                f"{self.file.path}: {self.name[:200]!r} is in a {kind.name}, "
                "expected FloatStorage, HalfStorage or BFloat16Storage"
            )
        if not self.shape or not all(self.shape):
            raise CheckpointError(
                f"{self.file.path}: {self.name[:200]!r} has the shape {self.shape}, expected values in it"
            )
        return self.file.tensor(name, self.shape, kind.type, self.start)


def is_legacy(head: bytes) -> bool:
    """Whether a file's first bytes are those of torch.save before PyTorch 1.6: a bare pickle, or a tar archive."""
    return _PICKLED_MAGIC in head[:16] or head[257:262] == b"ustar"


def read_file(path: Path) -> dict[str, Entry]:
    """Every tensor of the dictionary in a file, by its name. Raises CheckpointError."""
    file = MappedFile(path)
    if is_legacy(file.buffer[:512]):
        raise CheckpointError(
            f"{path} is in PyTorch's format of before 1.6, expected its zip format; load it once with "
            "torch.load(path, weights_only=True) and torch.save it again"
        )
    members = _members(file)
    prefix = _prefix(members, path)
    _check_byte_order(file, members, prefix)
    try:
        state = unpickle(_bytes(file, members[f"{prefix}/data.pkl"]))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a dictionary of tensors")
    return {name: _entry(file, members, prefix, name, value) for name, value in state.items()}


def _members(file: MappedFile) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
    except _ZIP_ERRORS as error:
        raise _damaged(file, str(error)) from None
    if len(infos) > _MAX_MEMBERS:
        raise _damaged(file, f"it has {len(infos)} members")
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise _damaged(file, "a member is there twice")
    return members


def _damaged(file: MappedFile, reason: str) -> CheckpointError:
    return CheckpointError(f"{file.path} is truncated or damaged ({reason[:100]}); download it again")


def _prefix(members: dict[str, zipfile.ZipInfo], path: Path) -> str:
    """The folder that everything is in: its name is up to whoever saved the file."""
    found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise CheckpointError(f"{path} is a zip archive without one data.pkl, expected a file that torch.save wrote")
    return found[0].partition("/")[0]


def _check_byte_order(file: MappedFile, members: dict[str, zipfile.ZipInfo], prefix: str) -> None:
    member = members.get(f"{prefix}/byteorder")
    if member and _bytes(file, member) != b"little":
        raise CheckpointError(f"{file.path} is big-endian, expected little-endian")


def _span(file: MappedFile, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a member's bytes begin and end, by its own header: the archive's directory does not say."""
    name = member.filename
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise CheckpointError(
            f"{file.path}: the member {name[:100]!r} is compressed or encrypted, expected plain bytes"
        )
    start = member.header_offset
    if not 0 <= start <= file.size - _LOCAL_HEADER.size:
        raise _damaged(file, f"the member {name[:100]!r} begins outside the file")
    fields = _LOCAL_HEADER.unpack_from(file.buffer, start)
    if fields[0] != ZIP_MAGIC:
        raise _damaged(file, f"the member {name[:100]!r} has no header")
    start += _LOCAL_HEADER.size + fields[9] + fields[10]
    if member.file_size != member.compress_size or start + member.file_size > file.size:
        raise _damaged(file, f"the member {name[:100]!r} ends outside the file")
    return start, start + member.file_size


def _bytes(file: MappedFile, member: zipfile.ZipInfo) -> bytes:
    start, end = _span(file, member)
    if end - start > MAX_BYTES:
        raise CheckpointError(f"{file.path}: {member.filename[:100]!r} has {end - start} bytes, expected {MAX_BYTES}")
    return file.buffer[start:end]


def _entry(file: MappedFile, members: dict[str, zipfile.ZipInfo], prefix: str, name: str, value: object) -> Entry:
    what = f"{file.path}: {name[:200]!r}"
    if not isinstance(value, StoredTensor):
        raise CheckpointError(f"{what} is a {type(value).__name__}, expected a tensor")
    storage = value.storage
    member = members.get(f"{prefix}/data/{storage.key}")
    if member is None:
        raise CheckpointError(f"{what} is in the storage {storage.key[:40]!r}, which is not there; download it again")
    start, end = _span(file, member)
    if storage.count * storage.kind.itemsize > end - start:
        raise CheckpointError(
            f"{what} has a storage of {end - start} bytes, expected {storage.count} values; it is damaged"
        )
    if not value.dense:
        raise CheckpointError(
            f"{what} has strides {value.stride} for the shape {value.shape}, expected values in order; "
            "save it again with .contiguous()"
        )
    if value.offset + math.prod(value.shape) > storage.count:
        raise CheckpointError(f"{what} reaches beyond the {storage.count} values of its storage; the file is damaged")
    return Entry(file, name, value, start + value.offset * storage.kind.itemsize)
