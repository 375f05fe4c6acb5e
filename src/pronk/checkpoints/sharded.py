"""One tensor out of its parts in Meta's shards, which were cut for as many GPUs.

Meta's fairscale layers cut wq, wk, wv, w1, w3 and output by rows, wo and w2 by columns, tok_embeddings by rows (Llama
3) or columns (Llama 2), and copy the norms. How a tensor was cut shows in its parts' shapes. With more shards than
key/value heads, several shards in a row hold the same head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.tensors.lazy import LazyTensor

Cut = Literal["none", "copies", "rows", "columns"]


@dataclass(frozen=True)
class Sharded:
    """`parts` in shard order make a tensor of `shape`. Cut by rows, each run of `repeats` parts is the same part."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[LazyTensor, ...]
    cut: Cut
    repeats: int = 1

    def lazy(self) -> LazyTensor:
        """The whole tensor: the file's own bytes where there is one part, put together at each load otherwise."""
        if self.cut == "none":
            return self.parts[0]
        return LazyTensor(self.name, self.shape, self.parts[0].type, self._load)

    def row(self, index: int) -> NDArray[np.uint8]:
        """The bytes of one row of a matrix."""
        rows = self.parts[0].shape[0]
        if self.cut == "columns":
            return np.concatenate([_row(part, index) for part in self.parts])
        return _row(self.parts[index // rows * self.repeats], index % rows)

    def _load(self) -> NDArray[np.uint8]:
        if self.cut == "columns":
            return np.concatenate([_rows(part) for part in self.parts], axis=1).reshape(-1)
        repeats = len(self.parts) if self.cut == "copies" else self.repeats
        for first in range(0, len(self.parts), repeats):
            self._check_equal(self.parts[first : first + repeats], first)
        return np.concatenate([part.load() for part in self.parts[::repeats]])

    def _check_equal(self, parts: Sequence[LazyTensor], first: int) -> None:
        for index, part in enumerate(parts[1:], first + 1):
            if not np.array_equal(parts[0].load(), part.load()):
                raise CheckpointError(
                    f"{self.name} in shard {index} differs from that in shard {first}, expected a copy; "
                    "the shards are of different models, or damaged"
                )


def _rows(part: LazyTensor) -> NDArray[np.uint8]:
    """(rows, bytes of a row)"""
    return part.load().reshape(part.shape[0], -1)


def _row(part: LazyTensor, index: int) -> NDArray[np.uint8]:
    row: NDArray[np.uint8] = _rows(part)[index]
    return row


def sharded(name: str, shape: tuple[int, ...], parts: Sequence[LazyTensor], repeats: int = 1) -> Sharded:
    """How the parts make the tensor. Raises CheckpointError where they do not."""
    shapes = {part.shape for part in parts}
    if len({part.type for part in parts}) > 1:
        raise CheckpointError(f"{name} has different types in different shards; the shards are of different models")
    if len(parts) == 1 and shapes == {shape}:
        return Sharded(name, shape, tuple(parts), "none")
    if len(shapes) == 1:
        (part,) = shapes
        cut = _cut(shape, part, len(parts), repeats)
        if cut:
            return Sharded(name, shape, tuple(parts), cut, repeats)
    found = ", ".join(map(str, sorted(shapes)[:4]))
    raise CheckpointError(
        f"{name} is {found} in {len(parts)} {'shard' if len(parts) == 1 else 'shards'}, expected parts of {shape} from "
        "params.json; the two do not belong together"
    )


def _cut(shape: tuple[int, ...], part: tuple[int, ...], count: int, repeats: int) -> Cut | None:
    if len(shape) == 1:
        return "copies" if part == shape else None
    if len(part) != 2:
        return None
    if part[1] == shape[1] and part[0] * count == shape[0] * repeats:
        return "rows"
    return "columns" if part[0] == shape[0] and part[1] * count == shape[1] and repeats == 1 else None


def repeated_heads(parts: Sequence[Sequence[LazyTensor]]) -> int:
    """How many shards in a row hold the same key/value head, for matrices (each as its parts) of one head a part.

    Told by the first row of every matrix; `Sharded` compares the rest when it is loaded.
    """
    count = len(parts[0])
    rows = [[_row(part, 0) for part in matrix] for matrix in parts]
    for repeats in range(count, 1, -1):
        if count % repeats == 0 and all(_repeats(matrix, repeats) for matrix in rows):
            return repeats
    return 1


def _repeats(rows: Sequence[NDArray[np.uint8]], repeats: int) -> bool:
    return all(np.array_equal(row, rows[i // repeats * repeats]) for i, row in enumerate(rows))


def same_rows(a: Sharded, b: Sharded, samples: int = 64) -> bool:
    """Whether two matrices of one shape are the same, by so many rows spread over them."""
    if a.shape != b.shape or a.parts[0].type != b.parts[0].type:
        return False
    count = a.shape[0]
    indices = {i * (count - 1) // max(1, samples - 1) for i in range(min(samples, count))} | {count - 1}
    return all(np.array_equal(a.row(i), b.row(i)) for i in sorted(indices)) and math.prod(a.shape) > 0
