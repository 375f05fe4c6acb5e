"""Mixes: one name for which tensor gets which type, such as Q4_K_M.

Facts from llama.cpp (src/llama-quant.cpp, `llama_tensor_get_type_impl`; include/llama.h, `llama_ftype`), but for two
rules about wv, whose bits cost little (docs/decisions/019): Q4_K_M has no less for it than Q4_K_S in the first layers,
and the two-bit and one-bit mixes have Q3_K, not Q2_K, where few query heads share it.
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
    `unweighted` is asked instead of `rule` where there is no importance matrix.
    """

    name: str
    base: TensorType
    better: TensorType
    output: TensorType
    file_type: int  # GGUF's general.file_type
    rule: Rule
    embeddings: TensorType | None = None  # where they are not the output table; None: base
    unweighted: Rule | None = None


def _more_bits(more: TensorType) -> Rule:
    """`more` for wv and w2 of the layers that suffer most."""
    return lambda part, layer, config: more if part in ("wv", "w2") and _suffers(layer, config.n_layers) else None


def _q4_k_m(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return _more_bits(types.Q6_K)(part, layer, config) or (_q4_k_s(part, layer, config) if part == "wv" else None)


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


def _q2_k(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return _for_wv(config) if _shares_wv(config) else types.Q3_K
    return types.Q3_K if part in ("wo", "w2") else None


def _q4_k_s(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return types.Q5_K if layer < 4 or _is_70b(config) else None
    return types.Q5_K if part == "w2" and layer < config.n_layers // 8 else None


def _iq1(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return types.IQ2_XXS if part == "wo" else _iq2(part, layer, config)


def _iq2(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return types.Q4_K if _shares_wv(config) else types.Q3_K
    return types.Q2_K if part == "w2" and layer < config.n_layers // 8 else None


def _iq3_xxs(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    if part == "wv":
        return _for_wv(config) if _shares_wv(config) else None
    return {"wq": types.IQ2_S, "wk": types.IQ2_S, "wo": types.IQ3_S}.get(part)


def _iq3_xs(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    layers = config.n_layers
    middle = layers // 8 <= layer < 7 * layers // 8
    if part in ("wq", "wk") or (part in ("w1", "w3") and middle):
        return types.IQ3_XXS
    return _iq3_s(part, layer, config)


def _iq3_s(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return _for_wv(config) if part == "wv" and _shares_wv(config) else None


def _iq4(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return types.Q5_K if part == "wv" and _shares_wv(config) else None


def _iq4_unweighted(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return types.Q5_K if part == "w2" and layer < config.n_layers // 8 else _iq4(part, layer, config)


def _first_w2(better: TensorType) -> Rule:
    """`better` for w2 of the first eighth of the layers."""
    return lambda part, layer, config: better if part == "w2" and layer < config.n_layers // 8 else None


def _no_rule(part: str, layer: int, config: ModelConfig) -> TensorType | None:
    return None


def _suffers(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _shares_wv(config: ModelConfig) -> bool:
    """Four query heads or more share a wv, so bits for it cost little."""
    return config.n_heads >= 4 * config.n_kv_heads


def _for_wv(config: ModelConfig) -> TensorType:
    return types.Q5_K if _is_70b(config) else types.Q4_K


def _is_70b(config: ModelConfig) -> bool:
    """Eight query heads share wv there, so more bits for it cost nearly nothing."""
    return config.n_layers == 80 and config.n_kv_heads < config.n_heads


MIXES = {
    mix.name: mix
    for mix in (
        Mix("Q4_K_M", types.Q4_K, types.Q6_K, types.Q6_K, 15, _q4_k_m),
        Mix("Q5_K_M", types.Q5_K, types.Q6_K, types.Q6_K, 17, _more_bits(types.Q6_K)),
        Mix("Q3_K_M", types.Q3_K, types.Q4_K, types.Q6_K, 12, _q3_k_m),
        Mix("Q3_K_L", types.Q3_K, types.Q5_K, types.Q6_K, 13, _q3_k_l),
        Mix("Q3_K_S", types.Q3_K, types.Q3_K, types.Q6_K, 11, _q3_k_s),
        Mix("Q2_K_S", types.Q2_K, types.Q4_K, types.Q6_K, 21, _q2_k_s),
        Mix("IQ3_M", types.IQ3_S, types.Q4_K, types.Q6_K, 27, _iq3_m),
        Mix("IQ2_M", types.IQ2_S, types.IQ3_S, types.Q5_K, 29, _iq2_m, embeddings=types.IQ3_S),
    )
}

# Mixes that have a type's name. Where a name may mean either, the quantizer takes the mix, and `--pure` the type.
NAMED_AS_TYPES = {
    mix.name: mix
    for mix in (
        Mix("Q4_0", types.Q4_0, types.Q4_1, types.Q6_K, 2, _first_w2(types.Q4_1), unweighted=_no_rule),
        Mix("Q4_1", types.Q4_1, types.Q4_1, types.Q6_K, 3, _no_rule),
        Mix("Q5_0", types.Q5_0, types.Q5_1, types.Q6_K, 8, _first_w2(types.Q5_1), unweighted=_no_rule),
        Mix("Q5_1", types.Q5_1, types.Q5_1, types.Q6_K, 9, _no_rule),
        Mix("Q8_0", types.Q8_0, types.Q8_0, types.Q8_0, 7, _no_rule),
        Mix("Q2_K", types.Q2_K, types.Q3_K, types.Q6_K, 10, _q2_k),
        Mix("Q6_K", types.Q6_K, types.Q6_K, types.Q6_K, 18, _no_rule),
        Mix("IQ1_S", types.IQ1_S, types.Q2_K, types.Q5_K, 24, _iq1, embeddings=types.Q2_K),
        Mix("IQ1_M", types.IQ1_M, types.Q2_K, types.Q5_K, 31, _iq1, embeddings=types.Q2_K),
        Mix("IQ2_XXS", types.IQ2_XXS, types.Q2_K, types.Q5_K, 19, _iq2, embeddings=types.Q2_K),
        Mix("IQ2_XS", types.IQ2_XS, types.Q2_K, types.Q5_K, 20, _iq2, embeddings=types.Q2_K),
        Mix("IQ2_S", types.IQ2_XS, types.IQ3_S, types.Q5_K, 28, _iq2_m, embeddings=types.IQ3_S),
        Mix("IQ3_XXS", types.IQ3_XXS, types.IQ3_XXS, types.Q5_K, 23, _iq3_xxs, embeddings=types.IQ3_S),
        Mix("IQ3_S", types.IQ3_S, types.IQ3_S, types.Q6_K, 26, _iq3_s),
        Mix("IQ4_NL", types.IQ4_NL, types.Q5_K, types.Q6_K, 25, _iq4, unweighted=_iq4_unweighted),
        Mix("IQ4_XS", types.IQ4_XS, types.Q5_K, types.Q6_K, 30, _iq4, unweighted=_iq4_unweighted),
        Mix("TQ1_0", types.TQ1_0, types.TQ1_0, types.Q6_K, 36, _no_rule, embeddings=types.Q4_K),
        Mix("TQ2_0", types.TQ2_0, types.TQ2_0, types.Q6_K, 37, _no_rule, embeddings=types.Q4_K),
    )
}
# Mixes that only the quantizer makes: nothing but general.file_type tells their files from those of other mixes.
SMALL_AND_BETWEEN = {
    mix.name: mix
    for mix in (
        Mix("Q4_K_S", types.Q4_K, types.Q5_K, types.Q6_K, 14, _q4_k_s),
        Mix("Q5_K_S", types.Q5_K, types.Q5_K, types.Q6_K, 16, _no_rule),
        Mix("IQ3_XS", types.IQ3_S, types.IQ3_S, types.Q6_K, 22, _iq3_xs),
    )
}

_MEDIUM = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # what llama-quantize means by these

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


def resolve_for_quantizing(name: str) -> Mix | TensorType:
    """`resolve`, but a name that both a mix and a type have means the mix, as it does to llama.cpp's quantizer."""
    name = _MEDIUM.get(name.upper(), name.upper())
    return NAMED_AS_TYPES.get(name) or SMALL_AND_BETWEEN.get(name) or resolve(name)


def fitting(kind: TensorType, columns: int) -> TensorType:
    """`kind`, or what rows of `columns` values get instead where they are no whole number of its blocks."""
    while columns % kind.block:
        kind = _FALLBACK.get(kind, types.F16)
    return kind


def tensor_type(choice: Mix | TensorType, name: str, shape: tuple[int, ...], config: ModelConfig) -> TensorType:
    """The type of the tensor with canonical name `name`. Norms and biases are F32 in every mix."""
    if len(shape) == 1:
        return types.F32
    if isinstance(choice, TensorType):
        return choice
    return fitting(mixed(choice, name, config), shape[-1])


def mixed(mix: Mix, name: str, config: ModelConfig, *, weighted: bool = True) -> TensorType:
    """What `mix` has for a matrix, whatever its width. `weighted`: an importance matrix is at hand."""
    if name == ("tok_embeddings.weight" if config.tied_output else "output.weight"):
        return mix.output
    if name == "tok_embeddings.weight":
        return mix.embeddings or mix.base
    parts = name.split(".")
    rule = mix.rule if weighted or mix.unweighted is None else mix.unweighted
    return rule(parts[-2], int(parts[1]), config) or mix.base


def file_type(tensors: Iterable[LazyTensor]) -> int:
    """GGUF's general.file_type."""
    kind = told_by(tensors)
    return kind.file_type if isinstance(kind, Mix) else _FILE_TYPES[kind]


def told_by(tensors: Iterable[LazyTensor]) -> Mix | TensorType:
    """The mix or type that most bytes of the matrices speak for."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    sizes: Counter[TensorType] = Counter()
    for tensor in matrices:
        sizes[tensor.type] += tensor.nbytes
    main = sizes.most_common(1)[0][0]
    for mix in MIXES.values():
        if main == mix.base and any(t.type == mix.better and ".w2." in t.name for t in matrices):
            return mix
    return main
