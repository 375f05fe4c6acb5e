"""llama2.c's `tokenizer.bin`: a Llama 2 sentencepiece vocabulary laid flat (karpathy/llama2.c `tokenizer.py` export).

Little-endian: i32 longest piece in bytes, then for each piece f32 score, i32 length, bytes. Pieces have plain spaces,
and <s> and </s> have newlines around them. Kinds are not written: 0 to 2 are <unk>, <s> and </s>, and pieces <0x00> to
<0xFF> are bytes.
"""

from __future__ import annotations

import struct

from pronk.errors import TokenizerError
from pronk.text.vocabulary import MAX_TOKENS, SPACE_PIECE, TokenKind, Vocabulary, byte_value

_SPECIAL = ((b"<unk>", TokenKind.UNKNOWN), (b"<s>", TokenKind.CONTROL), (b"</s>", TokenKind.CONTROL))


def read(data: bytes, vocab_size: int | None = None) -> Vocabulary:
    """The vocabulary of a tokenizer.bin, which does not say how many pieces it has: `vocab_size` is the model's.

    None takes all that are there. Raises TokenizerError for a damaged file, or one that is for another model.
    """
    if len(data) < 4:
        raise TokenizerError(f"tokenizer.bin has {len(data)} bytes; it is truncated")
    pieces = _pieces(data)
    if vocab_size is not None and len(pieces) != vocab_size:
        raise TokenizerError(
            f"tokenizer.bin has {len(pieces)} pieces, expected the model's {vocab_size}; it belongs to another model"
        )
    found = tuple(text.strip(b"\n") for text, _ in pieces[:3])
    if found != tuple(text for text, _ in _SPECIAL):
        raise TokenizerError(f"tokenizer.bin starts with {found!r}, expected <unk>, <s> and </s>; it is damaged")
    texts = [*found, *(text.replace(b" ", SPACE_PIECE) for text, _ in pieces[3:])]
    has_bytes = len({byte_value(text) for text in texts} - {None}) == 256
    rest = (TokenKind.BYTE if has_bytes and byte_value(text) is not None else TokenKind.NORMAL for text in texts[3:])
    return Vocabulary(
        model="spm",
        tokens=tuple(texts),
        kinds=(*(kind for _, kind in _SPECIAL), *rest),
        scores=tuple(score for _, score in pieces),
        bos_id=1,
        eos_id=2,
        unknown_id=0,
        stop_ids=frozenset({1, 2}),
        source=("tokenizer.bin", data),
    )


def write(vocabulary: Vocabulary) -> bytes:
    """The file again: byte for byte where the vocabulary came from one. Raises TokenizerError where none can say it."""
    if vocabulary.source and vocabulary.source[0] == "tokenizer.bin":
        return vocabulary.source[1]
    if vocabulary.model != "spm" or vocabulary.tokens[:3] != tuple(text for text, _ in _SPECIAL):
        raise TokenizerError("tokenizer.bin holds sentencepiece vocabularies that start with <unk>, <s> and </s> only")
    texts = [token.replace(SPACE_PIECE, b" ") for token in vocabulary.tokens]
    texts[1:3] = [b"\n<s>\n", b"\n</s>\n"]
    records = (
        struct.pack("<fi", score, len(text)) + text for text, score in zip(texts, vocabulary.scores, strict=True)
    )
    return struct.pack("<i", max(map(len, texts))) + b"".join(records)


def _pieces(data: bytes) -> list[tuple[bytes, float]]:
    pieces: list[tuple[bytes, float]] = []
    at = 4
    while at < len(data) and len(pieces) <= MAX_TOKENS:
        if len(data) - at < 8:
            raise TokenizerError(f"tokenizer.bin ends inside piece {len(pieces)}; it is truncated")
        score, size = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 < size <= len(data) - at:
            raise TokenizerError(
                f"piece {len(pieces)} of tokenizer.bin has {size} bytes where {len(data) - at} are left; it is damaged"
            )
        pieces.append((data[at : at + size], score))
        at += size
    return pieces
