"""sentencepiece's `tokenizer.model` (Llama 2, Chinese-LLaMA): a protocol buffer, read and written here by hand.

The C++ library trusts its files: a lie in one can end the process. So a file is parsed here and becomes a Vocabulary,
which checks it, and the library is only ever given a proto that `serialize` made from one. Two dozen fields do not need
the protobuf package. Source: google/sentencepiece `src/sentencepiece_model.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from pronk.errors import TokenizerError
from pronk.text.vocabulary import MAX_TOKENS, TokenKind, Vocabulary, looks_like_control, stop_set

Value = int | bytes

# Field numbers. ModelProto:
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
# SentencePiece:
_PIECE, _SCORE, _TYPE = 1, 2, 3
# TrainerSpec:
_MODEL_TYPE, _VOCAB_SIZE, _SUFFIX_SPACE, _BYTE_FALLBACK = 3, 4, 24, 35
_UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID = 40, 41, 42, 43
_UNK_PIECE, _BOS_PIECE, _EOS_PIECE, _PAD_PIECE = 45, 46, 47, 48
# NormalizerSpec:
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read(source: str | Path | bytes) -> Vocabulary:
    """The vocabulary of a sentencepiece model, BPE or unigram. Raises TokenizerError for a damaged or foreign file."""
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    pieces: list[tuple[bytes, float, TokenKind]] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(data):
        if number == _PIECES and isinstance(value, bytes):
            pieces.append(_piece(value, len(pieces)))
        elif number == _TRAINER and isinstance(value, bytes):
            trainer.update(_fields(value))
        elif number == _NORMALIZER and isinstance(value, bytes):
            normalizer.update(_fields(value))
        elif number == _DENORMALIZER and isinstance(value, bytes) and dict(_fields(value)).get(_CHARSMAP):
            raise TokenizerError(
                "the sentencepiece model changes text when decoding (denormalizer_spec), no Llama's does"
            )
        if len(pieces) > MAX_TOKENS:
            raise TokenizerError(f"the sentencepiece model has over {MAX_TOKENS} pieces; it is damaged")
    return _vocabulary(pieces, trainer, normalizer, data)


def write(vocabulary: Vocabulary) -> bytes:
    """The file again: byte for byte where the vocabulary came from one."""
    if vocabulary.model != "spm":
        raise TokenizerError(
            "this vocabulary is byte-level BPE, which a sentencepiece file cannot hold; write tokenizer.json instead"
        )
    if vocabulary.source and vocabulary.source[0] == "tokenizer.model":
        return vocabulary.source[1]
    return serialize(vocabulary)


def serialize(vocabulary: Vocabulary) -> bytes:
    """A ModelProto that says what the vocabulary says and nothing else."""
    out = bytearray()
    for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.kinds, strict=True):
        piece = _field(_PIECE, token) + _key(_SCORE, _FIXED32) + struct.pack("<f", score) + _field(_TYPE, kind)
        out += _field(_PIECES, piece)
    trainer = (
        _field(_MODEL_TYPE, _UNIGRAM if vocabulary.unigram else _BPE)
        + _field(_VOCAB_SIZE, len(vocabulary.tokens))
        + _field(_BYTE_FALLBACK, int(TokenKind.BYTE in vocabulary.kinds))
    )
    roles = (
        (_UNK_ID, _UNK_PIECE, vocabulary.kinds.index(TokenKind.UNKNOWN)),
        (_BOS_ID, _BOS_PIECE, vocabulary.bos_id),
        (_EOS_ID, _EOS_PIECE, vocabulary.eos_id),
        (_PAD_ID, _PAD_PIECE, vocabulary.pad_id),
    )
    for id_field, piece_field, token_id in roles:
        trainer += _field(id_field, -1 if token_id is None else token_id)
        if token_id is not None:
            trainer += _field(piece_field, vocabulary.tokens[token_id])
    normalizer = (
        _field(_CHARSMAP, vocabulary.charsmap)
        + _field(_DUMMY_PREFIX, int(vocabulary.add_space_prefix))
        + _field(_REMOVE_EXTRA_SPACES, int(vocabulary.remove_extra_whitespaces))
        + _field(_ESCAPE_SPACES, 1)
    )
    return bytes(out) + _field(_TRAINER, trainer) + _field(_NORMALIZER, normalizer)


def _vocabulary(
    pieces: list[tuple[bytes, float, TokenKind]], trainer: dict[int, Value], normalizer: dict[int, Value], data: bytes
) -> Vocabulary:
    model_type = trainer.get(_MODEL_TYPE, _UNIGRAM)
    if model_type not in (_UNIGRAM, _BPE):
        raise TokenizerError(f"the sentencepiece model is of type {model_type!r}, expected BPE (2) or unigram (1)")
    if trainer.get(_SUFFIX_SPACE) or not normalizer.get(_ESCAPE_SPACES, 1):
        raise TokenizerError("the sentencepiece model keeps spaces in a way that no Llama's does (suffix or unescaped)")
    tokens = tuple(token for token, _, _ in pieces)
    kinds = tuple(TokenKind.CONTROL if looks_like_control(token) else kind for token, _, kind in pieces)
    index = {token: i for i, token in enumerate(tokens)}

    def role(piece_field: int, default: bytes) -> int | None:
        piece = trainer.get(piece_field) or default
        token_id = index.get(piece) if isinstance(piece, bytes) else None
        return token_id if token_id is not None and kinds[token_id] is TokenKind.CONTROL else None

    charsmap = normalizer.get(_CHARSMAP, b"")
    bos_id, eos_id = role(_BOS_PIECE, b"<s>"), role(_EOS_PIECE, b"</s>")
    return Vocabulary(
        model="spm",
        tokens=tokens,
        kinds=kinds,
        scores=tuple(score for _, score, _ in pieces),
        bos_id=bos_id,
        eos_id=eos_id,
        unknown_id=kinds.index(TokenKind.UNKNOWN) if TokenKind.UNKNOWN in kinds else None,
        pad_id=role(_PAD_PIECE, b"<pad>"),
        stop_ids=stop_set(tokens, eos_id),
        add_bos=bos_id is not None,
        add_space_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(normalizer.get(_REMOVE_EXTRA_SPACES, 1)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        unigram=model_type == _UNIGRAM,
        source=("tokenizer.model", data),
    )


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from None


def _piece(data: bytes, token_id: int) -> tuple[bytes, float, TokenKind]:
    fields = dict(_fields(data))
    token, score, kind = fields.get(_PIECE, b""), fields.get(_SCORE, b"\0\0\0\0"), fields.get(_TYPE, 1)
    if not isinstance(token, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise TokenizerError(f"piece {token_id} of the sentencepiece model is damaged")
    if kind not in TokenKind.__members__.values():
        raise TokenizerError(f"piece {token_id} of the sentencepiece model has type {kind!r}, expected 1 to 6")
    return token, struct.unpack("<f", score)[0], TokenKind(kind)  # type: ignore[arg-type]


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Field numbers and values of one message, in order; fixed-width values as their bytes."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _read_varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise TokenizerError(f"not a sentencepiece model, or damaged: wire type {wire} at byte {at}")
        if number == 0 or size > len(data) - at:
            raise TokenizerError(
                f"not a sentencepiece model, or truncated: {size} bytes of field {number} at byte {at} of {len(data)}"
            )
        yield number, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise TokenizerError("the sentencepiece model is truncated: it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise TokenizerError(f"not a sentencepiece model, or damaged: a number of over ten bytes at byte {at}")


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # -1, "no such token", is ten bytes
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, bytes):
        return _key(number, _BYTES) + _varint(len(value)) + value
    return _key(number, _VARINT) + _varint(value)
