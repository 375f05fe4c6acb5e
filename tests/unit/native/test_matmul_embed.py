"""Rows of an embedding table, in every type."""

from __future__ import annotations

import numpy as np
import pytest

from pronk.native.matmul import Matrix, embed
from pronk.tensors.types import TensorType
from support.quant_blocks import COMPUTABLE, dequantized, random_weights


@pytest.mark.parametrize("kind", COMPUTABLE, ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 600])
def test_embed(kind: TensorType, count: int) -> None:
    data = random_weights(kind, 100, 512)
    ids = np.random.default_rng(0).integers(0, 100, count, dtype=np.int32)
    rows = embed(Matrix(data, kind.id, 100, 512), ids)
    np.testing.assert_array_equal(rows, dequantized(data, kind).reshape(100, 512)[ids])


@pytest.mark.parametrize("bad", [-1, 100, 2**31 - 1, -(2**31)])
def test_ids_outside_the_table(bad: int) -> None:
    table = Matrix(np.zeros(100 * 64 * 4, np.uint8), 0, 100, 64)
    with pytest.raises(ValueError, match=f"id {bad} is outside the table's 100 rows"):
        embed(table, np.array([0, bad, 1], np.int32))
    with pytest.raises(TypeError):
        embed(table, np.array([1], np.int64))  # type: ignore[arg-type]
