"""The least time that a test's bytes and operations take on a machine: the roofline (Williams et al. 2009).

A step reads every weight once, whatever its rows, and the keys and values of every sequence; it multiplies each of its
rows with every matrix, but with the output only the last row of a sequence. An addition is an operation, and so is a
multiplication. Norms, activations and sampling are left out: they are less than a hundredth of the operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pronk.config import ModelConfig
from pronk.model.speed import Workload
from pronk.native.peaks import Peaks
from pronk.tensors.lazy import LazyTensor

Limit = Literal["bandwidth", "int8", "float32"]


@dataclass(frozen=True)
class Work:
    """Bytes read, and operations on int8 and on float32."""

    bytes: float
    int8: float
    float32: float

    def least(self, peaks: Peaks) -> tuple[float, Limit]:
        """Seconds, and what they are spent on. Reading goes on beside computing; both kinds of products take turns in
        the same units."""
        reading, int8, float32 = self.bytes / peaks.bandwidth, self.int8 / peaks.int8, self.float32 / peaks.float32
        if reading >= int8 + float32:
            return reading, "bandwidth"
        return int8 + float32, "int8" if int8 >= float32 else "float32"


@dataclass(frozen=True)
class Roofline:
    """The speed that no program passes, and the limit that most of its time goes to."""

    limit: Limit
    most_tokens_per_second: float

    def share(self, tokens_per_second: float) -> float:
        return tokens_per_second / self.most_tokens_per_second


def roofline(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], workload: Workload, kv_type: str, peaks: Peaks
) -> Roofline:
    """Of all the workload's sequences together."""
    seconds: dict[Limit, float] = dict.fromkeys(("bandwidth", "int8", "float32"), 0.0)
    for work in steps(config, tensors, workload, kv_type):
        least, limit = work.least(peaks)
        seconds[limit] += least
    tokens = (workload.prompt + workload.decode) * workload.sequences
    return Roofline(max(seconds, key=lambda limit: seconds[limit]), tokens / math.fsum(seconds.values()))


def steps(config: ModelConfig, tensors: Mapping[str, LazyTensor], workload: Workload, kv_type: str) -> Iterable[Work]:
    """The Work of each of the workload's steps."""
    output = "tok_embeddings.weight" if config.tied_output else "output.weight"
    read = [t for t in tensors.values() if config.tied_output or t.name != "tok_embeddings.weight"]
    inner, logits = _products(t for t in read if t.name != output), _products([tensors[output]])
    weights, kv = sum(tensor.nbytes for tensor in read), config.kv_bytes_per_token(kv_type)
    scores_int8 = kv_type == "q8_0"
    for cached, count in workload.steps():
        visible = count * cached + count * (count + 1) // 2  # positions that the rows of a sequence attend to
        attention = 2 * config.n_layers * config.n_heads * config.head_dim * visible  # q by k; and weights by v as much
        yield Work(
            bytes=weights + workload.sequences * kv * (cached + count),
            int8=workload.sequences * (count * inner.int8 + logits.int8 + attention * scores_int8),
            float32=workload.sequences * (count * inner.float32 + logits.float32 + attention * (2 - scores_int8)),
        )


@dataclass(frozen=True)
class _Products:
    """Operations of one row with some matrices, in the arithmetic of their types."""

    int8: int
    float32: int


def _products(tensors: Iterable[LazyTensor]) -> _Products:
    operations = {True: 0, False: 0}
    for tensor in tensors:
        if len(tensor.shape) > 1:
            operations[tensor.type.block > 1] += 2 * math.prod(tensor.shape)
    return _Products(int8=operations[True], float32=operations[False])
