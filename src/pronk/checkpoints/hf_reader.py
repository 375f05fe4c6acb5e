"""A Hugging Face directory -> Checkpoint: config.json, safetensors (or PyTorch's .bin), and the tokenizer's files.

wq and wk come with HF's order of rows and are put into Meta's whenever they are loaded; everything else is the file's
own bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pronk.checkpoints import names, safetensors_reader, torch_file
from pronk.checkpoints.checkpoint import Checkpoint, check_shapes
from pronk.checkpoints.fields import Fields
from pronk.checkpoints.hf_config import read_config, read_generation
from pronk.checkpoints.mapped import read_json
from pronk.checkpoints.tokenizer_files import fitting, once, read_bytes, read_model_file
from pronk.config import ModelConfig
from pronk.errors import CheckpointError, TokenizerError
from pronk.tensors.lazy import LazyTensor
from pronk.text.tokenizer import Tokenizer

Entries = Mapping[str, safetensors_reader.Entry] | Mapping[str, torch_file.Entry]

_BIN_INDEX = "pytorch_model.bin.index.json"


def weight_files(directory: Path) -> list[Path]:
    """What holds the weights: one file or one index, in transformers' order of preference; several files where neither
    is there under its usual name."""
    for name in ("model.safetensors", safetensors_reader.INDEX):
        if (directory / name).exists():
            return [directory / name]
    found = sorted(directory.glob("*.safetensors.index.json")) or sorted(directory.glob("*.safetensors"))
    if found:
        return found
    return [directory / name for name in ("pytorch_model.bin", _BIN_INDEX) if (directory / name).exists()][:1]


def open_hf(directory: Path, weights: Path | None = None) -> Checkpoint:
    """Open a directory; `weights` is the file in it that was asked for. Raises CheckpointError."""
    config = read_config(_existing(directory / "config.json"))
    entries = _entries(directory, weights)
    tensors = _tensors(entries, config, str(directory))
    defaults, stops = read_generation(directory)
    return Checkpoint(
        path=directory,
        format="hf",
        config=config,
        tensors=tensors,
        load_tokenizer=once(lambda: _fitting_tokenizer(directory, stops, config)),
        name=_name(directory.resolve()),
        chat_template=read_chat_template(directory),
        defaults=defaults,
    )


def _fitting_tokenizer(directory: Path, stops: frozenset[int], config: ModelConfig) -> Tokenizer:
    tokenizer = fitting(read_tokenizer(directory), config, str(directory))
    return tokenizer.with_stop_ids(stops)


def _name(directory: Path) -> str:
    """The directory's own name, or org/name in the hub's cache: models--org--name/snapshots/<a hash>."""
    repository = directory.parent.parent.name
    if directory.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return directory.name


def _existing(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path.parent} has weights and no {path.name}, which says how they are used")
    return path


def _entries(directory: Path, weights: Path | None) -> Entries:
    usual = weight_files(directory)
    if weights is None or _is_shard(weights, usual):
        if not usual:
            raise CheckpointError(f"{directory} has no weights, expected *.safetensors; download it again")
        if len(usual) > 1:
            raise CheckpointError(
                f"{directory} has {len(usual)} weight files and no index ({', '.join(p.name for p in usual[:8])}), "
                f"expected model.safetensors or {safetensors_reader.INDEX}; name one of them"
            )
        weights = usual[0]
    if weights.name.endswith(".safetensors.index.json"):
        return safetensors_reader.read_indexed(directory, weights.name)
    if weights.name == _BIN_INDEX:
        return _read_indexed_bins(weights)
    with weights.open("rb") as file:
        is_torch = file.read(4) == torch_file.ZIP_MAGIC
    return torch_file.read_file(weights) if is_torch else safetensors_reader.read_file(weights)


def _is_shard(file: Path, usual: list[Path]) -> bool:
    """Whether the file is one of those that the directory's index lists."""
    if len(usual) != 1 or not usual[0].name.endswith(".index.json"):
        return False
    return file.name in safetensors_reader.weight_map(usual[0]).values()


def _read_indexed_bins(index: Path) -> dict[str, torch_file.Entry]:
    places = safetensors_reader.weight_map(index)
    files = {file: torch_file.read_file(index.with_name(file)) for file in sorted(set(places.values()))}
    for name, file in places.items():
        if name not in files[file]:
            raise CheckpointError(f"{index.with_name(file)} has no {name}, which {index.name} places there")
    return {name: files[file][name] for name, file in places.items()}


def _tensors(entries: Entries, config: ModelConfig, where: str) -> dict[str, LazyTensor]:
    tensors = {}
    try:
        for name, entry in entries.items():
            meta = names.from_hf(name)
            if meta is None or (meta == "output.weight" and config.tied_output):
                continue  # transformers ties lm_head to the embeddings, whatever the file has for it
            tensors[meta] = entry.lazy(meta)
        check_shapes(config, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return {name: names.hf_to_meta_rows(tensor, config) for name, tensor in tensors.items()}


# --- tokenizer ---


def read_tokenizer(directory: Path, file: Path | None = None) -> Tokenizer:
    """From tokenizer.json (or the given file), else from tokenizer.model. Raises TokenizerError."""
    path = file or directory / "tokenizer.json"
    if not path.exists():
        if (directory / "tokenizer.model").exists():
            return read_model_file(directory / "tokenizer.model")
        raise TokenizerError(f"{directory} has no tokenizer.json and no tokenizer.model; download one of them into it")
    from pronk.text import tokenizer_json
    from pronk.text.tokenizers import build_tokenizer
    from pronk.text.vocabulary import Vocabulary

    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is no UTF-8 text at byte {error.start}; download it again") from None
    made = tokenizer_json.read(text, _tokenizer_config(directory).values)
    return build_tokenizer(made) if isinstance(made, Vocabulary) else made


def _tokenizer_config(directory: Path) -> Fields:
    path = directory / "tokenizer_config.json"
    return Fields(read_json(path) if path.exists() else {}, str(path))


def read_chat_template(directory: Path) -> str | None:
    """chat_template.jinja, chat_template.json, or the one in tokenizer_config.json: of a list of them, "default"."""
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return read_bytes(path).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is no UTF-8 text at byte {error.start}; download it again") from None
    other = directory / "chat_template.json"
    fields = Fields(read_json(other), str(other)) if other.exists() else _tokenizer_config(directory)
    template = fields.values.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict) and _is_text(t.get("name"))}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise fields.wrong("chat_template", "a Jinja template, or a list of them by name")
    return template


def _is_text(value: object) -> bool:
    return isinstance(value, str)
