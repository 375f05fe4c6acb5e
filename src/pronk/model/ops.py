"""What a backend provides. `llama.py` is written over these few operations and nothing else.

Sizes: T tokens in the batch, D model width, H query heads, K key/value heads, E head width, F feed-forward width, V
vocabulary, R rows whose logits are wanted. Arrays, weights, batches and caches are the backend's own kinds; the forward
pass only hands them on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.model.batch import Batch
from pronk.tensors.lazy import LazyTensor

Array = TypeVar("Array")


class Ops(Protocol[Array]):
    """Invariant: a row's result never depends on the other rows of the batch, nor on how its prompt was cut. The cpu
    backend keeps it to the bit; the torch backend's matrix products keep it to a rounding."""

    def embed(self, table: Any, ids: Any) -> Array:
        """(T, D): rows of the table, the caller's to write to."""
        ...

    def rms_norm(self, x: Array, gain: Any, eps: float) -> Array:
        """(T, D): x / sqrt(mean(x^2) + eps) in float32, times the gain. Leaves x as it is."""
        ...

    def linear(self, x: Array, *weights: Any, batch: Any) -> tuple[Array, ...]:
        """(T, out) for each weight (out, in), its bias added where it has one. The weights share one reading, and one
        quantization, of x. `batch` says which rows use which LoRA adapters; to those of a weight that carries the
        adapter, scale * B (A x) is added. x has a row for each token of the batch, or for each of its logit rows."""
        ...

    def attention(self, q: Array, k: Array, v: Array, batch: Any, cache: Any, layer: int) -> Array:
        """(T, H*E). Rotates q and k at the batch's positions, writes k and v into the cache's pages, and attends
        causally within each sequence, H/K query heads to a key/value head."""
        ...

    def silu_mul(self, gate: Array, up: Array) -> Array:
        """(T, F): silu(gate) * up. May work in place on gate."""
        ...

    def add(self, x: Array, y: Array) -> Array:
        """(T, D). May work in place on x."""
        ...

    def take(self, x: Array, batch: Any) -> Array:
        """(R, D): the rows whose logits are wanted; x itself where all are."""
        ...

    def reduce(self, x: Array) -> Array:
        """The sum over tensor-parallel ranks; x itself where there is one."""
        ...


class Backend(Ops[Array], Protocol[Array]):
    """Ops, and how weights, batches, caches and logits cross the border to NumPy. `beat` is when the last product of
    matrices began, by time.monotonic(): a long pass and one that hangs can be told apart."""

    name: str
    beat: float

    def weight(self, tensor: LazyTensor, bias: LazyTensor | None = None) -> Any:
        """The backend's handle of a linear weight (out, in), or of an embedding table (V, D). `check_tensors` has seen
        the tensor's type and shape. Raises BackendError for too little memory."""
        ...

    def adapter(self, a: LazyTensor, b: LazyTensor, scale: float) -> Any:
        """The backend's handle of a LoRA adapter's part on one weight (out, in): A (rank, in), B (out, rank). Raises
        BackendError for too little memory."""
        ...

    def adapted(self, weight: Any, adapters: Mapping[int, Any]) -> Any:
        """A handle of the same weight that carries these adapters, by their numbers in batches, and no others. What
        `weight` holds is shared with it."""
        ...

    def vector(self, tensor: LazyTensor) -> Any:
        """The backend's float32 copy of a small tensor, such as a norm's gain."""
        ...

    def cache(self, config: ModelConfig, blocks: int, block: int, kv_type: str) -> Any:
        """Zeroed pages of `block` tokens for keys and for values of each layer, laid out as the backend likes. kv_type:
        "f16", "f32" or "q8_0". `block` is a multiple of 16. Raises RequestError for a type that the model's heads do
        not allow, BackendError for too little memory."""
        ...

    def prepare(self, batch: Batch, config: ModelConfig, cache: Any) -> Any:
        """The batch in the backend's form, with whatever all layers share (rotary tables, masks)."""
        ...

    def logits(self, x: Array) -> NDArray[np.float32]:
        """(R, V), or the states (R, D); the caller's to keep."""
        ...
