"""A checkpoint's tokenizer: found among its files, built once, and held against the model's vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pronk.config import ModelConfig
from pronk.errors import TokenizerError
from pronk.text.tokenizer import Tokenizer

MAX_BYTES = 256 << 20  # far above any tokenizer file
T = TypeVar("T")


def once(make: Callable[[], T]) -> Callable[[], T]:
    """`make`, called at the first call only, also when several threads ask at the same time.

    After that it is let go of, and with it the metadata that it was made from.
    """
    lock, todo, made = threading.Lock(), [make], list[T]()

    def get() -> T:
        with lock:
            if todo:
                made.append(todo[0]())
                todo.clear()
            return made[0]

    return get


def fitting(tokenizer: Tokenizer, config: ModelConfig, where: str) -> Tokenizer:
    """The tokenizer itself. Raises TokenizerError where it has ids that the embedding has no rows for.

    More rows than tokens is common: rows are padded to a round number.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise TokenizerError(
            f"the tokenizer of {where} has {tokenizer.vocab_size} tokens, and the model's embedding "
            f"{config.vocab_size} rows; the two do not belong together"
        )
    return tokenizer


def read_bytes(path: Path) -> bytes:
    """A tokenizer file, whole. Raises TokenizerError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise TokenizerError(f"{path} has {size} bytes, expected a tokenizer of at most {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from None


def read_model_file(path: Path, *, llama3_1: bool = True) -> Tokenizer:
    """`tokenizer.model`: sentencepiece or tiktoken, by its content.

    A tiktoken file says nothing of its special tokens: those of Llama 3.1 follow its ranks, or of 3.0.
    """
    from pronk.text import sentencepiece_file, tiktoken_file
    from pronk.text.tokenizers import build_tokenizer

    data = read_bytes(path)
    if tiktoken_file.looks_like(data):
        return build_tokenizer(tiktoken_file.read(data, special="llama3.1" if llama3_1 else "llama3"))
    return build_tokenizer(sentencepiece_file.read(data))
