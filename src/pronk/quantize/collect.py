"""Importance matrices are collected by listening: a backend that notes what each matrix is multiplied with, and hands
everything on to the backend that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import names
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.lora_reader import LoraSpec
from pronk.model.batch import make_batch
from pronk.model.llama import load_model
from pronk.model.lora import applied
from pronk.model.ops import Backend
from pronk.model.perplexity import PAGE
from pronk.quantize.importance import Entry, ImportanceMatrix
from pronk.tensors.lazy import LazyTensor


@dataclass(frozen=True)
class _Named:
    name: str
    handle: Any


class Listener:
    """Wraps a backend of NumPy arrays or of PyTorch's. `sums` are by canonical name."""

    def __init__(self, ops: Backend[Any]) -> None:
        self._ops = ops
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def weight(self, tensor: LazyTensor, bias: LazyTensor | None = None) -> _Named:
        return _Named(tensor.name, self._ops.weight(tensor, bias))

    def adapted(self, weight: _Named, adapters: Mapping[int, Any]) -> _Named:
        return _Named(weight.name, self._ops.adapted(weight.handle, adapters))

    def embed(self, table: _Named, ids: Any) -> Any:
        return self._ops.embed(table.handle, ids)

    def linear(self, x: Any, *weights: _Named, batch: Any) -> tuple[Any, ...]:
        rows = len(x)
        if rows:
            squares = _squares(x)
            for weight in weights:
                self.sums[weight.name] = self.sums.get(weight.name, 0.0) + squares
                self.counts[weight.name] = self.counts.get(weight.name, 0) + rows
        return self._ops.linear(x, *(weight.handle for weight in weights), batch=batch)


def collect(
    checkpoint: Checkpoint,
    backend: Backend[Any],
    windows: Sequence[Sequence[int]],
    *,
    output: bool = False,
    dataset: str = "",
    kv_type: str = "f16",
    lora: LoraSpec | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportanceMatrix:
    """The importance matrix of a model over windows of token ids, all of one length.

    `output`: the output matrix too, which llama.cpp leaves out by default. `lora`: of the model with this adapter.
    `progress` is called with windows done and in all. Raises CheckpointError and BackendError as `load_model` does.
    """
    listener = Listener(backend)
    model = load_model(checkpoint.config, checkpoint.tensors, cast("Backend[Any]", listener))
    if lora:
        model = applied(model, lora)
    size = max(map(len, windows))
    pages = range(-(-size // PAGE))
    cache = backend.cache(checkpoint.config, len(pages), PAGE, kv_type)
    for done, window in enumerate(windows, 1):
        batch = make_batch([(window, 0, pages)], PAGE, wants_logits=[len(window) if output else 0])
        model.forward(batch, cache)
        if progress:
            progress(done, len(windows))
    entries = {names.to_gguf(name): Entry(sums, float(listener.counts[name])) for name, sums in listener.sums.items()}
    return ImportanceMatrix(entries, (dataset,) if dataset else (), len(windows), size)


def _squares(x: Any) -> NDArray[np.float64]:
    """(T, in) -> (in): the sum over the rows."""
    if isinstance(x, np.ndarray):
        squares: NDArray[np.float64] = np.einsum("ti,ti->i", x, x, dtype=np.float64)
        return squares
    wide = x.float() if x.device.type == "mps" else x.double()  # Apple's GPUs have no float64
    return cast("NDArray[np.float64]", wide.square().sum(0).cpu().numpy().astype(np.float64))
