"""Encoding of every quantized type: what comes back, how near it is, and what must not change it."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.native import runtime
from pronk.tensors import types
from pronk.tensors.codec import decode, encode
from pronk.tensors.types import TensorType
from support.quant_blocks import QUANTIZED, dequantized

# The root of the mean squared error over the values' own, of normal values, that a type stays under.
CEILINGS = {
    "Q4_0": 0.085, "Q4_1": 0.075, "Q5_0": 0.043, "Q5_1": 0.037, "Q8_0": 0.006,
    "Q2_K": 0.28, "Q3_K": 0.155, "Q4_K": 0.075, "Q5_K": 0.037, "Q6_K": 0.018,
    "IQ4_NL": 0.078, "IQ4_XS": 0.078, "IQ3_S": 0.14, "IQ3_XXS": 0.19, "IQ2_S": 0.26, "IQ2_XS": 0.30, "IQ2_XXS": 0.36,
    "IQ1_M": 0.48, "IQ1_S": 0.52, "TQ1_0": 0.46, "TQ2_0": 0.46, "MXFP4": 0.12,
}  # fmt: skip
THEIRS = [t for t in QUANTIZED if t.name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")]
# What these decode to is written again without loss. (The others' searches need not come upon the same scales.)
EXACT_AGAIN = [t for t in QUANTIZED if t.name in ("Q4_0", "Q5_0", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "IQ4_NL")]

# Whose scales are free. MXFP4's are powers of two, Q8_0 is as everyone writes it, and ternary types are for weights
# that have three levels.
FREE_SCALES = [t for t in QUANTIZED if t.name not in ("Q8_0", "MXFP4", "TQ1_0", "TQ2_0")]

every_type = pytest.mark.parametrize("kind", QUANTIZED, ids=str)


def normal(rows: int, cols: int = 512, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.02, (rows, cols)).astype(np.float32)


def importances(cols: int = 512) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return (rng.standard_normal(cols) ** 2 * np.exp(rng.standard_normal(cols)) + 0.01).astype(np.float32)


def again(
    values: NDArray[np.float32], kind: TensorType, importance: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """What the values are after encoding."""
    return decode(encode(values, kind, importance), kind).reshape(values.shape)


def error(
    values: NDArray[np.float32], others: NDArray[np.float32], weights: NDArray[np.float32] | float = 1.0
) -> float:
    return float((weights * (values.astype(np.float64) - others) ** 2).sum())


@every_type
def test_the_error_is_small(kind: TensorType) -> None:
    values = normal(8)
    data = encode(values, kind)
    assert data.dtype == np.uint8
    assert data.shape == (kind.nbytes(values.shape),)
    decoded = decode(data, kind)
    np.testing.assert_array_equal(decoded, dequantized(data, kind))
    relative = (error(values, decoded.reshape(values.shape)) / error(values, np.zeros_like(values))) ** 0.5
    assert relative < CEILINGS[kind.name]


@pytest.mark.parametrize("kind", FREE_SCALES, ids=str)
@pytest.mark.parametrize("weights", [None, importances()], ids=["plain", "weighted"])
def test_nothing_shrinks(kind: TensorType, weights: NDArray[np.float32] | None) -> None:
    """What least squares would take off the length of a row is as much as its error: 0.5 % at four bits, 7 % at two."""
    values = normal(8).astype(np.float64)
    measure = 1.0 if weights is None else weights.astype(np.float64)
    written = again(values.astype(np.float32), kind, weights)
    assert (measure * values * written).sum() == pytest.approx((measure * values * values).sum(), rel=1e-3)


@pytest.mark.parametrize("kind", THEIRS, ids=str)
@pytest.mark.parametrize("tail", [3, 30])
def test_no_worse_than_gguf(kind: TensorType, tail: int) -> None:
    values = (np.random.default_rng(tail).standard_t(tail, (16, 512)) * 0.02).astype(np.float32)
    data = np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType(kind.id))).reshape(-1)
    assert error(values, again(values, kind)) <= error(values, decode(data, kind).reshape(values.shape))


@pytest.mark.parametrize("kind", [t for t in QUANTIZED if t is not types.Q8_0], ids=str)
def test_importance_lowers_the_weighted_error(kind: TensorType) -> None:
    values, weights = normal(8), importances()
    with_it, without = again(values, kind, weights), again(values, kind)
    assert error(values, with_it, weights) < error(values, without, weights)


@every_type
def test_importances_count_by_their_ratios(kind: TensorType) -> None:
    values = normal(2)
    expected = encode(values, kind)
    for weight in (0.0, 1.0, 2.0**-66, 2.0**100):
        np.testing.assert_array_equal(encode(values, kind, np.full(512, weight, np.float32)), expected)


@pytest.mark.parametrize("kind", EXACT_AGAIN, ids=str)
def test_encoding_again_changes_nothing(kind: TensorType) -> None:
    once = again(normal(8), kind)
    np.testing.assert_array_equal(again(once, kind), once)


@every_type
def test_threads_and_instruction_sets_change_nothing(kind: TensorType) -> None:
    values, weights = normal(70), importances()  # more than one task of the thread pool
    count, isa = runtime.threads(), runtime.isa()
    expected = encode(values, kind, weights)
    try:
        for threads in (1, 3):
            runtime.set_threads(threads)
            np.testing.assert_array_equal(encode(values, kind, weights), expected)
        for other in runtime.isas():
            runtime.select_isa(other)
            np.testing.assert_array_equal(encode(values[:3], kind, weights), expected[: kind.nbytes((3, 512))])
    finally:
        runtime.set_threads(count)
        runtime.select_isa(isa)


@every_type
def test_a_row_depends_on_itself_alone(kind: TensorType) -> None:
    values = normal(3)
    rows = encode(values, kind).reshape(3, -1)
    for row, data in zip(values, rows, strict=True):
        np.testing.assert_array_equal(encode(row, kind), data)


@every_type
def test_zeros(kind: TensorType) -> None:
    assert not again(np.zeros((2, 256), np.float32), kind).any()


@every_type
@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e-8, 1e-4, 1e3, 1e6, 1e20, 3e38])
def test_any_size_stays_finite(kind: TensorType, size: float) -> None:
    """fp16 scales end somewhere: beyond, values saturate, and far below them they are nothing."""
    values = (np.clip(normal(2, 256) * 20, -1, 1) * np.float32(size)).astype(np.float32)
    decoded = again(values, kind)
    assert np.isfinite(decoded).all()
    assert float(np.abs(decoded).max()) <= 2 * float(np.abs(values).max()) + 2e-7
    if size in (1e-4, 1e3):
        relative = (error(values, decoded) / error(values, np.zeros_like(values))) ** 0.5
        assert relative < 2 * CEILINGS[kind.name] + 0.1


@every_type
@pytest.mark.parametrize("value", [1.0, -0.3])
def test_constant_rows(kind: TensorType, value: float) -> None:
    values = np.full((1, 256), value, np.float32)
    few_levels = kind.name.startswith("IQ") or kind is types.MXFP4
    np.testing.assert_allclose(again(values, kind), values, rtol=0.25 if few_levels else 0.001)


@every_type
def test_one_outlier(kind: TensorType) -> None:
    values = normal(1, 256)
    values[0, 77] = 5.0
    decoded = again(values, kind)
    coarse = kind.name.startswith(("IQ1", "IQ2", "TQ", "MX"))  # few levels, or neighbours that must have them, too
    assert decoded[0, 77] == pytest.approx(5.0, rel=0.6 if coarse else 0.15)
    assert error(values, decoded) < error(values, np.zeros_like(values))


def test_refusals() -> None:
    values = normal(2)
    values[1, 5] = np.nan
    with pytest.raises(CheckpointError, match="cannot write a tensor as Q4_K: value 5 of row 1 is nan"):
        encode(values, types.Q4_K)
    values[1, 5] = -np.inf
    with pytest.raises(CheckpointError, match="value 5 of row 1 is -inf"):
        encode(values, types.IQ2_XXS)
    with pytest.raises(CheckpointError, match="384 values do not divide into Q6_K's blocks of 256"):
        encode(np.zeros((2, 384), np.float32), types.Q6_K)
    with pytest.raises(CheckpointError, match="511 importances for 512 columns"):
        encode(normal(2), types.Q4_0, importances(511))
    with pytest.raises(CheckpointError, match="the importance of column 3 is -1"):
        encode(normal(2), types.Q4_0, np.array([1, 1, 1, -1] * 128, np.float32))
    with pytest.raises(CheckpointError, match="the importance of column 0 is nan"):
        encode(normal(2), types.Q4_0, np.full(512, np.nan, np.float32))


def test_empty() -> None:
    assert encode(np.empty((0, 256), np.float32), types.Q4_K).shape == (0,)
