"""A tensor that is known by name, shape and type, and whose bytes come when asked for.

Opening a checkpoint makes these and reads no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pronk.tensors.types import TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LazyTensor:
    """shape is rows first ((out, in) for a linear weight); a row's values are contiguous blocks of `type`.

    `load` returns the tensor's bytes, C order, shape (nbytes,), read-only. When `mapped` is true they are a view of the
    file's own pages, so calling it costs nothing; otherwise they are put together (shards, permuted rows) at each call
    and belong to the caller.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    load: Callable[[], NDArray[np.uint8]] = field(repr=False, compare=False)
    mapped: bool = False

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(self.shape)

    def array(self) -> NDArray[np.float32]:
        """The values as float32, shape `shape`. Decodes the whole tensor."""
        from pronk.tensors.codec import decode

        return decode(self.load(), self.type).reshape(self.shape)
