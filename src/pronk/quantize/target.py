"""Types chosen tensor by tensor to spend a number of bytes where it lowers the model's divergence most.

The model's divergence is taken to be the sum over tensors of gain x error. `error` is that of a type on a tensor,
weighted by importance, measured on some of its rows. `gain` is how much the divergence answers to that tensor's error:
measured by quantizing it alone and reading a text, or taken to make relative errors count alike. Types are then chosen
by steps of the best divergence a byte, which follow each tensor's lower convex hull and are the Lagrangian optimum up
to the last one; what is left is spent on any step that fits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints import mixes, recast, write_gguf
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.errors import CheckpointError, RequestError
from pronk.model.llama import LlamaModel, load_model
from pronk.model.ops import Backend
from pronk.model.perplexity import PAGE, second_half
from pronk.quantize.compare import divergence
from pronk.quantize.importance import ImportanceMatrix, column_weights
from pronk.quantize.quantizer import encoded, metadata
from pronk.quantize.recipes import NEED_IMPORTANCE, Plan
from pronk.tensors import codec, types
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import TensorType

# What a budget is spent on. The rest of the table has, at the same size, more error than one of these.
CANDIDATES = (
    types.IQ1_S, types.IQ1_M, types.IQ2_XXS, types.IQ2_XS, types.IQ2_S, types.Q2_K, types.IQ3_XXS, types.IQ3_S,
    types.Q3_K, types.IQ4_XS, types.IQ4_NL, types.Q4_K, types.Q5_0, types.Q5_K, types.Q6_K, types.Q8_0, types.F16,
)  # fmt: skip
_SAMPLE = 64  # rows of a tensor on which a type's error is measured

_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

Progress = Callable[[str, int, int], None]  # what is measured, steps done, steps in all


@dataclass(frozen=True)
class Option:
    type: TensorType
    nbytes: int  # in a file, with what pads it to the next tensor
    error: float


def parse_size(text: str) -> int:
    """`3.2GB`, `800MB`, `3GiB` or bytes. Raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?|)B?\s*", text.upper())
    if not match or not float(match[1]):
        raise RequestError(f"{text!r} is no size, expected one such as 3.2GB, 800MB or 3GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def available(kinds: Sequence[TensorType] = CANDIDATES) -> list[TensorType]:
    """Those of `kinds` that can be encoded."""
    found = []
    for kind in kinds:
        try:
            codec.encode(np.zeros((1, 256), np.float32), kind)
        except CheckpointError:
            continue
        found.append(kind)
    return found


def options(
    source: Checkpoint,
    importance: ImportanceMatrix | None,
    progress: Progress | None = None,
    kinds: Sequence[TensorType] | None = None,
) -> dict[str, list[Option]]:
    """What each matrix may become, and the error that costs, by canonical name."""
    usable = available() if kinds is None else list(kinds)
    matrices = [tensor for tensor in source.tensors.values() if len(tensor.shape) > 1]
    result = {}
    for step, tensor in enumerate(matrices):
        if progress:
            progress(f"errors of {tensor.name}", step, len(matrices))
        fitting = [k for k in usable if tensor.shape[-1] % k.block == 0]
        known = importance is not None and importance.weights(tensor.name) is not None
        allowed = [k for k in fitting if known or k not in NEED_IMPORTANCE]
        result[tensor.name] = _options(tensor, allowed, column_weights(source, tensor.name, importance))
    return result


def _options(tensor: LazyTensor, kinds: Sequence[TensorType], weights: NDArray[np.float32] | None) -> list[Option]:
    rows = math.prod(tensor.shape[:-1])
    sample = _sample(tensor)
    weight = np.ones(tensor.shape[-1], np.float64) if weights is None else weights.astype(np.float64)
    found = []
    for kind in kinds:
        made = codec.decode(codec.encode(sample, kind, weights), kind).reshape(sample.shape)
        error = float((np.square(made.astype(np.float64) - sample) @ weight).sum()) * rows / len(sample)
        found.append(Option(kind, _padded(kind.nbytes(tensor.shape)), error))
    return found


def _padded(nbytes: int) -> int:
    return -(-nbytes // write_gguf.ALIGNMENT) * write_gguf.ALIGNMENT


def _sample(tensor: LazyTensor) -> NDArray[np.float32]:
    """Some rows, evenly spread, as float32."""
    data = tensor.load().reshape(-1, tensor.type.row_bytes(tensor.shape[-1]))
    rows = np.unique(np.linspace(0, len(data) - 1, _SAMPLE).astype(np.int64))
    return codec.decode(np.ascontiguousarray(data[rows]), tensor.type).reshape(len(rows), -1)


def relative_gains(
    source: Checkpoint, importance: ImportanceMatrix | None, progress: Progress | None = None
) -> dict[str, float]:
    """Gains under which a relative error of one costs the same in every tensor; needs no run of the model."""
    gains = {}
    for name, tensor in source.tensors.items():
        if len(tensor.shape) > 1:
            weights = column_weights(source, name, importance)
            sample = _sample(tensor).astype(np.float64)
            weight = np.ones(tensor.shape[-1]) if weights is None else weights.astype(np.float64)
            power = float((np.square(sample) @ weight).sum()) * math.prod(tensor.shape[:-1]) / len(sample)
            gains[name] = 1 / power if power > 0 else 0.0
    return gains


def measured_gains(
    source: Checkpoint,
    choices: Mapping[str, Sequence[Option]],
    bits: float,
    importance: ImportanceMatrix | None,
    backend: Backend[Any],
    windows: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> dict[str, float]:
    """Divergence an error, each tensor quantized alone to its type next to `bits` a weight."""
    model = load_model(source.config, source.tensors, backend)
    cache = backend.cache(source.config, -(-max(map(len, windows)) // PAGE), PAGE, "f16")
    reference = [logits for window in windows for logits, _ in second_half(model, cache, window)]
    gains = {}
    for step, (name, offered) in enumerate(choices.items()):
        if progress:
            progress(f"divergence from {name}", step, len(choices))
        probe = min(offered, key=lambda o: (abs(o.type.bits_per_weight - bits), -o.error))
        if probe.error <= 0:
            gains[name] = 0.0
            continue
        weights = column_weights(source, name, importance)
        tensor = source.tensors[name]
        data = np.concatenate(list(encoded(tensor, probe.type, weights)))
        changed = _with_weight(model, LazyTensor(name, tensor.shape, probe.type, partial(_same, data)), source)
        gains[name] = divergence(reference, changed, cache, windows) / probe.error
    return gains


def _same(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return data


def _with_weight(model: LlamaModel, tensor: LazyTensor, source: Checkpoint) -> LlamaModel:
    handle = model.ops.weight(tensor, source.tensors.get(tensor.name.removesuffix("weight") + "bias"))
    if tensor.name == "tok_embeddings.weight":
        return replace(model, tok_embeddings=handle, output=handle if source.config.tied_output else model.output)
    if tensor.name == "output.weight":
        return replace(model, output=handle)
    _, index, _, part, _ = tensor.name.split(".")
    layers = list(model.layers)
    layers[int(index)] = replace(layers[int(index)], **{part: handle})
    return replace(model, layers=tuple(layers))


def choose(choices: Mapping[str, Sequence[Option]], gains: Mapping[str, float], budget: int) -> dict[str, TensorType]:
    """A type for every matrix, of `budget` bytes together at most, for the least sum of gain x error.

    Raises RequestError where even the smallest types are too large.
    """
    now = {name: min(offered, key=lambda o: (o.nbytes, o.error)) for name, offered in choices.items()}
    left = budget - sum(option.nbytes for option in now.values())
    if left < 0:
        raise RequestError(
            f"the matrices take {(budget - left) / 1e6:.1f} MB in the smallest types that they may have, and"
            f" {max(budget, 0) / 1e6:.1f} MB are left for them; choose a larger target, or give an importance matrix,"
            " which allows smaller types"
        )
    for on_hull in (True, False):
        while True:
            best, rate = None, 0.0
            for name, option in now.items():
                step = _next(choices[name], option, left, gains[name], on_hull)
                if step and step[1] > rate:
                    best, rate = (name, step[0]), step[1]
            if best is None:
                break
            left -= best[1].nbytes - now[best[0]].nbytes
            now[best[0]] = best[1]
    return {name: option.type for name, option in now.items()}


def _next(
    offered: Sequence[Option], option: Option, left: int, gain: float, on_hull: bool
) -> tuple[Option, float] | None:
    """The larger type that saves most a byte, and what it saves. On the hull a step that does not fit is not replaced
    by a worse one: that waits for the second round."""
    best: tuple[Option, float] | None = None
    for other in offered:
        more = other.nbytes - option.nbytes
        if more <= 0 or other.error >= option.error or (not on_hull and more > left):
            continue
        rate = max(gain, 1e-30) * (option.error - other.error) / more
        if best is None or rate > best[1]:
            best = (other, rate)
    return best if best and best[0].nbytes - option.nbytes <= left else None


def plan(source: Checkpoint, chosen: Mapping[str, TensorType], name: str) -> Plan:
    kinds = {tensor: chosen.get(tensor, types.F32) for tensor in source.tensors}
    typed = [LazyTensor(t.name, t.shape, kinds[t.name], t.load) for t in source.tensors.values()]
    return Plan(name, kinds, mixes.file_type(typed))


def budget_of_size(source: Checkpoint, size: int, importance: ImportanceMatrix | None = None) -> int:
    """Bytes for the matrices of a GGUF file of `size` bytes: without header, tokenizer and norms."""
    model = recast.for_gguf(source, types.F16)
    contents = write_gguf.contents(model)
    header = len(write_gguf.header(metadata(model, Plan("", {}), importance), contents))
    return size - header - sum(_padded(tensor.nbytes) for _, tensor in contents if len(tensor.shape) == 1)


def budget_of_bits(source: Checkpoint, bits: float) -> int:
    """Bytes for the matrices where all tensors together have `bits` a weight. Raises RequestError."""
    if not 0 < bits <= 32:
        raise RequestError(f"{bits:g} bits a weight, expected more than 0 and at most 32")
    vectors = sum(4 * math.prod(t.shape) for t in source.tensors.values() if len(t.shape) == 1)
    return int(source.config.parameter_count() * bits / 8) - vectors
