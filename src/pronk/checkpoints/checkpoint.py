"""What every format becomes when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors.lazy import LazyTensor
from pronk.text.tokenizer import Tokenizer

Format = Literal["gguf", "hf", "meta", "llama2c", "random"]


@dataclass(frozen=True)
class GenerationDefaults:
    """What generation_config.json recommends; None where a checkpoint says nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """An open model. `tensors` has exactly the names and shapes of `config.tensor_shapes()`; nothing is read yet.

    `load_tokenizer` raises TokenizerError when the checkpoint has none, and builds it once.
    """

    path: Path
    format: Format
    config: ModelConfig
    tensors: Mapping[str, LazyTensor]
    load_tokenizer: Callable[[], Tokenizer] = field(repr=False)
    name: str = ""
    chat_template: str | None = field(default=None, repr=False)
    defaults: GenerationDefaults = GenerationDefaults()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def check_shapes(config: ModelConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Raises CheckpointError unless `tensors` has every tensor of `config` in its shape, and nothing else: a tensor
    that is not understood would be arithmetic left out."""
    shapes = config.tensor_shapes()
    for name, shape in shapes.items():
        if name not in tensors:
            raise CheckpointError(
                f"{name} is missing, expected {shape}; the checkpoint is incomplete (a missing shard?)"
            )
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{name} is {tensors[name].shape}, expected {shape} from the config; the two do not belong together"
            )
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(f"{name} is no tensor of this model by its config, expected {len(shapes)} others")
