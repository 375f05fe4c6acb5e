"""The Llama architecture, once, over Ops. Every backend runs these lines.

Shapes: T tokens in the batch, D model width, H query heads, K key/value heads, E head width, F feed-forward width,
V vocabulary, R rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints.checkpoint import check_shapes
from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.model.batch import Batch
from pronk.model.ops import Backend
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor


@dataclass(frozen=True)
class Layer:
    attention_norm: Any
    wq: Any
    wk: Any
    wv: Any
    wo: Any
    ffn_norm: Any
    w1: Any  # gate
    w2: Any  # down
    w3: Any  # up


@dataclass(frozen=True)
class LlamaModel:
    """Weights as a backend holds them, and the forward pass over them."""

    config: ModelConfig
    ops: Backend[Any]
    tok_embeddings: Any
    layers: tuple[Layer, ...]
    norm: Any
    output: Any

    def forward(self, batch: Batch, cache: Any, *, hidden: bool = False) -> NDArray[np.float32]:
        """Logits (R, V) of the batch's logit rows; with `hidden` the states (R, D) that they are made from. Writes the
        batch's keys and values into `cache`."""
        ops, eps = self.ops, self.config.norm_eps
        b = ops.prepare(batch, self.config, cache)
        x = ops.embed(self.tok_embeddings, b.tokens)  # (T, D)
        for i, layer in enumerate(self.layers):
            h = ops.rms_norm(x, layer.attention_norm, eps)
            q, k, v = ops.linear(h, layer.wq, layer.wk, layer.wv, batch=b)  # (T, H*E), (T, K*E), (T, K*E)
            h = ops.attention(q, k, v, b, cache, i)  # (T, H*E)
            (h,) = ops.linear(h, layer.wo, batch=b)  # (T, D)
            x = ops.add(x, ops.reduce(h))
            h = ops.rms_norm(x, layer.ffn_norm, eps)
            gate, up = ops.linear(h, layer.w1, layer.w3, batch=b)  # (T, F) each
            (h,) = ops.linear(ops.silu_mul(gate, up), layer.w2, batch=b)  # (T, D)
            x = ops.add(x, ops.reduce(h))
        x = ops.rms_norm(ops.take(x, b), self.norm, eps)  # (R, D)
        if hidden:
            return ops.logits(x)
        (logits,) = ops.linear(x, self.output, batch=b)  # (R, V)
        return ops.logits(logits)


def load_model(config: ModelConfig, tensors: Mapping[str, LazyTensor], ops: Backend[Any]) -> LlamaModel:
    """Hand every tensor to the backend. Raises CheckpointError (`check_tensors`) before anything is loaded, and
    BackendError where the backend has too little memory."""
    check_tensors(config, tensors)

    def weight(name: str) -> Any:
        return ops.weight(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def vector(name: str) -> Any:
        return ops.vector(tensors[f"{name}.weight"])

    def layer(i: int) -> Layer:
        at, ff = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        return Layer(
            attention_norm=vector(f"layers.{i}.attention_norm"),
            wq=weight(at + "wq"),
            wk=weight(at + "wk"),
            wv=weight(at + "wv"),
            wo=weight(at + "wo"),
            ffn_norm=vector(f"layers.{i}.ffn_norm"),
            w1=weight(ff + "w1"),
            w2=weight(ff + "w2"),
            w3=weight(ff + "w3"),
        )

    embeddings = weight("tok_embeddings")
    return LlamaModel(
        config=config,
        ops=ops,
        tok_embeddings=embeddings,
        layers=tuple(layer(i) for i in range(config.n_layers)),
        norm=vector("norm"),
        output=embeddings if config.tied_output else weight("output"),
    )


def check_tensors(config: ModelConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Raises CheckpointError unless `tensors` has every tensor of `config`, in its shape and of a type that this
    version computes with, and nothing else."""
    check_shapes(config, tensors)
    for name, tensor in tensors.items():
        if tensor.type not in types.COMPUTABLE:
            known = ", ".join(sorted(t.name for t in types.COMPUTABLE))
            raise CheckpointError(
                f"{name} is {tensor.type}, which this version cannot compute with, expected one of {known};"
                " take a file quantized to one of these"
            )
