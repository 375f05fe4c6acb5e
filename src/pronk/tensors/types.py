"""The table of tensor types: GGUF's names, ids and block sizes (ggml.h `ggml_type`, gguf-py `GGML_QUANT_SIZES`).

A block is the smallest run of values along a row that can be decoded alone: 256 values in 144 bytes for Q4_K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pronk.errors import CheckpointError


@dataclass(frozen=True)
class TensorType:
    name: str
    id: int  # GGUF's number
    block: int  # values in a block
    bytes: int  # bytes in a block

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.block

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row; a row holds whole blocks."""
        if columns % self.block:
            raise CheckpointError(f"a {self.name} row has {columns} values, expected a multiple of {self.block}")
        return columns // self.block * self.bytes

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1])

    def __str__(self) -> str:
        return self.name


F32 = TensorType("F32", 0, 1, 4)
F16 = TensorType("F16", 1, 1, 2)
BF16 = TensorType("BF16", 30, 1, 2)
Q4_0 = TensorType("Q4_0", 2, 32, 18)
Q4_1 = TensorType("Q4_1", 3, 32, 20)
Q5_0 = TensorType("Q5_0", 6, 32, 22)
Q5_1 = TensorType("Q5_1", 7, 32, 24)
Q8_0 = TensorType("Q8_0", 8, 32, 34)
Q2_K = TensorType("Q2_K", 10, 256, 84)
Q3_K = TensorType("Q3_K", 11, 256, 110)
Q4_K = TensorType("Q4_K", 12, 256, 144)
Q5_K = TensorType("Q5_K", 13, 256, 176)
Q6_K = TensorType("Q6_K", 14, 256, 210)
IQ2_XXS = TensorType("IQ2_XXS", 16, 256, 66)
IQ2_XS = TensorType("IQ2_XS", 17, 256, 74)
IQ3_XXS = TensorType("IQ3_XXS", 18, 256, 98)
IQ1_S = TensorType("IQ1_S", 19, 256, 50)
IQ4_NL = TensorType("IQ4_NL", 20, 32, 18)
IQ3_S = TensorType("IQ3_S", 21, 256, 110)
IQ2_S = TensorType("IQ2_S", 22, 256, 82)
IQ4_XS = TensorType("IQ4_XS", 23, 256, 136)
IQ1_M = TensorType("IQ1_M", 29, 256, 56)
TQ1_0 = TensorType("TQ1_0", 34, 256, 54)
TQ2_0 = TensorType("TQ2_0", 35, 256, 66)
MXFP4 = TensorType("MXFP4", 39, 32, 17)
NVFP4 = TensorType("NVFP4", 40, 64, 36)
Q1_0 = TensorType("Q1_0", 41, 128, 18)

ALL = (
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S,
    IQ4_NL, IQ3_S, IQ2_S, IQ4_XS, IQ1_M, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0,
)  # fmt: skip
# The types that this version decodes and multiplies with; the rest of the table is known by name and size only.
COMPUTABLE = frozenset(ALL) - {NVFP4, Q1_0}

_BY_NAME = {t.name: t for t in ALL}
_BY_ID = {t.id: t for t in ALL}


def by_name(name: str) -> TensorType:
    """The type called `name`, in any case. Raises CheckpointError for an unknown one."""
    try:
        return _BY_NAME[name.upper()]
    except KeyError:
        raise CheckpointError(f"unknown tensor type {name!r}, expected one of {', '.join(_BY_NAME)}") from None


def by_id(number: int, tensor: str = "a tensor") -> TensorType:
    """The type with GGUF's number. Raises CheckpointError naming the tensor."""
    try:
        return _BY_ID[number]
    except KeyError:
        raise CheckpointError(f"{tensor} has GGUF type {number}, which this version does not know") from None
