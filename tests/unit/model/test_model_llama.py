"""Loading: what fits is handed to the backend once, what does not is refused by name before anything is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.model.llama import check_tensors, load_model
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

CONFIG = ModelConfig(
    dim=8, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=4, ffn_dim=12, vocab_size=16, context_length=32
)


def tensors_of(config: ModelConfig) -> dict[str, LazyTensor]:
    def unread() -> Any:
        raise AssertionError("a weight was read")

    return {name: LazyTensor(name, shape, types.F32, unread) for name, shape in config.tensor_shapes().items()}


class Recorder:
    """The loading half of a backend: handles are (weight name, bias name)."""

    def weight(self, tensor: LazyTensor, bias: LazyTensor | None = None) -> tuple[str, str | None]:
        return tensor.name, bias.name if bias else None

    def vector(self, tensor: LazyTensor) -> str:
        return tensor.name


def load(config: ModelConfig) -> Any:
    recorder: Any = Recorder()
    return load_model(config, tensors_of(config), recorder)


def test_every_tensor_finds_its_place() -> None:
    model = load(CONFIG)
    assert model.tok_embeddings == ("tok_embeddings.weight", None)
    assert model.output == ("output.weight", None)
    assert model.norm == "norm.weight"
    layer = model.layers[1]
    assert layer.attention_norm == "layers.1.attention_norm.weight"
    assert layer.ffn_norm == "layers.1.ffn_norm.weight"
    for part in ("wq", "wk", "wv", "wo"):
        assert getattr(layer, part) == (f"layers.1.attention.{part}.weight", None)
    for part in ("w1", "w2", "w3"):
        assert getattr(layer, part) == (f"layers.1.feed_forward.{part}.weight", None)


def test_a_tied_output_is_the_same_handle() -> None:
    model = load(replace(CONFIG, tied_output=True))
    assert model.output is model.tok_embeddings


def test_biases_go_with_their_weights() -> None:
    layer = load(replace(CONFIG, attention_bias=True)).layers[0]
    assert layer.wo == ("layers.0.attention.wo.weight", "layers.0.attention.wo.bias")
    assert layer.w1 == ("layers.0.feed_forward.w1.weight", None)
    layer = load(replace(CONFIG, mlp_bias=True)).layers[0]
    assert layer.w2 == ("layers.0.feed_forward.w2.weight", "layers.0.feed_forward.w2.bias")
    assert layer.wq[1] is None


def test_a_missing_tensor_is_named() -> None:
    tensors = tensors_of(CONFIG)
    del tensors["layers.1.feed_forward.w2.weight"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.w2\.weight is missing, expected \(8, 12\)"):
        check_tensors(CONFIG, tensors)


def test_a_wrong_shape_is_named_with_both() -> None:
    tensors = tensors_of(CONFIG)
    name = "layers.0.attention.wq.weight"
    tensors[name] = replace(tensors[name], shape=(8, 4))
    with pytest.raises(CheckpointError, match=r"wq\.weight is \(8, 4\), expected \(8, 8\)"):
        check_tensors(CONFIG, tensors)


def test_a_type_that_cannot_be_computed_with_is_refused_before_loading() -> None:
    tensors = tensors_of(CONFIG)
    name = "layers.0.attention.wq.weight"
    tensors[name] = replace(tensors[name], type=types.NVFP4)
    with pytest.raises(CheckpointError, match=r"wq\.weight is NVFP4, .* expected one of .*Q4_K"):
        check_tensors(CONFIG, tensors)


def test_a_tensor_that_the_config_does_not_have_is_refused() -> None:
    """Such as a bias of a model whose config says that it has none."""
    tensors = tensors_of(replace(CONFIG, attention_bias=True))
    with pytest.raises(CheckpointError, match=r"layers\.0\.attention\.wq\.bias is no tensor of this model"):
        check_tensors(CONFIG, tensors)


def test_forward_runs_these_operations_in_this_order() -> None:
    """The architecture, spelled out over strings."""
    trace: list[str] = []

    class Spelling(Recorder):
        def prepare(self, batch: Any, config: ModelConfig, cache: Any) -> Any:
            return batch

        def embed(self, table: Any, ids: Any) -> str:
            return "x"

        def rms_norm(self, x: str, gain: str, eps: float) -> str:
            trace.append(f"norm {gain}")
            return "h"

        def linear(self, x: str, *weights: Any, batch: Any) -> tuple[str, ...]:
            trace.append("linear " + " ".join(name.split(".")[-2] for name, _ in weights))
            return tuple("y" for _ in weights)

        def attention(self, *args: Any) -> str:
            trace.append(f"attention {args[-1]}")
            return "a"

        def silu_mul(self, gate: str, up: str) -> str:
            trace.append("silu_mul")
            return gate

        def reduce(self, x: str) -> str:
            trace.append("reduce")
            return x

        def add(self, x: str, y: str) -> str:
            trace.append("add")
            return x

        def take(self, x: str, batch: Any) -> str:
            trace.append("take")
            return x

        def logits(self, x: str) -> Any:
            return np.zeros((1, 16), np.float32)

    ops: Any = Spelling()
    config = replace(CONFIG, n_layers=1)
    batch: Any = type("B", (), {"tokens": None})()
    load_model(config, tensors_of(config), ops).forward(batch, cache=None)
    assert trace == [
        "norm layers.0.attention_norm.weight", "linear wq wk wv", "attention 0", "linear wo", "reduce", "add",
        "norm layers.0.ffn_norm.weight", "linear w1 w3", "silu_mul", "linear w2", "reduce", "add",
        "take", "norm norm.weight", "linear output",
    ]  # fmt: skip
