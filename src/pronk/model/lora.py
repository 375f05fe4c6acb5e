"""LoRA adapters on a model: the same weights, and for some of them what an adapter adds, by a number for each adapter.

Which rows of a batch use which is in `Batch.adapters`; rows that use none are computed as if there were no adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from pronk.checkpoints.lora_reader import Lora, LoraSpec, open_lora
from pronk.config import ModelConfig
from pronk.errors import RequestError
from pronk.model.batch import Batch
from pronk.model.llama import Layer, LlamaModel
from pronk.model.ops import Backend

_IN_LAYER = {
    "attention.wq": "wq", "attention.wk": "wk", "attention.wv": "wv", "attention.wo": "wo",
    "feed_forward.w1": "w1", "feed_forward.w2": "w2", "feed_forward.w3": "w3",
}  # fmt: skip

Handles = Mapping[str, Any]  # by the canonical name of the weight


@dataclass(frozen=True)
class Adapters:
    """A model and the adapters that it carries. `numbers` are theirs in batches; none is given out twice, so that a
    name that is loaded anew is another adapter."""

    model: LlamaModel
    numbers: Mapping[str, int] = field(default_factory=dict)
    handles: Mapping[str, Handles] = field(default_factory=dict)
    given: int = 0

    def add(self, name: str, lora: Lora) -> Adapters:
        """Raises RequestError for a name that is taken, BackendError where memory is short."""
        if not name:
            raise RequestError(f"the adapter {lora.path} has no name; give it one")
        if name in self.numbers:
            raise RequestError(f"an adapter {name!r} is loaded already; give this one another name, or unload that one")
        made = {weight: self.model.ops.adapter(*parts) for weight, parts in lora.weights.items()}
        return self._with({**self.numbers, name: self.given}, {**self.handles, name: made}, self.given + 1)

    def remove(self, name: str) -> Adapters:
        """Raises RequestError for a name that is not there."""
        self.number(name)
        numbers = {other: number for other, number in self.numbers.items() if other != name}
        return self._with(numbers, {other: self.handles[other] for other in numbers}, self.given)

    def number(self, name: str) -> int:
        """Raises RequestError for a name that is not there."""
        return number_of(name, self.numbers)

    def _with(self, numbers: Mapping[str, int], handles: Mapping[str, Handles], given: int) -> Adapters:
        ops = self.model.ops
        changed = {weight for made in (*self.handles.values(), *handles.values()) for weight in made}

        def weight(name: str, handle: Any) -> Any:
            if name not in changed:
                return handle
            carried = {numbers[of]: made[name] for of, made in handles.items() if name in made}
            return ops.adapted(handle, carried)

        def layer(i: int, layer: Layer) -> Layer:
            fields = {
                attribute: weight(f"layers.{i}.{name}", getattr(layer, attribute))
                for name, attribute in _IN_LAYER.items()
            }
            return replace(layer, **fields)

        model = replace(
            self.model,
            layers=tuple(layer(i, of) for i, of in enumerate(self.model.layers)),
            output=weight("output", self.model.output),
        )
        return Adapters(model, numbers, handles, given)


def number_of(name: str, numbers: Mapping[str, int]) -> int:
    """Raises RequestError, with the names that there are, for another one."""
    if name not in numbers:
        there = ", ".join(map(repr, numbers)) or "none"
        raise RequestError(f"there is no adapter {name!r}, expected one that is loaded: {there}; load it first")
    return numbers[name]


def applied(model: LlamaModel, spec: LoraSpec) -> LlamaModel:
    """The model with one adapter in every row of every batch. Raises CheckpointError as `open_lora` does."""
    lora = open_lora(spec.path, model.config, scale=spec.scale)
    return everywhere(Adapters(model).add(spec.name, lora).model, 0)


def everywhere(model: LlamaModel, number: int) -> LlamaModel:
    """The model with the adapter of this number in every row of every batch, whatever the batch says."""
    return replace(model, ops=cast("Backend[Any]", _Everywhere(model.ops, number)))


class _Everywhere:
    """A backend whose batches all use one adapter."""

    def __init__(self, ops: Backend[Any], number: int) -> None:
        self._ops = ops
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def prepare(self, batch: Batch, config: ModelConfig, cache: Any) -> Any:
        rows = np.full(len(batch.tokens), self._number, np.int32)
        return self._ops.prepare(replace(batch, adapters=rows), config, cache)
