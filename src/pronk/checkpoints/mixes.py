"""Mixes: one name for which tensor gets which type, such as Q4_K_M.

Facts from llama.cpp (src/llama-quant.cpp, `llama_tensor_get_type_impl`; include/llama.h, `llama_ftype`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from pronk.tensors.types import TensorType

Rule = Callable[[str, int, ModelConfig], "TensorType | None"]


@dataclass(frozen=True)
class Mix:
    """`output` is for the output (or tied embedding) table, `base` for every other matrix of which `rule` says nothing
    (it is asked with its part, such as "wv", and its layer). `better` is what tells a file of this mix: some w2 has it.
    """

    name: str
    base: TensorType
    better: TensorType
    output: TensorType
    file_type: int  # GGUF's general.file_type
    rule: Rule
    embeddings: TensorType | None = None  # where they are not the output table; None: base


def _more_bits(more: TensorType, plain_70b: TensorType | None = None) -> Rule:
    """`more` for wv and w2 of the layers that suffer most."""

    def rule(part: str, layer: int, config: ModelConfig) -> TensorType | None:
        if part in ("wv", "w2") and _suffers(layer, config.n_layers):
            return more
        return plain_70b if part == "wv" and _is_70b(config) else None

    return rule


def _q3_k_s(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return types.Q5_K if part == "wv" and _is_70b(config) else None


def _q3_k_m(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return types.Q5_K if layer < 2 or _is_70b(config) else types.Q4_K
    if part == "w2":
        return types.Q5_K if layer < config.n_layers // 16 else types.Q4_K
    return types.Q4_K if part == "wo" else None


def _q3_k_l(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return types.Q5_K if part in ("wv", "wo", "w2") else None


def _q2_k_s(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv" and _shares_wv(config):
        return types.Q5_K if _is_70b(config) else types.Q4_K
    return types.Q4_K if part == "w2" and layer < config.n_layers // 8 else None


def _iq3_m(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return types.Q5_K if _is_70b(config) else types.Q4_K
    return types.Q4_K if part == "wo" or (part == "w2" and layer < config.n_layers // 8) else None


def _iq2_m(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return types.Q4_K if _shares_wv(config) else types.IQ3_S
    return types.IQ3_S if part == "wo" or (part == "w2" and layer < config.n_layers // 8) else None


def _suffers(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _shares_wv(config: ModelConfig) -> bool:
    """Four query heads or more share a wv, so bits for it cost little."""
    return config.n_heads >= 4 * config.n_kv_heads


def _is_70b(config: ModelConfig) -> bool:
    """Eight query heads share wv there, so more bits for it cost nearly nothing."""
    return config.n_layers == 80 and config.n_kv_heads < config.n_heads


MIXES = {
    mix.name: mix
    for mix in (
        Mix("Q4_K_M", types.Q4_K, types.Q6_K, types.Q6_K, 15, _more_bits(types.Q6_K, plain_70b=types.Q5_K)),
        Mix("Q5_K_M", types.Q5_K, types.Q6_K, types.Q6_K, 17, _more_bits(types.Q6_K)),
        Mix("Q3_K_M", types.Q3_K, types.Q4_K, types.Q6_K, 12, _q3_k_m),
        Mix("Q3_K_L", types.Q3_K, types.Q5_K, types.Q6_K, 13, _q3_k_l),
        Mix("Q3_K_S", types.Q3_K, types.Q3_K, types.Q6_K, 11, _q3_k_s),
        Mix("Q2_K_S", types.Q2_K, types.Q4_K, types.Q6_K, 21, _q2_k_s),
        Mix("IQ3_M", types.IQ3_S, types.Q4_K, types.Q6_K, 27, _iq3_m),
        Mix("IQ2_M", types.IQ2_S, types.IQ3_S, types.Q5_K, 29, _iq2_m, embeddings=types.IQ3_S),
    )
}

# What a row that is no multiple of 256 values gets instead (llama.cpp, `tensor_type_fallback`).
_FALLBACK = {
    types.Q4_K: types.Q5_0, types.Q5_K: types.Q5_1, types.Q6_K: types.Q8_0, types.TQ1_0: types.Q4_0,
    types.TQ2_0: types.Q4_0,
    **dict.fromkeys(
        (types.Q2_K, types.Q3_K, types.IQ1_S, types.IQ1_M, types.IQ2_XXS, types.IQ2_XS, types.IQ2_S, types.IQ3_XXS,
         types.IQ3_S, types.IQ4_XS), types.IQ4_NL,
    ),
}  # fmt: skip

# general.file_type of a file whose matrices are all of one type.
_FILE_TYPES = {
    types.F32: 0, types.F16: 1, types.Q4_0: 2, types.Q4_1: 3, types.Q8_0: 7, types.Q5_0: 8, types.Q5_1: 9,
    types.Q2_K: 10, types.Q3_K: 11, types.Q4_K: 14, types.Q5_K: 16, types.Q6_K: 18, types.IQ2_XXS: 19,
    types.IQ2_XS: 20, types.IQ3_XXS: 23, types.IQ1_S: 24, types.IQ4_NL: 25, types.IQ3_S: 26, types.IQ2_S: 28,
    types.IQ4_XS: 30, types.IQ1_M: 31, types.BF16: 32, types.TQ1_0: 36, types.TQ2_0: 37, types.MXFP4: 38,
    types.NVFP4: 39, types.Q1_0: 40,
}  # fmt: skip


def resolve(name: str) -> Mix | TensorType:
    """A mix, or the one type of every matrix. Raises CheckpointError for an unknown name."""
    mix = MIXES.get(name.upper())
    if mix is not None:
        return mix
    try:
        return types.by_name(name)
    except CheckpointError:
        known = ", ".join([*MIXES, *(t.name for t in types.ALL)])
        raise CheckpointError(f"unknown type {name!r}, expected one of {known}") from None


def tensor_type(choice: Mix | TensorType, name: str, shape: tuple[int, ...], config: ModelConfig) -> TensorType:
    """The type of the tensor with canonical name `name`. Norms and biases are F32 in every mix."""
    if len(shape) == 1:
        return types.F32
    if isinstance(choice, TensorType):
        return choice
    chosen = _mixed(choice, name, config)
    return _FALLBACK.get(chosen, chosen) if shape[-1] % chosen.block else chosen


def _mixed(mix: Mix, name: str, config: ModelConfig) -> TensorType:
    if name == ("tok_embeddings.weight" if config.tied_output else "output.weight"):
        return mix.output
    if name == "tok_embeddings.weight":
        return mix.embeddings or mix.base
    parts = name.split(".")
    return mix.rule(parts[-2], int(parts[1]), config) or mix.base


def file_type(tensors: Iterable[LazyTensor]) -> int:
    """GGUF's general.file_type: the mix or type that most bytes of the matrices speak for."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    sizes: Counter[TensorType] = Counter()
    for tensor in matrices:
        sizes[tensor.type] += tensor.nbytes
    main = sizes.most_common(1)[0][0]
    for mix in MIXES.values():
        if main == mix.base and any(t.type == mix.better and ".w2." in t.name for t in matrices):
            return mix.file_type
    return _FILE_TYPES[main]
