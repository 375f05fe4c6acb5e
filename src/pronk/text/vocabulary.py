"""A vocabulary as plain data: the one form that every tokenizer file becomes and is written from.

A Vocabulary that exists is consistent: lengths agree, no token is there twice, ids are in range, scores are numbers.
What reaches the C++ and Rust libraries underneath has passed these checks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from pronk.errors import TokenizerError

SPACE_PIECE = "▁".encode()  # sentencepiece's visible space
MAX_TOKENS = 1 << 22  # far above any Llama's; a file that claims more lies about its size
# Texts that end an answer, whatever else a file says: many name one eos only and forget the others.
_END_TEXTS = frozenset({b"<|eot_id|>", b"<|eom_id|>", b"<|im_end|>", b"<|end|>", b"<end_of_turn>", b"<|endoftext|>"})
_CONTROL_LOOK = re.compile(rb"<\|[^|<>\s]+\|>")
_BYTE_PIECE = re.compile(rb"<0x([0-9A-F]{2})>")


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
        `tokenizer.ggml.pre`); `merges` are id pairs in rank order, or empty when the id order is the rank order
        (tiktoken).
    model "spm": sentencepiece. `tokens` are UTF-8 pieces with U+2581 for a space, `scores` rank the merges. 256 tokens
        of kind BYTE, or none: with none, a character that is in no piece becomes the unknown token.

    Raises TokenizerError when its parts contradict each other.
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
    add_bos: bool = True  # text that starts a sequence starts with bos
    add_space_prefix: bool = True  # spm only
    remove_extra_whitespaces: bool = False  # spm only: runs of spaces become one, as some sentencepiece files ask
    charsmap: bytes = field(default=b"", repr=False)  # spm only: sentencepiece's compiled character normalization
    unigram: bool = False  # spm only: the best path by scores instead of merges
    # The file this came from, so that a copy can be exact: ("tokenizer.model", bytes) and the like.
    source: tuple[str, bytes] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.tokens)
        if not 0 < count <= MAX_TOKENS:
            raise TokenizerError(f"a vocabulary of {count} tokens, expected 1 to {MAX_TOKENS}; the file is damaged")
        if len(self.kinds) != count:
            raise TokenizerError(f"{len(self.kinds)} token types for {count} tokens; the vocabulary is damaged")
        if len(set(self.tokens)) != count:
            raise TokenizerError(
                f"token {_first_repeated(self.tokens)!r} is in the vocabulary twice; the file is damaged"
            )
        named = {"bos": self.bos_id, "eos": self.eos_id, "unknown": self.unknown_id, "pad": self.pad_id}
        for name, token_id in (*named.items(), *(("stop", i) for i in self.stop_ids)):
            if token_id is not None and not 0 <= token_id < count:
                raise TokenizerError(f"the {name} token is {token_id}, expected an id below {count}")
        if self.model == "spm":
            _check_pieces(self)


def byte_value(piece: bytes) -> int | None:
    """The byte that a BYTE token such as <0x0A> stands for; None for other pieces."""
    match = _BYTE_PIECE.fullmatch(piece)
    return int(match[1], 16) if match else None


def stop_set(tokens: Iterable[bytes], *named: int | None) -> frozenset[int]:
    """The ids that end an answer: those that a file names, and those whose text says so."""
    return frozenset(
        {i for i, token in enumerate(tokens) if token in _END_TEXTS}.union(i for i in named if i is not None)
    )


def looks_like_control(token: bytes) -> bool:
    """Whether a user must not be able to type this token, even where a file calls it normal or user-defined."""
    return token in _END_TEXTS or (token[:2] == b"<|" and _CONTROL_LOOK.fullmatch(token) is not None)


def _first_repeated(tokens: tuple[bytes, ...]) -> bytes:
    seen: set[bytes] = set()
    for token in tokens:
        if token in seen:
            return token
        seen.add(token)
    raise AssertionError("no token is there twice")


def _check_pieces(vocabulary: Vocabulary) -> None:
    """What sentencepiece takes for granted, and answers with a crash or a message of its own when it is not so."""
    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise TokenizerError(
            f"{len(vocabulary.scores)} scores for {len(vocabulary.tokens)} pieces; sentencepiece needs one each"
        )
    if not all(map(math.isfinite, vocabulary.scores)):
        bad = next(i for i, score in enumerate(vocabulary.scores) if not math.isfinite(score))
        raise TokenizerError(f"the score of piece {bad} is {vocabulary.scores[bad]}; the vocabulary is damaged")
    for token_id, piece in enumerate(vocabulary.tokens):
        try:
            whole = bool(piece.decode()) and b"\0" not in piece
        except UnicodeDecodeError:
            whole = False
        if not whole:
            raise TokenizerError(f"piece {token_id} is {piece!r}, expected UTF-8 text; the vocabulary is damaged")
    unknown = vocabulary.kinds.count(TokenKind.UNKNOWN)
    if unknown != 1:
        raise TokenizerError(f"{unknown} unknown tokens, a sentencepiece vocabulary has exactly one; it is damaged")
    pieces = [p for p, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind is TokenKind.BYTE]
    if pieces and len({byte_value(p) for p in pieces} - {None}) != 256:
        raise TokenizerError(f"{len(pieces)} byte tokens that are not <0x00> to <0xFF>; the vocabulary is damaged")
