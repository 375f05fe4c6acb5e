"""adapter_config.json of Hugging Face's PEFT -> how its LoRA is scaled: the one door for that file.

Keys: `LoraConfig` of PEFT (huggingface/peft, src/peft/tuners/lora/config.py). Every key is either read here, known to
be harmless, switched off, or refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pronk.checkpoints.fields import Fields, shown
from pronk.errors import CheckpointError

_READ = frozenset({
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "bias",
    "init_lora_weights",
})  # fmt: skip
# Of training, of where the file is from, or said by the tensors themselves.
_HARMLESS = frozenset({
    "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "lora_dropout",
    "peft_version", "layers_to_transform", "layers_pattern", "exclude_modules", "megatron_core", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size", "ensure_weight_tying",
})  # fmt: skip
# Ways to begin that leave the model's own weights alone: with the others the adapter belongs to changed ones.
_INITIAL = (True, False, "gaussian", "eva", "orthogonal")
_OFF: tuple[object, ...] = (None, False, [], {}, "", 0)
_MOST_NAMES = 2000
_MOST_CHARACTERS = 200
_MOST_REPEATS = _MOST_GROUPS = 2

Patterns = tuple[tuple[re.Pattern[str], float], ...]

_REFUSED = (
    ("lora_magnitude_vector", "belongs to DoRA"),
    ("lora_embedding_", "is a LoRA on the embeddings"),
    ("modules_to_save", "replaces a whole module (modules_to_save)"),
    (".bias", "is a bias"),
)


@dataclass(frozen=True)
class PeftConfig:
    """What the arithmetic needs; `scale` and `check_targets` take modules by their names in transformers' model, such
    as model.layers.0.self_attn.q_proj."""

    where: str
    rank: int
    alpha: float
    rank_stabilized: bool  # scale alpha / sqrt(rank) (Kalajdzievski 2023) instead of alpha / rank
    ranks: Patterns
    alphas: Patterns
    targets: tuple[str, ...] | None  # None: given by a pattern, and said by the tensors

    def scale(self, module: str, rank: int) -> float:
        """Of the module's product, whose tensors have this rank. Raises CheckpointError where the config has
        another."""
        expected = _chosen(self.ranks, module, self.rank)
        if rank != expected:
            raise CheckpointError(
                f"{self.where}: r of {module} is {expected:g}, its tensors have rank {rank};"
                " the two do not belong together"
            )
        alpha = _chosen(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank

    def check_targets(self, modules: Iterable[str]) -> None:
        """Raises CheckpointError unless the config names all these modules. It may name more: PEFT passes over those
        that the model does not have."""
        for module in modules:
            if self.targets is not None and not any(_is(module, target) for target in self.targets):
                raise CheckpointError(
                    f"{self.where}: target_modules does not name {module}, for which there are tensors;"
                    " the two do not belong together"
                )


def read(fields: Fields) -> PeftConfig:
    """Raises CheckpointError for a kind of adapter, a key or a value that is not a plain LoRA's."""
    if (kind := fields.text("peft_type")) != "LORA":
        raise CheckpointError(f"{fields.where}: peft_type is {kind!r:.60}, expected 'LORA'")
    for key, value in fields.values.items():
        if key not in _READ and key not in _HARMLESS and not any(_same(value, off) for off in _OFF):
            raise _unsupported(fields, key)
    if fields.text("bias", "none") != "none":
        raise _unsupported(fields, "bias")
    initial = fields.values.get("init_lora_weights", True)
    if not any(_same(initial, known) for known in (None, *_INITIAL)):
        raise CheckpointError(
            f"{fields.where}: init_lora_weights is {shown(initial)}, whose adapters belong to a changed copy of the"
            " model; save it with path_initial_model_for_weight_conversion"
        )
    rank, alpha = fields.integer("r"), fields.number("lora_alpha")
    if rank < 1 or not abs(alpha) < 1e30:
        raise CheckpointError(f"{fields.where}: r is {rank} and lora_alpha {alpha:g}, expected at least 1 and a number")
    return PeftConfig(
        where=fields.where,
        rank=rank,
        alpha=alpha,
        rank_stabilized=fields.flag("use_rslora", False),
        ranks=_patterns(fields, "rank_pattern"),
        alphas=_patterns(fields, "alpha_pattern"),
        targets=_targets(fields),
    )


def why_refused(name: str) -> str:
    """What to say of a tensor that is no half of a LoRA on a linear layer."""
    for part, reason in _REFUSED:
        if part in name:
            return f"{name[:200]!r} {reason}, which is not supported; merge it into the model with PEFT"
    return f"{name[:200]!r} is no tensor of a LoRA, expected names such as base_model.model.….q_proj.lora_A.weight"


def _unsupported(fields: Fields, key: str) -> CheckpointError:
    return CheckpointError(
        f"{fields.where}: {key} is {shown(fields.values[key])}, which changes what the adapter computes in a way"
        " that is not supported; merge it into the model with PEFT's merge_and_unload"
    )


def _same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _targets(fields: Fields) -> tuple[str, ...] | None:
    """None for an expression (or "all-linear"): the tensors say which modules it meant, and an expression of somebody
    else's is not run where it decides nothing."""
    value = fields.values.get("target_modules")
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise fields.wrong("target_modules", "a list of modules, or an expression")
    if len(value) > _MOST_NAMES:
        raise CheckpointError(f"{fields.where}: target_modules has {len(value)} names, expected {_MOST_NAMES} at most")
    return tuple(value)


def _is(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _patterns(fields: Fields, key: str) -> Patterns:
    child = fields.child(key)
    if len(child.values) > _MOST_NAMES:
        raise CheckpointError(f"{fields.where}: {key} has {len(child.values)} values, expected {_MOST_NAMES} at most")
    return tuple((_compiled(pattern, f"{fields.where}: {key}"), child.number(pattern)) for pattern in child.values)


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    """As PEFT's `get_pattern_key` has it: the end of a module's name, from a dot on. Matching may take exponential
    time; with few repeats and few groups, and none of them repeated, it cannot."""
    repeats, groups = len(re.findall(r"[*+?{]", pattern.replace("(?:", "("))), pattern.count("(")
    hard = re.search(r"\)\s*[*+?{]|\(\?[^:]|\\\d", pattern)  # a repeated group, a look-around, a reference
    if len(pattern) > _MOST_CHARACTERS or repeats > _MOST_REPEATS or groups > _MOST_GROUPS or hard:
        raise CheckpointError(
            f"{where} has {pattern[:60]!r}, expected a module's name or a simpler expression: {_MOST_CHARACTERS}"
            f" characters, {_MOST_REPEATS} repeats and {_MOST_GROUPS} groups at most; write the modules out"
        )
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{where} has {pattern[:60]!r}, which is no expression: {error}") from None


def _chosen(patterns: Patterns, module: str, default: float) -> float:
    """Of the first pattern that matches."""
    return next((value for pattern, value in patterns if pattern.match(module)), default)
