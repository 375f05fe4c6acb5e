"""Matrix products: what they mean, and that a value never depends on what is computed beside it."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.native import runtime
from pronk.native.matmul import Matrix, linear
from pronk.tensors import types
from pronk.tensors.types import TensorType
from support.quant_blocks import COMPUTABLE, QUANTIZED, dequantized, random_weights, set_scales

by_type = pytest.mark.parametrize("kind", COMPUTABLE, ids=str)
by_isa = pytest.mark.parametrize("isa", runtime.isas())

TOKENS = (1, 2, 3, 5, 6, 7, 13, 40)


@pytest.fixture(autouse=True)
def _restore_runtime() -> Iterator[None]:
    isa, threads = runtime.isa(), runtime.threads()
    yield
    runtime.select_isa(isa)
    runtime.set_threads(threads)


def make_matrix(kind: TensorType, rows: int, cols: int, seed: int = 0) -> tuple[Matrix, NDArray[np.float32]]:
    data = random_weights(kind, rows, cols, seed)
    return Matrix(data, kind.id, rows, cols), dequantized(data, kind).reshape(rows, cols)


def make_x(tokens: int, cols: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((tokens, cols), dtype=np.float32)


def quantized_x(x: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """x as the kernels see it: int8 with a scale a block."""
    blocks = x.reshape(-1, block)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    q = np.rint(blocks * (np.float32(127) / largest))
    return (q.astype(np.float64) * (largest / np.float32(127)).astype(np.float64)).reshape(x.shape)


@by_isa
@by_type
@pytest.mark.parametrize("tokens", [1, 4, 40])
def test_equals_float64_reference(kind: TensorType, isa: str, tokens: int) -> None:
    runtime.select_isa(isa)
    weight, values = make_matrix(kind, 67, 1024)
    x = make_x(tokens, 1024)
    (y,) = linear(x, [weight])
    seen = quantized_x(x, kind.block) if kind in QUANTIZED else x.astype(np.float64)
    expected = seen @ values.astype(np.float64).T
    scale = np.abs(seen) @ np.abs(values.astype(np.float64)).T
    assert y.shape == (tokens, 67)
    assert np.abs(y - expected).max() <= 2e-6 * scale.max()
    # And, with the quantization's own error, what a float model would give.
    exact = x.astype(np.float64) @ values.astype(np.float64).T
    assert np.linalg.norm(y - exact) <= 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("isa", [isa for isa in runtime.isas() if isa != "portable"])
@by_type
@pytest.mark.parametrize("rows", [1, 33, 100])
def test_every_isa_gives_the_same_bits(kind: TensorType, isa: str, rows: int) -> None:
    for cols in {kind.block * 2, 512, 768 if kind.block == 256 else 64 * 11}:
        weight, _ = make_matrix(kind, rows, cols)
        for tokens in TOKENS:
            x = make_x(tokens, cols)
            runtime.select_isa("portable")
            (expected,) = linear(x, [weight])
            runtime.select_isa(isa)
            (y,) = linear(x, [weight])
            np.testing.assert_array_equal(y, expected, err_msg=f"{cols} columns, {tokens} rows of x")


@by_isa
@by_type
def test_rows_are_independent(kind: TensorType, isa: str) -> None:
    runtime.select_isa(isa)
    weight, _ = make_matrix(kind, 50, 1280)
    x = make_x(max(TOKENS), 1280)
    alone = np.concatenate([linear(x[t : t + 1], [weight])[0] for t in range(len(x))])
    for tokens in TOKENS:
        np.testing.assert_array_equal(linear(x[:tokens], [weight])[0], alone[:tokens])
        np.testing.assert_array_equal(linear(x[-tokens:].copy(), [weight])[0], alone[-tokens:])


@by_type
def test_many_rows_of_few_values(kind: TensorType) -> None:
    weight, _ = make_matrix(kind, 40, kind.block * 3)
    x = make_x(1100, kind.block * 3)
    (y,) = linear(x, [weight])
    for t in (0, 511, 1099):
        np.testing.assert_array_equal(y[t], linear(x[t : t + 1], [weight])[0][0])


@by_type
def test_threads_do_not_change_bits(kind: TensorType) -> None:
    weight, _ = make_matrix(kind, 1500, 512)
    for tokens in (1, 3, 20):
        x = make_x(tokens, 512)
        runtime.set_threads(1)
        (expected,) = linear(x, [weight])
        for threads in (2, 3, 7):
            runtime.set_threads(threads)
            np.testing.assert_array_equal(linear(x, [weight])[0], expected)


@by_isa
def test_several_weights_equal_one_by_one(isa: str) -> None:
    runtime.select_isa(isa)
    weights = [make_matrix(kind, 20 + 7 * i, 512, seed=i)[0] for i, kind in enumerate(COMPUTABLE)]
    for tokens in (1, 5, 17):
        x = make_x(tokens, 512)
        together = linear(x, weights)
        assert len(together) == len(weights)
        for weight, y in zip(weights, together, strict=True):
            np.testing.assert_array_equal(y, linear(x, [weight])[0])


@by_isa
@by_type
def test_weights_may_lie_at_any_address(kind: TensorType, isa: str) -> None:
    runtime.select_isa(isa)
    data = random_weights(kind, 40, 512)
    room = np.zeros(len(data) + 64, dtype=np.uint8)
    for tokens in (1, 9):
        x = make_x(tokens, 512)
        (expected,) = linear(x, [Matrix(data, kind.id, 40, 512)])
        for offset in (1, 3, 34):
            room[offset : offset + len(data)] = data
            moved = room[offset : offset + len(data)]
            np.testing.assert_array_equal(linear(x, [Matrix(moved, kind.id, 40, 512)])[0], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by Linux's numbers")
@by_isa
@by_type
def test_nothing_is_read_behind_a_weight(kind: TensorType, isa: str) -> None:
    """A tensor may end where its file's last page does: what lies behind it is no memory."""
    runtime.select_isa(isa)
    data = random_weights(kind, 33, 768)
    page = mmap.PAGESIZE
    room = -(-len(data) // page) * page
    memory = np.frombuffer(mmap.mmap(-1, room + page), np.uint8)
    last_page = ctypes.c_void_p(memory.ctypes.data + room)
    mprotect = ctypes.CDLL(None).mprotect
    assert mprotect(last_page, page, 0) == 0
    try:
        at_the_end = memory[room - len(data) : room]
        at_the_end[:] = data
        for tokens in (1, 9):
            linear(make_x(tokens, 768), [Matrix(at_the_end, kind.id, 33, 768)])
    finally:
        mprotect(last_page, page, mmap.PROT_READ | mmap.PROT_WRITE)


@by_isa
@pytest.mark.parametrize("kind", [types.F32, types.F16, types.BF16], ids=str)
def test_float_rows_of_any_length(kind: TensorType, isa: str) -> None:
    for cols in (1, 5, 15, 17, 100, 511, 1030):
        weight, values = make_matrix(kind, 9, cols)
        for tokens in (1, 3, 11):
            x = make_x(tokens, cols)
            runtime.select_isa("portable")
            (portable,) = linear(x, [weight])
            runtime.select_isa(isa)
            (y,) = linear(x, [weight])
            np.testing.assert_array_equal(y, portable)
            np.testing.assert_allclose(y, x @ values.T, rtol=1e-4, atol=1e-4)


@by_isa
@by_type
def test_no_rows(kind: TensorType, isa: str) -> None:
    runtime.select_isa(isa)
    weight, _ = make_matrix(kind, 8, 256)
    (y,) = linear(np.empty((0, 256), np.float32), [weight])
    assert y.shape == (0, 8)
    assert linear(make_x(3, 256), []) == ()


@by_isa
@by_type
def test_extreme_weights_do_not_overflow(kind: TensorType, isa: str) -> None:
    """All bits set, against activations that are all at their limit: the largest integer sums there are."""
    if kind not in QUANTIZED:
        pytest.skip("float types have no integer sums")
    for fill in (0x00, 0x7F, 0x80, 0xFF):
        data = np.full(kind.nbytes((35, 512)), fill, np.uint8)
        set_scales(data.reshape(-1, kind.bytes), kind, np.random.default_rng(0))
        weight = Matrix(data, kind.id, 35, 512)
        x = np.ones((17, 512), np.float32)
        x[1::2] = -1
        x[2::3, ::2] *= -1
        runtime.select_isa("portable")
        expected = x.astype(np.float64) @ dequantized(data, kind).astype(np.float64).reshape(35, 512).T
        (portable,) = linear(x, [weight])
        np.testing.assert_allclose(portable, expected, rtol=1e-5, atol=1e-4 * np.abs(expected).max() + 1e-9)
        runtime.select_isa(isa)
        np.testing.assert_array_equal(linear(x, [weight])[0], portable)
        np.testing.assert_array_equal(linear(x[:2], [weight])[0], portable[:2])


@by_isa
@by_type
def test_non_finite_numbers_stay_in_their_row(kind: TensorType, isa: str) -> None:
    runtime.select_isa(isa)
    weight, _ = make_matrix(kind, 34, 512)
    for tokens in (3, 12):
        x = make_x(tokens, 512)
        (clean,) = linear(x, [weight])
        x[1, 300] = np.inf
        x[2, 7] = np.nan
        (y,) = linear(x, [weight])
        assert not np.isfinite(y[1:3]).any()
        np.testing.assert_array_equal(y[0], clean[0])
        np.testing.assert_array_equal(y[3:], clean[3:])


@by_isa
@by_type
def test_broken_scales_are_no_crash(kind: TensorType, isa: str) -> None:
    """Bytes of a damaged file: every bit pattern, infinite and NaN scales among them."""
    data = np.random.default_rng(7).integers(0, 256, kind.nbytes((40, 512)), dtype=np.uint8)
    for tokens in (2, 10):
        x = make_x(tokens, 512)
        runtime.select_isa("portable")
        (expected,) = linear(x, [Matrix(data, kind.id, 40, 512)])
        runtime.select_isa(isa)
        np.testing.assert_array_equal(linear(x, [Matrix(data, kind.id, 40, 512)])[0], expected)


@by_isa
@by_type
def test_zero_and_tiny_activations(kind: TensorType, isa: str) -> None:
    runtime.select_isa(isa)
    weight, _ = make_matrix(kind, 8, 512)
    x = np.zeros((2, 512), np.float32)
    x[1] = 1e-38
    (y,) = linear(x, [weight])
    assert (y[0] == 0).all()
    assert np.isfinite(y[1]).all()


def test_wrong_sizes_are_refused() -> None:
    data = np.zeros(types.Q4_K.nbytes((4, 256)), np.uint8)
    with pytest.raises(ValueError, match="takes 720 bytes, got 576"):
        Matrix(data, types.Q4_K.id, 5, 256)
    with pytest.raises(ValueError, match="takes 432 bytes, got 576"):
        Matrix(data, types.Q4_K.id, 3, 256)
    with pytest.raises(ValueError, match="blocks of 256"):
        Matrix(data, types.Q4_K.id, 4, 255)
    with pytest.raises(ValueError, match="cannot have shape"):
        Matrix(data[:0], types.Q4_K.id, 0, 256)
    with pytest.raises(ValueError, match="cannot have shape"):
        Matrix(data, types.Q4_K.id, 4, 2**62)
    for unknown in (9, 36, -1, 1000):
        with pytest.raises(ValueError, match=f"GGUF type {unknown}"):
            Matrix(data, unknown, 4, 256)
    weight = Matrix(data, types.Q4_K.id, 4, 256)
    with pytest.raises(ValueError, match="x has 512 columns, the weight 256"):
        linear(np.zeros((1, 512), np.float32), [weight])
    with pytest.raises(TypeError):
        linear(np.zeros((1, 256), np.float64), [weight])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        linear(np.zeros((256, 3), np.float32).T, [weight])
    with pytest.raises(TypeError):
        Matrix(data.reshape(4, -1)[:, ::2].reshape(-1)[::2], types.Q4_K.id, 1, 256)


def test_a_matrix_keeps_its_buffer() -> None:
    weight, values = make_matrix(types.F32, 3, 64)
    x = make_x(1, 64)
    for _ in range(20):
        np.empty(3 * 64, np.float32).fill(np.nan)  # would land in the freed buffer
    np.testing.assert_allclose(linear(x, [weight])[0], x @ values.T, rtol=1e-5, atol=1e-5)


def test_results_outlive_the_next_call() -> None:
    weight, _ = make_matrix(types.Q8_0, 4096, 256)
    x = make_x(20, 256)
    (first,) = linear(x, [weight])
    kept = first.copy()
    (second,) = linear(-x, [weight])
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, -kept)
