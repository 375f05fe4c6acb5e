"""Rotary frequencies, bit for bit those of transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError

CONFIG = ModelConfig(
    dim=256, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=128, ffn_dim=64, vocab_size=64, context_length=131072
)
LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("width", [128, 64, 80, 6])
@pytest.mark.parametrize(
    "scaling",
    [None, LLAMA3, replace(LLAMA3, factor=32.0), replace(LLAMA3, original_context=100), RopeScaling("linear", 3.0)],
    ids=["plain", "llama3", "llama3.2", "short", "linear"],
)
def test_frequencies_are_those_of_transformers(theta: float, width: int, scaling: RopeScaling | None) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope: dict[str, object] = {"rope_type": scaling.kind if scaling else "default", "rope_theta": theta}
    if scaling:
        rope["factor"] = scaling.factor
    if scaling and scaling.kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = scaling.original_context
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=2 * width, num_attention_heads=2, head_dim=width, rope_parameters=rope,
            max_position_embeddings=131072,
        )
    ).inv_freq  # fmt: skip
    ours = replace(CONFIG, head_dim=width, rope_theta=theta, rope_scaling=scaling)
    assert list(ours.inverse_frequencies()) == theirs.tolist()


def test_factors_divide() -> None:
    """GGUF's rope_freqs.weight."""
    factors = tuple(1.0 + i / 8 for i in range(64))
    plain = CONFIG.inverse_frequencies()
    scaled = replace(CONFIG, rope_scaling=RopeScaling("factors", factors=factors)).inverse_frequencies()
    assert scaled == pytest.approx([f / g for f, g in zip(plain, factors, strict=True)], rel=1e-7)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_numbers_that_no_model_has_are_refused(value: float) -> None:
    with pytest.raises(CheckpointError, match="rope_theta"):
        replace(CONFIG, rope_theta=value)
    with pytest.raises(CheckpointError, match="norm_eps"):
        replace(CONFIG, norm_eps=value)
    with pytest.raises(CheckpointError, match="rope scaling factor"):
        RopeScaling("linear", factor=value)
    with pytest.raises(CheckpointError, match="rope scaling factor"):
        RopeScaling("factors", factors=(1.0, value))
    with pytest.raises(CheckpointError, match="low_freq_factor"):
        RopeScaling("llama3", low_freq_factor=value)


@pytest.mark.parametrize("theta", [1.0, 1e17])
@pytest.mark.parametrize("factor", [1e-17, 1e17])
def test_the_most_absurd_numbers_that_are_let_in_still_give_frequencies(theta: float, factor: float) -> None:
    for scaling in (
        RopeScaling("linear", factor),
        RopeScaling("llama3", factor),
        RopeScaling("factors", factors=(factor,) * 64),
    ):
        assert len(replace(CONFIG, rope_theta=theta, rope_scaling=scaling).inverse_frequencies()) == 64
