"""The compiled module. pronk.native's other files give each function its documented face."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Matrix:
    """A weight (rows, cols) in blocks of GGUF's type `type_id`, in the bytes of `data`, which it keeps alive."""

    def __init__(self, data: NDArray[np.uint8], type_id: int, rows: int, cols: int) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def type_id(self) -> int: ...

def linear(x: NDArray[np.float32], weights: Sequence[Matrix]) -> tuple[NDArray[np.float32], ...]: ...
def embed(table: Matrix, ids: NDArray[np.int32]) -> NDArray[np.float32]: ...
def decode(data: NDArray[np.uint8], type_id: int, count: int) -> NDArray[np.float32]: ...
def encode(
    values: NDArray[np.float32],
    type_id: int,
    importance: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def select_isa(isa: str) -> bool: ...
def threads() -> int: ...
def set_threads(threads: int) -> None: ...
def usable_cores() -> int: ...
def rms_norm(x: NDArray[np.float32], gain: NDArray[np.float32], eps: float) -> NDArray[np.float32]: ...
def silu_mul(gate: NDArray[np.float32], up: NDArray[np.float32]) -> None: ...
def add(x: NDArray[np.float32], y: NDArray[np.float32]) -> None: ...
def attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    positions: NDArray[np.int32],
    slots: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lens: NDArray[np.int32],
    block_tables: NDArray[np.int32],
    key_pages: NDArray[Any],
    value_pages: NDArray[Any],
) -> NDArray[np.float32]: ...
def sample(
    logits: NDArray[np.float32],
    *,
    steps: NDArray[np.int32],
    temperature: float,
    dynatemp_range: float,
    dynatemp_exponent: float,
    top_k: int,
    top_p: float,
    top_p_inclusive: bool,
    min_p: float,
    typical_p: float,
    top_n_sigma: float,
    xtc_probability: float,
    xtc_threshold: float,
    xtc_uniform: float,
    mirostat_mu: float,
    dry_multiplier: float,
    dry_base: float,
    dry_allowed_length: int,
    dry_history: NDArray[np.int32] | None,
    dry_breakers: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]] | None,
    repetition_penalty: float,
    presence_penalty: float,
    frequency_penalty: float,
    seen_ids: NDArray[np.int32] | None,
    seen_counts: NDArray[np.int32] | None,
    bias_ids: NDArray[np.int32] | None,
    bias_values: NDArray[np.float32] | None,
    allowed: NDArray[np.uint32] | None,
    uniform: float,
    surprise: NDArray[np.float64] | None,
) -> int: ...
def log_probabilities(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float32] | None: ...
def top_log_probabilities(
    logits: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None: ...
def uniform(seed: int, position: int, purpose: int) -> float: ...
def read_sum(data: NDArray[np.uint8]) -> int: ...
def int8_sum(left: NDArray[np.int8], right: NDArray[np.int8], passes: int) -> int: ...
def float_sum(left: NDArray[np.float32], right: NDArray[np.float32], passes: int) -> float: ...
def __getattr__(name: str) -> Any: ...
