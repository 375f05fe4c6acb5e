"""Decoding, bit for bit with the `gguf` package, and encoding of the float types and of Q8_0."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.codec import decode, encode
from pronk.tensors.types import TensorType
from support.quant_blocks import COMPUTABLE, dequantized, random_weights


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Equal to the bit, the sign of zero too; any NaN is a NaN."""
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(actual.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


def test_the_table_is_ggufs() -> None:
    for kind in types.ALL:
        theirs = gguf.GGMLQuantizationType(kind.id)
        assert theirs.name == kind.name
        assert gguf.GGML_QUANT_SIZES[theirs] == (kind.block, kind.bytes)


@pytest.mark.parametrize("kind", COMPUTABLE, ids=str)
def test_decode_equals_gguf(kind: TensorType) -> None:
    data = random_weights(kind, 33, 1024)
    assert_same_bits(decode(data, kind), dequantized(data, kind))


@pytest.mark.parametrize("kind", COMPUTABLE, ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # gguf's NumPy meets infinity times zero
def test_decode_equals_gguf_on_any_bytes(kind: TensorType) -> None:
    """Infinite, NaN and subnormal scales among them."""
    data = np.random.default_rng(3).integers(0, 256, kind.bytes * 20_000 * (32 // min(kind.block, 32)), dtype=np.uint8)
    assert_same_bits(decode(data, kind), dequantized(data, kind))


def test_decode_every_half() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    assert_same_bits(decode(halves.view(np.uint8), types.F16), halves.view(np.float16).astype(np.float32))
    assert_same_bits(decode(halves.view(np.uint8), types.BF16), (halves.astype(np.uint32) << 16).view(np.float32))
    # As a scale: d * 1 in each value.
    blocks = np.ones((1 << 16, types.Q8_0.bytes), np.uint8)
    blocks[:, :2] = halves.view(np.uint8).reshape(-1, 2)
    values = decode(blocks.reshape(-1), types.Q8_0).reshape(-1, 32)
    assert_same_bits(values[:, 5].copy(), halves.view(np.float16).astype(np.float32))


def test_decode_takes_any_layout() -> None:
    data = random_weights(types.Q4_K, 4, 256)
    expected = decode(data, types.Q4_K)
    np.testing.assert_array_equal(decode(data.reshape(4, -1), types.Q4_K), expected)
    np.testing.assert_array_equal(decode(np.stack([data, data], axis=1)[:, 0], types.Q4_K), expected)
    unaligned = np.empty(len(data) + 1, np.uint8)
    unaligned[1:] = data
    np.testing.assert_array_equal(decode(unaligned[1:], types.Q4_K), expected)
    assert decode(np.empty(0, np.uint8), types.Q6_K).shape == (0,)


def test_decode_refuses() -> None:
    with pytest.raises(CheckpointError, match="577 bytes are no whole number of Q4_K blocks of 144"):
        decode(np.zeros(577, np.uint8), types.Q4_K)
    with pytest.raises(CheckpointError, match="cannot decode NVFP4"):
        decode(np.zeros(36, np.uint8), types.NVFP4)


@pytest.mark.parametrize("kind", [types.F32, types.F16, types.BF16], ids=str)
def test_encode_decode(kind: TensorType) -> None:
    values = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float32)
    data = encode(values, kind)
    assert data.dtype == np.uint8
    assert data.shape == (values.size * kind.bytes,)
    again = decode(data, kind)
    np.testing.assert_allclose(again, values.reshape(-1), rtol=2.0**-8)
    np.testing.assert_array_equal(encode(again, kind), data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bf16_rounds_to_nearest_even(bits: int) -> None:
    value = np.array([bits], np.uint32).view(np.float32)
    result = decode(encode(value, types.BF16), types.BF16)
    if np.isnan(value[0]):
        assert np.isnan(result[0])
        return
    low = np.array([bits & 0xFFFF0000], np.uint32)
    with np.errstate(over="ignore"):
        high = low + np.uint32(0x10000)
    distance = bits & 0xFFFF
    expected = low if distance < 0x8000 or (distance == 0x8000 and not int(low[0]) & 0x10000) else high
    assert result.view(np.uint32)[0] == expected[0]


def test_bf16_equals_gguf() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
    np.testing.assert_array_equal(encode(values, types.BF16), expected.reshape(-1).view(np.uint8))


def test_q8_0_equals_gguf() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2000, 64)).astype(np.float32) * rng.choice([1e-6, 0.02, 1, 300], (2000, 1))
    values = values.astype(np.float32)
    values[0] = 0
    values[1, :32] = np.linspace(-127, 127, 32).round() / 2  # halves, with a scale that keeps them exact
    values[1, 0] = 63.5
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(encode(values, types.Q8_0), expected.reshape(-1))
    with pytest.raises(CheckpointError, match="33 values do not divide into Q8_0's blocks of 32"):
        encode(np.zeros(33, np.float32), types.Q8_0)


def test_bf16_keeps_nan() -> None:
    """A NaN whose set bits are all cut off must not become infinity."""
    nan = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(decode(encode(nan, types.BF16), types.BF16)).all()


def test_f16_overflow_is_infinite() -> None:
    assert decode(encode(np.array([1e6, -1e6]), types.F16), types.F16).tolist() == [np.inf, -np.inf]


def test_encode_refuses_unknown_types() -> None:
    with pytest.raises(CheckpointError, match="cannot write NVFP4 tensors yet"):
        encode(np.zeros(256, np.float32), types.NVFP4)
