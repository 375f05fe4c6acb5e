"""One door for every checkpoint: what a path holds is told by its content."""

from __future__ import annotations

from pathlib import Path

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.errors import CheckpointError
from pronk.text.tokenizer import Tokenizer


def open_checkpoint(spec: str | Path) -> Checkpoint:
    """Open a model without reading a weight.

    `spec` is a path to a file or directory of any format (GGUF, Hugging Face, Meta, llama2.c). What is no path that
    exists is `random:SHAPE[:TYPE]`, `hf:org/name[:file-or-quant]`, or the name of a pulled or built-in model. Raises
    CheckpointError, or TokenizerError later, when the tokenizer is asked for.
    """
    text = str(spec)
    if not _exists(text):
        if text.startswith("random:"):
            return _random(text)
        from pronk.checkpoints.download import resolve

        spec = resolve(text)
    return open_path(Path(spec))


def open_path(path: Path) -> Checkpoint:
    """`open_checkpoint` for a path only."""
    if not _exists(str(path)):
        raise CheckpointError(f"{path} does not exist; expected a model's file or directory")
    try:
        return _open_directory(path) if path.is_dir() else _open_file(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte in it
        raise CheckpointError(f"{text[:60]!r} is no path and no model's name") from None


def open_tokenizer(spec: str | Path) -> Tokenizer:
    """The tokenizer of whatever `open_checkpoint` opens, and of files that hold one alone: `tokenizer.model`,
    `tokenizer.json`, a GGUF without weights. Raises TokenizerError or CheckpointError."""
    path = Path(spec)
    if not _exists(str(spec)) or not path.is_file() or _stands_for_directory(path):
        return open_checkpoint(spec).load_tokenizer()
    from pronk.checkpoints import gguf_file, gguf_reader, hf_reader
    from pronk.checkpoints.tokenizer_files import read_model_file

    head = _head(path)
    if head.startswith(gguf_file.MAGIC):
        return gguf_reader.read_tokenizer(path)
    if path.suffix == ".model":
        return read_model_file(path)
    if head.lstrip()[:1] == b"{":
        return hf_reader.read_tokenizer(path.parent, path)
    return open_path(path).load_tokenizer()


def _random(spec: str) -> Checkpoint:
    from pronk.checkpoints.random import random_checkpoint

    _, shape, *rest = spec.split(":")
    if len(rest) > 1 or not shape:
        raise CheckpointError(f"{spec!r} is no random model, expected random:SHAPE or random:SHAPE:TYPE")
    return random_checkpoint(shape, rest[0]) if rest else random_checkpoint(shape)


def _head(path: Path) -> bytes:
    if not path.is_file():  # reading from a pipe could wait for ever
        raise CheckpointError(f"{path} is no file and no directory, expected a model")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


def _open_file(path: Path) -> Checkpoint:
    from pronk.checkpoints import gguf_file, gguf_reader, hf_reader, llama2c_reader, torch_file

    head = _head(path)
    if head.startswith(gguf_file.MAGIC):
        return gguf_reader.open_gguf(path)
    if head.startswith(torch_file.ZIP_MAGIC) or torch_file.is_legacy(head):
        if _is_hf(path.parent):
            return hf_reader.open_hf(path.parent, path)
        from pronk.checkpoints import meta_reader

        return meta_reader.open_meta(path.parent, path)
    if _is_safetensors(head, path):
        return hf_reader.open_hf(path.parent, path)
    if _stands_for_directory(path):
        return _open_directory(path.parent)
    if llama2c_reader.looks_like(path):
        return llama2c_reader.open_llama2c(path)
    raise CheckpointError(
        f"{path} is no model: it begins with {head[:8]!r}, expected GGUF, safetensors, a PyTorch checkpoint or llama2.c"
    )


def _is_safetensors(head: bytes, path: Path) -> bool:
    from pronk.checkpoints.safetensors_reader import MAX_HEADER_BYTES

    size = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and (path.suffix == ".safetensors" or size <= MAX_HEADER_BYTES)


def _stands_for_directory(path: Path) -> bool:
    return path.name in ("config.json", "params.json") or path.name.endswith(".index.json")


def _is_hf(directory: Path) -> bool:
    return (directory / "config.json").exists() and not (directory / "params.json").exists()


def _open_directory(path: Path) -> Checkpoint:
    """Hugging Face's files say the most about a model, so they come first where a directory has several formats."""
    from pronk.checkpoints import gguf_reader, hf_reader

    if (path / "config.json").exists() and hf_reader.weight_files(path):
        return hf_reader.open_hf(path)
    if (path / "params.json").exists():
        from pronk.checkpoints import meta_reader

        return meta_reader.open_meta(path)
    models = sorted(p for p in path.iterdir() if p.is_file() and _head(p)[:4] == b"GGUF")
    first = [p for p in models if not (m := gguf_reader.PART.fullmatch(p.name)) or int(m[2]) == 1]
    if len(first) == 1 or (models and not first):
        return gguf_reader.open_gguf(first[0] if first else models[0])
    if first:
        raise CheckpointError(
            f"{path} holds {len(first)} GGUF models ({', '.join(p.name for p in first[:8])}); name one of them"
        )
    return _open_only_file(path)


def _open_only_file(path: Path) -> Checkpoint:
    from pronk.checkpoints import llama2c_reader

    models = sorted(p for p in path.glob("*.bin") if p.is_file() and llama2c_reader.looks_like(p))
    if len(models) == 1:
        return llama2c_reader.open_llama2c(models[0])
    if models:
        raise CheckpointError(
            f"{path} holds {len(models)} llama2.c models ({', '.join(p.name for p in models[:8])}); name one of them"
        )
    if (path / "config.json").exists():
        raise CheckpointError(f"{path} has a config.json and no weights, expected *.safetensors; download it again")
    if any(path.glob("consolidated*.pth")):
        raise CheckpointError(f"{path} has consolidated*.pth and no params.json; download it again")
    raise CheckpointError(
        f"{path} holds no model, expected config.json with *.safetensors, params.json with consolidated.NN.pth, "
        "a *.gguf or a llama2.c *.bin"
    )
