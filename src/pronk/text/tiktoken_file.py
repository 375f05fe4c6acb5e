"""Llama 3's `tokenizer.model`: a text file of base64 tokens and their ranks, one a line. The rank is the id.

The 256 special tokens after the ranks are in no file: their names are part of Meta's code, and differ between Llama 3
and 3.1 (meta-llama/llama3 `llama/tokenizer.py`, meta-llama/llama-models `models/llama3/tokenizer.py`).
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Literal

from pronk.errors import TokenizerError
from pronk.text.vocabulary import MAX_TOKENS, TokenKind, Vocabulary

Specials = Literal["llama3", "llama3.1"]
SPECIAL_COUNT = 256


def special_tokens(variant: Specials) -> tuple[str, ...]:
    """The 256 names, in id order from the first id after the ranks."""
    if variant == "llama3":
        named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    else:
        named = {
            0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 5: "step_id", 6: "start_header_id",
            7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
        }  # fmt: skip
    names: list[str] = []
    reserved = 0
    for i in range(SPECIAL_COUNT):
        if i in named:
            names.append(f"<|{named[i]}|>")
        else:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return tuple(names)


def read(source: str | Path | bytes, *, special: Specials = "llama3.1") -> Vocabulary:
    """The vocabulary of a tiktoken file. `special` says whose special tokens follow the ranks.

    Raises TokenizerError for a file that is missing, damaged, or something else.
    """
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    tokens = [*_parse(data), *(name.encode() for name in special_tokens(special))]
    first = len(tokens) - SPECIAL_COUNT
    eom = {first + 8} if special == "llama3.1" else set()
    return Vocabulary(
        model="bpe",
        tokens=tuple(tokens),
        kinds=(TokenKind.NORMAL,) * first + (TokenKind.CONTROL,) * SPECIAL_COUNT,
        pre="llama-bpe",
        bos_id=first,
        eos_id=first + 1,
        add_space_prefix=False,
        pad_id=first + 4 if special == "llama3.1" else None,
        stop_ids=frozenset({first + 1, first + 9} | eom),
        source=("tokenizer.model", data),
    )


def looks_like(data: bytes) -> bool:
    """Whether the first line is a base64 token and rank 0: Llama 2 and Llama 3 files have the same name."""
    word, _, rank = data[:200].partition(b"\n")[0].rstrip(b"\r").partition(b" ")
    return rank == b"0" and _decode(word) is not None


def write(vocabulary: Vocabulary) -> bytes:
    """The file again: byte for byte where the vocabulary came from one. Raises TokenizerError where none can say it."""
    if vocabulary.source and vocabulary.source[0] == "tokenizer.model" and vocabulary.model == "bpe":
        return vocabulary.source[1]
    if vocabulary.model != "bpe" or vocabulary.merges:
        raise TokenizerError(
            "a tiktoken file holds byte-level BPE whose ids are its ranks; this vocabulary is not that"
        )
    normal = [t for t, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind is TokenKind.NORMAL]
    if vocabulary.tokens[: len(normal)] != tuple(normal) or len(vocabulary.tokens) != len(normal) + SPECIAL_COUNT:
        raise TokenizerError(
            f"a Llama 3 tiktoken file is its ranks and then {SPECIAL_COUNT} special tokens; "
            f"this vocabulary has {len(normal)} ranks and {len(vocabulary.tokens) - len(normal)} others"
        )
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(normal))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from None


def _decode(word: bytes) -> bytes | None:
    try:
        return base64.b64decode(word, validate=True) or None
    except binascii.Error:
        return None


def _parse(data: bytes) -> list[bytes]:
    """Tokens in rank order. Ranks must run 0, 1, 2, ... for ids to be ranks, and each single byte must be a token."""
    lines = data.splitlines()
    if len(lines) > MAX_TOKENS:
        raise TokenizerError(f"a tiktoken file of {len(lines)} lines, expected at most {MAX_TOKENS}")
    tokens: list[bytes] = []
    for number, line in enumerate(lines, 1):
        word, _, rank = line.partition(b" ")
        token = _decode(word)
        if token is None or not rank.isdigit():
            raise TokenizerError(
                f"line {number} of the tiktoken file is {line[:40]!r}, expected base64 and a rank; it is damaged"
            )
        if rank != b"%d" % (number - 1):
            raise TokenizerError(
                f"line {number} of the tiktoken file has rank {rank[:20].decode()}, expected {number - 1}"
            )
        tokens.append(token)
    missing = {bytes([b]) for b in range(256)}.difference(tokens)
    if missing:
        raise TokenizerError(
            f"the tiktoken file has no token for the byte {min(missing)[0]:#04x} and {len(missing) - 1} others; "
            "it is truncated or not a Llama 3 tokenizer.model"
        )
    return tokens
