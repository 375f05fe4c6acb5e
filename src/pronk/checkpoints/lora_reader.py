"""LoRA adapters (Hu et al. 2021): for some of a model's weights two thin matrices, y = W x + scale * B (A x).

Two forms: a directory of Hugging Face's PEFT (adapter_config.json, adapter_model.safetensors or .bin) and llama.cpp's
GGUF. What the first one's config says is `peft_config`'s business; tensors are held against the model's shapes here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pronk.checkpoints import gguf_file, names, peft_config, safetensors_reader, torch_file
from pronk.checkpoints.fields import Fields
from pronk.checkpoints.mapped import read_json
from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PEFT_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_GGUF_NAME = re.compile(r"(.+\.weight)\.lora_([ab])")
# The keys of llama.cpp's adapters (gguf-py, `Keys.Adapter`) that leave a plain LoRA what it is.
_GGUF_KEYS = frozenset({
    "adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix",
})  # fmt: skip


@dataclass(frozen=True)
class LoraSpec:
    """An adapter as a user asks for it; `scale` multiplies the adapter's own."""

    path: Path
    name: str
    scale: float = 1.0


class LowRank(NamedTuple):
    """What is added to one weight's result: scale * B (A x)."""

    a: LazyTensor  # (rank, in)
    b: LazyTensor  # (out, rank), its rows in Meta's order
    scale: float


@dataclass(frozen=True)
class Lora:
    """An open adapter: by the canonical name of each weight that it changes. No matrix is read yet."""

    path: Path
    weights: Mapping[str, LowRank]


def parse_spec(spec: str | Path) -> LoraSpec:
    """`[NAME=]PATH[:SCALE]`; a path that exists is that path, whatever is in it. The name is the path's last part
    unless given. Raises CheckpointError for a spec without a path, a name or a scale that is none."""
    text = str(spec)
    if isinstance(spec, Path) or _exists(text):
        return _named(Path(text), None, 1.0)
    name, equals, rest = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", name):
        name, rest = "", text
    path, scale = rest, 1.0
    before, colon, number = rest.rpartition(":")
    if colon and not _exists(rest) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", number):
        path, scale = before, float(number)
    if not path:
        raise CheckpointError(f"{text!r} names no adapter, expected [NAME=]PATH[:SCALE]")
    return _named(Path(path), name or None, scale)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte in it
        raise CheckpointError(f"{text[:60]!r} is no path of an adapter") from None


def _named(path: Path, name: str | None, scale: float) -> LoraSpec:
    return LoraSpec(path, name or default_name(path), scale)


def default_name(path: Path) -> str:
    """A directory's name, or a GGUF file's without its ending."""
    whole = path.resolve()
    if whole.name in (_CONFIG, *_WEIGHTS):
        return whole.parent.name
    return whole.stem if whole.suffix == ".gguf" else whole.name


def open_lora(path: Path, config: ModelConfig, *, scale: float = 1.0) -> Lora:
    """Open an adapter for a model of this config: a PEFT directory (or a file in it), or a GGUF file. `scale`
    multiplies the adapter's own. Raises CheckpointError for one that is damaged, does something that is not supported,
    or was made for a model of other shapes."""
    if not abs(scale) < 1e6:
        raise CheckpointError(f"the adapter {path} would be scaled by {scale}, expected a number such as 0.5")
    try:
        if path.name in (_CONFIG, *_WEIGHTS):
            path = path.parent
        if path.is_dir():
            weights = _open_peft(path, config)
        elif path.is_file():
            weights = _open_gguf(path, config)
        else:
            raise CheckpointError(
                f"there is no adapter at {path}, expected a PEFT directory or a GGUF file on this machine"
            )
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    return Lora(path, {name: w._replace(scale=w.scale * scale) for name, w in weights.items()})


# --- PEFT ---


def _open_peft(directory: Path, config: ModelConfig) -> dict[str, LowRank]:
    if not (directory / _CONFIG).exists():
        raise CheckpointError(f"{directory} has no {_CONFIG}, expected a PEFT adapter's directory, or name a GGUF file")
    wanted = peft_config.read(Fields(read_json(directory / _CONFIG), str(directory / _CONFIG)))
    file = next((directory / name for name in _WEIGHTS if (directory / name).exists()), None)
    if file is None:
        raise CheckpointError(f"{directory} has no {_WEIGHTS[0]}; download it again")
    entries: Mapping[str, safetensors_reader.Entry | torch_file.Entry] = (
        safetensors_reader.read_file(file) if file.suffix == ".safetensors" else torch_file.read_file(file)
    )
    pairs: dict[str, dict[str, LazyTensor]] = {}
    modules: dict[str, str] = {}
    for name, entry in entries.items():
        match = _PEFT_NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{file}: {peft_config.why_refused(name)}")
        canonical = _canonical(names.from_hf, f"{match[1]}.weight", config, file)
        kind = match[2].lower()
        modules[canonical] = match[1]
        pairs.setdefault(canonical, {})[kind] = entry.lazy(f"{canonical}.lora_{kind}")
    weights = {}
    for canonical, pair in pairs.items():
        a, b = _checked(canonical, pair, config, file)
        scale = _finite(wanted.scale(modules[canonical], a.shape[0]), f"{directory / _CONFIG}: lora_alpha")
        weights[canonical] = LowRank(a, names.hf_to_meta_rows(b, config), scale)
    wanted.check_targets(modules.values())
    return _not_empty(weights, file)


# --- GGUF ---


def _open_gguf(path: Path, config: ModelConfig) -> dict[str, LowRank]:
    file = gguf_file.read(path)
    fields = Fields(file.metadata, str(path))
    for key, expected in (("general.type", "adapter"), ("general.architecture", "llama"), ("adapter.type", "lora")):
        if fields.text(key, "nothing") != expected:
            raise CheckpointError(f"{path}: {key} is {fields.text(key, 'nothing')!r:.60}, expected {expected!r}")
    for key in file.metadata:
        if key.startswith("adapter.") and key not in _GGUF_KEYS:
            raise CheckpointError(
                f"{path}: {key} changes what the adapter computes in a way that is not supported; expected a plain LoRA"
            )
    alpha = fields.number("adapter.lora.alpha")
    pairs: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in file.tensors.items():
        match = _GGUF_NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{path}: {name[:200]!r} is no tensor of a LoRA, expected names such as blk.0.attn_q.weight.lora_a"
            )
        canonical = _canonical(names.from_gguf, match[1], config, path)
        renamed = LazyTensor(f"{canonical}.lora_{match[2]}", tensor.shape, tensor.type, tensor.load, tensor.mapped)
        pairs.setdefault(canonical, {})[match[2]] = renamed
    weights = {}
    for canonical, pair in pairs.items():
        a, b = _checked(canonical, pair, config, path)
        # llama.cpp: no alpha means that the product is taken as it is (`llama_adapter_lora_weight::get_scale`)
        weights[canonical] = LowRank(a, b, _finite(alpha / a.shape[0] if alpha else 1.0, f"{path}: adapter.lora.alpha"))
    return _not_empty(weights, path)


# --- both ---


def _canonical(translate: Callable[[str], str | None], name: str, config: ModelConfig, file: Path) -> str:
    """layers.0.attention.wq of a weight's name in another dialect. Raises CheckpointError for what is no matrix of this
    model, and for the embeddings, whose rows are looked up and not multiplied."""
    try:
        found = translate(name)
    except CheckpointError:
        found = None
    shape = config.tensor_shapes().get(found) if found else None
    if found == "output.weight":
        shape = (config.vocab_size, config.dim)  # also where it is the embedding table
    if shape is None:
        raise CheckpointError(
            f"{file}: the adapter changes {name[:200]!r}, which this model of {config.n_layers} layers does not have; "
            "load it with the model that it was made for"
        )
    if len(shape) != 2 or found == "tok_embeddings.weight":
        raise CheckpointError(
            f"{file}: the adapter changes {name[:200]!r}, which is not supported, expected attention, feed-forward "
            "and output matrices alone; merge it into the model with PEFT's merge_and_unload"
        )
    return str(found).removesuffix(".weight")


def _checked(
    name: str, pair: Mapping[str, LazyTensor], config: ModelConfig, file: Path
) -> tuple[LazyTensor, LazyTensor]:
    for kind in ("a", "b"):
        if kind not in pair:
            raise CheckpointError(f"{file} has no {name}.lora_{kind}, only the other half; download it again")
    a, b = pair["a"], pair["b"]
    rows, columns = config.tensor_shapes().get(f"{name}.weight", (config.vocab_size, config.dim))
    rank = a.shape[0]
    for tensor, expected in ((a, (rank, columns)), (b, (rows, rank))):
        if tensor.shape != expected:
            raise CheckpointError(
                f"{file}: {tensor.name} is {tensor.shape}, expected {expected} for this model's {name}"
                f" ({rows}, {columns}) at rank {rank}; load the adapter with the model that it was made for"
            )
        if tensor.type not in types.COMPUTABLE:
            raise CheckpointError(
                f"{file}: {tensor.name} is {tensor.type}, which this version cannot compute with; convert it to F16"
            )
    return a, b


def _finite(scale: float, what: str) -> float:
    """The scale, if a float32 can hold it."""
    if not abs(scale) < 1e30:
        raise CheckpointError(f"{what} makes a scale of {scale:.4g}, expected a number near 1; the file is damaged")
    return scale


def _not_empty(weights: dict[str, LowRank], file: Path) -> dict[str, LowRank]:
    if not weights:
        raise CheckpointError(f"{file} has no tensors, expected an adapter's; download it again")
    return weights
