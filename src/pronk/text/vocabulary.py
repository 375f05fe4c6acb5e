"""A vocabulary as plain data: the one form that every tokenizer file becomes, and that every tokenizer file is written from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal


class TokenKind(IntEnum):
    """GGUF's `tokenizer.ggml.token_type` numbers, which are sentencepiece's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order and how text is cut into them.

    model "bpe": byte-level BPE. `tokens` are raw bytes; `pre` names the pattern that splits text first (GGUF's
        `tokenizer.ggml.pre`); `merges` are id pairs in rank order, or empty when the id order is the rank order (tiktoken).
    model "spm": sentencepiece BPE. `tokens` are UTF-8 pieces with U+2581 for a space, `scores` rank the merges.
    """

    model: Literal["bpe", "spm"]
    tokens: tuple[bytes, ...]
    kinds: tuple[TokenKind, ...]
    pre: str = ""
    scores: tuple[float, ...] = ()
    merges: tuple[tuple[int, int], ...] = ()
    bos_id: int | None = None
    eos_id: int | None = None
    unknown_id: int | None = None
    pad_id: int | None = None
    stop_ids: frozenset[int] = frozenset()
    add_bos: bool = True
    add_space_prefix: bool = True  # spm only
    # The file this came from, so that a copy can be exact: ("tokenizer.model", bytes) and the like.
    source: tuple[str, bytes] | None = field(default=None, repr=False, compare=False)
