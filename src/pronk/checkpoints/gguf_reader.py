"""GGUF -> Checkpoint. Rows are as Meta has them, so every tensor is the file's own bytes.

A model in several files (`-00001-of-00003.gguf`, llama.cpp's gguf-split) opens from any of them: metadata come from the
first, tensors from all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pronk.checkpoints import gguf_file, names
from pronk.checkpoints.checkpoint import Checkpoint, GenerationDefaults, check_shapes
from pronk.checkpoints.fields import Fields, shortest
from pronk.checkpoints.gguf_config import llama_fields, read_config
from pronk.checkpoints.tokenizer_files import fitting, once
from pronk.config import ModelConfig
from pronk.errors import CheckpointError
from pronk.tensors.lazy import LazyTensor
from pronk.text.tokenizer import Tokenizer

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or all parts of a split one. Raises CheckpointError."""
    files = _parts(gguf_file.read(path))
    metadata, tensors = files[0].metadata, _united(files)
    found, config = _model(metadata, tensors, str(path))
    fields = Fields(metadata, str(path))
    return Checkpoint(
        path=path,
        format="gguf",
        config=config,
        tensors=found,
        load_tokenizer=once(lambda: fitting(_tokenizer(metadata), config, str(path))),
        name=fields.text("general.name", ""),
        chat_template=fields.text("tokenizer.chat_template", "") or None,
        defaults=_defaults(fields),
    )


def read_metadata(path: Path) -> Mapping[str, object]:
    """Every key and value of a GGUF file's header, as `pronk show` prints them; long arrays are made when asked for."""
    return gguf_file.read(path).metadata


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file that need not hold a model: llama.cpp's vocabulary files have no weights."""
    return _tokenizer(gguf_file.read(path).metadata)


def _tokenizer(metadata: Mapping[str, object]) -> Tokenizer:
    from pronk.text import gguf_vocabulary
    from pronk.text.tokenizers import build_tokenizer

    return build_tokenizer(gguf_vocabulary.read(metadata))


def _model(
    metadata: Mapping[str, object], tensors: Mapping[str, LazyTensor], where: str
) -> tuple[dict[str, LazyTensor], ModelConfig]:
    """Tensors by canonical name, and the config they agree with."""
    fields = llama_fields(metadata, where)
    if not tensors:
        raise CheckpointError(f"{where} holds a vocabulary and no weights; expected a model")
    try:
        canonical = {name: names.from_gguf(name) for name in tensors if name != "rope_freqs.weight"}
        found = {meta: _renamed(tensors[name], meta) for name, meta in canonical.items() if meta is not None}
        config = read_config(fields, tensors, frozenset(found))
        check_shapes(config, found)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return found, config


def _renamed(tensor: LazyTensor, name: str) -> LazyTensor:
    return LazyTensor(name, tensor.shape, tensor.type, tensor.load, tensor.mapped)


def _parts(file: gguf_file.GGUFFile) -> list[gguf_file.GGUFFile]:
    """The given file alone, or all files of its split, in order."""
    count = Fields(file.metadata, str(file.path)).integer("split.count", 0)
    if count <= 1:
        return [file]
    match = PART.fullmatch(file.path.name)
    if not match or int(match[3]) != count:
        raise CheckpointError(
            f"{file.path} is one of {count} parts, expected a name such as model-00001-of-{count:05}.gguf; "
            "give the parts the names that they had"
        )
    paths = [file.path.with_name(f"{match[1]}-{i:05}-of-{match[3]}.gguf") for i in range(1, count + 1)]
    missing = [p.name for p in paths if not p.exists()]
    if missing:
        raise CheckpointError(
            f"{file.path} is one of {count} parts, and {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} "
            f"{'is' if len(missing) == 1 else 'are'} missing beside it; download the missing parts"
        )
    files = [file if p == file.path else gguf_file.read(p) for p in paths]
    for index, part in enumerate(files):
        fields = Fields(part.metadata, str(part.path))
        if (fields.integer("split.no"), fields.integer("split.count")) != (index, count):
            raise CheckpointError(f"{part.path} is not part {index + 1} of {count} by its metadata; download it again")
    return files


def _united(files: list[gguf_file.GGUFFile]) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            if name in tensors:
                raise CheckpointError(
                    f"{file.path}: the tensor {name!r} is in another part too; the parts do not match"
                )
            tensors[name] = tensor
    expected = Fields(files[0].metadata, str(files[0].path)).integer("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise CheckpointError(f"{files[0].path}: its parts hold {len(tensors)} tensors, expected {expected}")
    return tensors


def _defaults(fields: Fields) -> GenerationDefaults:
    prefix = "general.sampling."
    return GenerationDefaults(
        temperature=shortest(fields.number(prefix + "temp")) if fields.has(prefix + "temp") else None,
        top_p=shortest(fields.number(prefix + "top_p")) if fields.has(prefix + "top_p") else None,
        top_k=fields.integer(prefix + "top_k") if fields.has(prefix + "top_k") else None,
    )
