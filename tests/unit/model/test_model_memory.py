from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pronk.config import ModelConfig
from pronk.errors import RequestError
from pronk.model.memory import memory_estimate
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

LLAMA_3_8B = ModelConfig(
    dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, ffn_dim=14336, vocab_size=128256, context_length=8192
)  # fmt: skip


def tensors(type: types.TensorType) -> dict[str, LazyTensor]:
    def unread() -> Any:
        raise AssertionError("a weight was read")

    return {name: LazyTensor(name, shape, type, unread) for name, shape in LLAMA_3_8B.tensor_shapes().items()}


def test_figures_of_llama_3_8b() -> None:
    """16.06 GB of bfloat16, and 128 KiB of cache a token: 1 GiB for its whole context."""
    estimate = memory_estimate(LLAMA_3_8B, tensors(types.BF16), context=8192)
    assert estimate.weights == 2 * 8_030_261_248
    assert estimate.kv == 1 << 30
    assert estimate.total == estimate.weights + estimate.kv + estimate.activations
    # 512 rows through gate and up, and one row of logits
    assert 512 * 2 * 14336 * 4 < estimate.activations < 512 * 3 * 14336 * 4


def test_what_each_part_grows_with() -> None:
    quantized = tensors(types.Q8_0)
    base = memory_estimate(LLAMA_3_8B, quantized, context=1024)
    assert base.weights == sum(t.nbytes for t in quantized.values())
    assert memory_estimate(LLAMA_3_8B, quantized, 1024, "f32").kv == 2 * base.kv
    assert memory_estimate(LLAMA_3_8B, quantized, 1024, "q8_0").kv == base.kv // 64 * 34
    assert memory_estimate(LLAMA_3_8B, quantized, 1024, sequences=8).kv == 8 * base.kv
    assert memory_estimate(LLAMA_3_8B, quantized, 1025).kv == base.kv // 32 * 33  # a page of 32 tokens more
    assert memory_estimate(LLAMA_3_8B, quantized, 16).activations < base.activations
    assert memory_estimate(LLAMA_3_8B, quantized, 1024, bytes_per_weight=2).weights == 2 * 8_030_261_248


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RequestError, match="0 tokens"):
        memory_estimate(LLAMA_3_8B, {}, 0)
    with pytest.raises(RequestError, match=r"'q3'.*expected one of f16, f32"):
        memory_estimate(LLAMA_3_8B, {}, 16, "q3")
    with pytest.raises(RequestError, match=r"multiple of 32 values, this model's have 80; choose --kv-type f16"):
        memory_estimate(replace(LLAMA_3_8B, head_dim=80), {}, 16, "q8_0")
