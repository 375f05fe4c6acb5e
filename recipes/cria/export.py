"""Writes the trained network as files: F32 to measure from, Q8_0 to ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import recast
from pronk.checkpoints.checkpoint import Checkpoint, GenerationDefaults
from pronk.checkpoints.convert import convert
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from pronk.text import tiktoken_file
from pronk.text.tokenizers import build_tokenizer
from recipes.cria.network import Network

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# A small model is sure of little: what it ranks low is noise.
_DEFAULTS = GenerationDefaults(temperature=0.3, top_p=0.9)


def checkpoint(network: Network, tokenizer_file: bytes) -> Checkpoint:
    """The network as pronk sees a model, its weights F32."""
    tensors = {name: _tensor(name, tensor.float().cpu().numpy()) for name, tensor in network.tensors().items()}
    return Checkpoint(
        path=Path("cria"),
        format="random",
        config=network.config,
        tensors=tensors,
        load_tokenizer=lambda: build_tokenizer(tiktoken_file.read(tokenizer_file)),
        name="cria",
        chat_template=_TEMPLATE.read_text(encoding="utf-8"),
        defaults=_DEFAULTS,
    )


def _tensor(name: str, values: NDArray[np.float32]) -> LazyTensor:
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return LazyTensor(name, values.shape, types.F32, lambda: data)


def write(network: Network, tokenizer_file: bytes, full: Path, shipped: Path) -> None:
    """Both GGUF files, replaced whole."""
    source = checkpoint(network, tokenizer_file)
    convert(source, full, "gguf", overwrite=True)
    quantized = {
        name: recast.recast(tensor, types.Q8_0) if recast.is_matrix(tensor) else tensor
        for name, tensor in source.tensors.items()
    }
    convert(replace(source, tensors=quantized), shipped, "gguf", overwrite=True)
