"""Models to measure: a random one's file, and the same function with its channels in another order."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.tensors import types

# What a matrix's rows and columns are: channels of the residual stream, of the feed-forward layer, or of heads ("").
ORDERS = {
    "tok_embeddings": ("", "stream"), "output": ("", "stream"), "norm": ("stream", ""),
    "attention_norm": ("stream", ""), "ffn_norm": ("stream", ""),
    "wq": ("", "stream"), "wk": ("", "stream"), "wv": ("", "stream"), "wo": ("stream", ""),
    "w1": ("inner", "stream"), "w3": ("inner", "stream"), "w2": ("stream", "inner"),
}  # fmt: skip


def model_file(model: str, cache: Path) -> Path:
    """`model` itself, or for random:SHAPE:TYPE its GGUF file in `cache`, made if it is not there."""
    if not model.startswith("random:"):
        return Path(model)
    path = cache / f"{model.removeprefix('random:').replace(':', '-')}.gguf"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pronk", "convert", model, str(path), "--to", "gguf"], check=True)
    return path


def reordered(source: Checkpoint, seed: int) -> Checkpoint:
    """The same function in F32, with the channels of the residual stream and of the feed-forward layers in another
    order. For models without biases."""
    rng = np.random.default_rng(seed)
    order = {"stream": rng.permutation(source.config.dim), "inner": rng.permutation(source.config.ffn_dim)}
    tensors = {}
    for name, tensor in source.tensors.items():
        values = tensor.array()
        for axis, which in enumerate(ORDERS[name.split(".")[-2]]):
            if which:
                values = np.take(values, order[which], axis=axis)
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        tensors[name] = replace(tensor, type=types.F32, load=lambda data=data: data, mapped=False)
    return replace(source, tensors=tensors)
