"""Files as bytes in memory that the operating system fetches when they are touched, and JSON files."""

from __future__ import annotations

import json
import mmap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import F32, TensorType

MAX_JSON_BYTES = 64 << 20  # far above any config, index or tokenizer_config; a larger one is something else


class MappedFile:
    """A whole file, read-only. `buffer` is for struct and slices, `data` is the same bytes as an array.

    The pages stay mapped for as long as any array made from them lives. Raises CheckpointError for a file that is
    missing, empty or not a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError:  # mmap's word for a file of no bytes
            raise CheckpointError(f"{path} is empty; download it again") from None
        self.size = len(self.buffer)
        self.data: NDArray[np.uint8] = np.frombuffer(self.buffer, np.uint8)

    def tensor(self, name: str, shape: tuple[int, ...], type: TensorType, start: int) -> LazyTensor:
        """The tensor whose bytes begin at `start`. The caller has checked that they end within the file.

        Bytes that lie at an odd address are copied when loaded: no kernel has to read a float across its alignment.
        """
        end = start + type.nbytes(shape)
        assert 0 <= start <= end <= self.size, f"{name} is outside {self.path}"
        data = self.data
        if start % (4 if type == F32 else 2):
            return LazyTensor(name, shape, type, lambda: data[start:end].copy())
        return LazyTensor(name, shape, type, lambda: data[start:end], mapped=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError for anything else."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {size} bytes, expected a JSON file of at most {MAX_JSON_BYTES}")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """The object in some JSON text; a name that is there twice is an error, not the last one's value."""
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON ({_first_line(error)}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds a {type(value).__name__}, expected a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise CheckpointError(f"{twice[:200]!r} is there twice; the file is damaged")
    return made


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
