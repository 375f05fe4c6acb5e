"""Which tensor gets which type, as data.

A recipe is a base (a mix such as Q4_K_M, or one type for all matrices) and rules that come before it: the first rule
whose pattern and layers fit a tensor says its type. Patterns are shell's (`*`, `?`), against the canonical name
(layers.0.attention.wv) or GGUF's (blk.0.attn_v), or name a part: wv, attn_v, tok_embeddings, output.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pronk.checkpoints import mixes, names
from pronk.checkpoints.mixes import Mix
from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.types import TensorType

Layers = tuple[float, float]  # from .. to as parts of the depth, the end left out; (0.25, 0.75) is the middle half

# Least bits that need an importance matrix: without one the result is noise. Tables of tokens are looked up or come
# last, and have none in llama.cpp's files either.
NEED_IMPORTANCE = frozenset({types.IQ1_S, types.IQ1_M, types.IQ2_XXS, types.IQ2_XS, types.IQ2_S})
_TABLES = ("tok_embeddings.weight", "output.weight")
_DYNAMIC_BASES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "Q2_K", "Q3_K")


@dataclass(frozen=True)
class Rule:
    """`layers` None: all, and the tensors outside of the layers too."""

    pattern: str
    type: TensorType
    layers: Layers | None = None

    def fits(self, name: str, n_layers: int) -> bool:
        if not any(fnmatchcase(spelling, self.pattern) for spelling in _spellings(name)):
            return False
        if self.layers is None:
            return True
        parts = name.split(".")
        first, last = self.layers
        return parts[0] == "layers" and first * n_layers <= int(parts[1]) < last * n_layers


@dataclass(frozen=True)
class Recipe:
    name: str
    base: Mix | TensorType
    rules: tuple[Rule, ...] = ()

    def wanted(self, name: str, config: ModelConfig, *, weighted: bool) -> TensorType:
        """The type of a matrix, whatever its width."""
        for rule in self.rules:
            if rule.fits(name, config.n_layers):
                return rule.type
        return (
            self.base if isinstance(self.base, TensorType) else mixes.mixed(self.base, name, config, weighted=weighted)
        )


@dataclass(frozen=True)
class Fallback:
    """A tensor whose width does not divide into the blocks of the type that was wanted."""

    name: str
    wanted: TensorType
    type: TensorType
    columns: int

    @property
    def reason(self) -> str:
        return f"{self.columns} columns are no multiple of {self.wanted.block}"


@dataclass(frozen=True)
class Plan:
    """A type for every tensor of a model, by canonical name."""

    recipe: str
    types: Mapping[str, TensorType]
    file_type: int | None = None  # GGUF's general.file_type, where the recipe has a number of its own
    fallbacks: tuple[Fallback, ...] = field(default=())


def plan(recipe: Recipe, config: ModelConfig, *, weighted: bool) -> Plan:
    """Norms and biases are F32. Raises CheckpointError for a rule that fits no matrix."""
    chosen: dict[str, TensorType] = {}
    fallbacks = []
    for name, shape in config.tensor_shapes().items():
        chosen[name] = types.F32
        if len(shape) > 1:
            wanted = recipe.wanted(name, config, weighted=weighted)
            chosen[name] = mixes.fitting(wanted, shape[-1])
            if chosen[name] != wanted:
                fallbacks.append(Fallback(name, wanted, chosen[name], shape[-1]))
    _check_rules(recipe, config)
    return Plan(recipe.name, chosen, _file_type(recipe), tuple(fallbacks))


def needs_importance(name: str, kind: TensorType) -> bool:
    return kind in NEED_IMPORTANCE and name not in _TABLES


def named(name: str, *, pure: bool = False, base: str | None = None) -> Recipe:
    """A mix, a type, or `dynamicgate` with a low-bit `base`. pure: one type for all matrices, the mix's own."""
    if name.lower() == "dynamicgate":
        return dynamicgate(base or "IQ2_XXS")
    if base:
        raise CheckpointError(f"the recipe {name!r} has its types, so --type {base} says too much; leave one out")
    try:
        choice = mixes.resolve_for_quantizing(name)
    except CheckpointError:
        raise CheckpointError(f"unknown type {name!r}, expected one of {', '.join(known())}") from None
    if pure and isinstance(choice, Mix):
        choice = choice.base
    return Recipe(choice.name + (" (pure)" if pure else ""), choice)


def known() -> list[str]:
    """Every name that `--type` takes."""
    mixed = [*mixes.NAMED_AS_TYPES, *mixes.SMALL_AND_BETWEEN, *mixes.MIXES]
    plain = [t.name for t in types.ALL if t in types.COMPUTABLE and t.name not in mixed]
    return sorted({*mixed, *plain})


def dynamicgate(base: str) -> Recipe:
    """The first and last quarter of the layers at four bits, the middle half in `base`, the token tables at five."""
    if base.upper() not in _DYNAMIC_BASES:
        raise CheckpointError(f"dynamicgate has no base {base!r}, expected one of {', '.join(_DYNAMIC_BASES)}")
    middle = types.by_name(base)
    tables = (Rule("tok_embeddings", types.Q5_K), Rule("output", types.Q5_K))
    ends = (Rule("*", types.IQ4_XS, (0.0, 0.25)), Rule("*", types.IQ4_XS, (0.75, 1.0)))
    return Recipe(f"dynamicgate {middle.name}", middle, (*tables, *ends))


def with_overrides(recipe: Recipe, rules: tuple[Rule, ...]) -> Recipe:
    return Recipe(recipe.name, recipe.base, (*rules, *recipe.rules)) if rules else recipe


def override(text: str) -> Rule:
    """`PATTERN=TYPE`."""
    pattern, equals, kind = text.rpartition("=")
    if not equals or not pattern:
        raise CheckpointError(f"{text!r} is no PATTERN=TYPE, expected one such as attn_v=Q6_K")
    return Rule(pattern, types.by_name(kind))


# --- YAML ---


def read(path: Path) -> Recipe:
    """A recipe of one's own: `base`, and `rules`, a list of `tensors` (patterns), `layers` and `type`.

    Raises CheckpointError for a file that cannot be read, and for anything in it that is not understood.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not UTF-8, expected a recipe in YAML") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise CheckpointError(f"{path}{where} is no YAML: {getattr(error, 'problem', None) or error!s:.100}") from None
    try:
        return _recipe(document, path.stem)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _recipe(document: Any, name: str) -> Recipe:
    values = _mapping(document, "the recipe", {"name", "base", "pure", "rules"})
    base, pure, rules = values.get("base"), values.get("pure", False), values.get("rules", [])
    if not isinstance(base, str):
        raise CheckpointError(f"base is {base!r:.60}, expected a type or a mix such as Q4_K_M")
    if not isinstance(pure, bool):
        raise CheckpointError(f"pure is {pure!r:.60}, expected true or false")
    if not isinstance(rules, list):
        raise CheckpointError(f"rules is {rules!r:.60}, expected a list")
    start = named(base, pure=pure)
    own = tuple(rule for i, item in enumerate(rules, 1) for rule in _rules(item, f"rule {i}"))
    return Recipe(name, start.base, (*own, *start.rules))


def _rules(item: Any, where: str) -> list[Rule]:
    """One rule of the file; it may have several patterns."""
    values = _mapping(item, where, {"tensors", "layers", "type"})
    patterns = values.get("tensors", "*")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise CheckpointError(f"{where}: tensors is {patterns!r:.60}, expected a pattern or a list of them")
    kind = values.get("type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{where}: type is {kind!r:.60}, expected one such as Q5_K")
    layers = _layers(values["layers"], where) if "layers" in values else None
    try:
        return [Rule(pattern, types.by_name(kind), layers) for pattern in patterns]
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _layers(value: Any, where: str) -> Layers:
    """`25%-75%`: a part of the depth."""
    first, dash, last = str(value).replace(" ", "").partition("-")
    try:
        span = float(first.removesuffix("%")) / 100, float(last.removesuffix("%")) / 100
    except ValueError:
        span = (1.0, 0.0)
    if not dash or not first.endswith("%") or not last.endswith("%") or not 0 <= span[0] < span[1] <= 1:
        raise CheckpointError(f"{where}: layers is {value!r:.60}, expected a part of the depth such as 0%-25%")
    return span


def _mapping(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is {value!r:.60}, expected names with values: {', '.join(sorted(known))}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
            raise CheckpointError(f"{where} has {key!r:.60}; {hint}")
    return value


# --- names ---


def _spellings(name: str) -> list[str]:
    """All that a pattern may mean by this tensor: both dialects, with and without .weight, and its part alone."""
    full = [name, names.to_gguf(name)]
    stems = [text.removesuffix(".weight") for text in full]
    return [*full, *stems, *(stem.rpartition(".")[2] for stem in stems)]


def _check_rules(recipe: Recipe, config: ModelConfig) -> None:
    matrices = [name for name, shape in config.tensor_shapes().items() if len(shape) > 1]
    everything = [spelling for name in [*matrices, *_TABLES] for spelling in _spellings(name)]
    for rule in recipe.rules:
        if not any(fnmatchcase(spelling, rule.pattern) for spelling in everything):
            near = difflib.get_close_matches(rule.pattern, everything, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CheckpointError(f"the pattern {rule.pattern!r:.80} fits no matrix of this model{hint}")


def _file_type(recipe: Recipe) -> int | None:
    return recipe.base.file_type if isinstance(recipe.base, Mix) and not recipe.rules else None
