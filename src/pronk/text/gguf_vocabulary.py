"""The vocabulary inside a GGUF file: the `tokenizer.ggml.*` keys (GGUF specification, ggml-org/ggml `docs/gguf.md`).

Model "llama" is sentencepiece BPE, "t5" sentencepiece unigram, "gpt2" byte-level BPE. What a key's absence means is
what llama.cpp takes it to mean (`llama-vocab.cpp`), except for the pre-tokenizer, which is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pronk.errors import TokenizerError
from pronk.text import byte_alphabet
from pronk.text.pre_tokenizers import pre_tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary, looks_like_control, stop_set

_PREFIX = "tokenizer.ggml."
_ROLES = {"bos_id": "bos", "eos_id": "eos", "unknown_id": "unknown", "pad_id": "padding"}


def read(metadata: Mapping[str, object]) -> Vocabulary:
    """The vocabulary of a GGUF file's metadata. Strings may be str or bytes, arrays any sequence or NumPy array.

    Raises TokenizerError for a missing, unknown or contradictory value.
    """
    model = _text(metadata.get(_PREFIX + "model"))
    if model == "gpt2":
        return _read_bpe(metadata)
    if model in ("llama", "t5"):
        return _read_spm(metadata, unigram=model == "t5")
    found = f"tokenizer.ggml.model {model!r}" if model else "no tokenizer.ggml.model"
    raise TokenizerError(f"the GGUF file has {found}, expected llama, gpt2 or t5")


def write(vocabulary: Vocabulary) -> dict[str, object]:
    """The metadata keys and values of a vocabulary; arrays are lists."""
    metadata: dict[str, object] = {
        "model": "gpt2" if vocabulary.model == "bpe" else "t5" if vocabulary.unigram else "llama",
        "pre": vocabulary.pre or "default",
        "tokens": _written_tokens(vocabulary),
        "token_type": [int(kind) for kind in vocabulary.kinds],
    }
    if vocabulary.model == "spm":
        metadata["scores"] = list(vocabulary.scores)
        metadata["add_space_prefix"] = vocabulary.add_space_prefix
        metadata["remove_extra_whitespaces"] = vocabulary.remove_extra_whitespaces
        if vocabulary.charsmap:
            metadata["precompiled_charsmap"] = list(vocabulary.charsmap)
    else:
        metadata["merges"] = _written_merges(vocabulary)
    for field, key in _ROLES.items():
        if getattr(vocabulary, field) is not None:
            metadata[f"{key}_token_id"] = getattr(vocabulary, field)
    for key, text in (("eot", b"<|eot_id|>"), ("eom", b"<|eom_id|>")):
        if text in vocabulary.tokens and vocabulary.tokens.index(text) in vocabulary.stop_ids:
            metadata[f"{key}_token_id"] = vocabulary.tokens.index(text)
    metadata["add_bos_token"] = vocabulary.add_bos
    metadata["add_eos_token"] = False
    return {_PREFIX + key: value for key, value in metadata.items()}


def _read_bpe(metadata: Mapping[str, object]) -> Vocabulary:
    pre = _text(metadata.get(_PREFIX + "pre"))
    defaults = pre_tokenizer(pre)
    texts = _texts(metadata, "tokens")
    kinds = _kinds(metadata, [text.encode(errors="replace") for text in texts])
    tokens = tuple(_bpe_token(i, text, kind) for i, (text, kind) in enumerate(zip(texts, kinds, strict=True)))
    return Vocabulary(
        model="bpe",
        tokens=tokens,
        kinds=kinds,
        pre=pre,
        merges=byte_alphabet.merge_ids(_texts(metadata, "merges"), texts, tokens, kinds),
        add_bos=_flag(metadata, "add_bos_token", defaults.add_bos),
        add_space_prefix=False,
        **_special(metadata, tokens),
    )


def _read_spm(metadata: Mapping[str, object], *, unigram: bool) -> Vocabulary:
    texts = [text.encode(errors="surrogateescape") for text in _texts(metadata, "tokens")]
    kinds = _kinds(metadata, texts)
    # GGUF has user-defined pieces as people type them, sentencepiece with visible spaces
    tokens = tuple(
        text.replace(b" ", "▁".encode()) if kind is TokenKind.USER_DEFINED else text
        for text, kind in zip(texts, kinds, strict=True)
    )
    return Vocabulary(
        model="spm",
        tokens=tokens,
        kinds=kinds,
        scores=tuple(float(score) for score in _array(metadata, "scores")),
        add_bos=_flag(metadata, "add_bos_token", not unigram),
        add_space_prefix=_flag(metadata, "add_space_prefix", True),
        remove_extra_whitespaces=_flag(metadata, "remove_extra_whitespaces", False),
        charsmap=_charsmap(metadata),
        unigram=unigram,
        **_special(metadata, tokens),
    )


def _special(metadata: Mapping[str, object], tokens: tuple[bytes, ...]) -> dict[str, Any]:
    """The ids with a role, and the whole stop set."""
    named = {field: _id(metadata, key) for field, key in _ROLES.items()}
    stop_ids = stop_set(tokens, named["eos_id"], _id(metadata, "eot"), _id(metadata, "eom"))
    return {**named, "stop_ids": stop_ids}


def _kinds(metadata: Mapping[str, object], tokens: list[bytes]) -> tuple[TokenKind, ...]:
    given = _array(metadata, "token_type") if _PREFIX + "token_type" in metadata else [1] * len(tokens)
    if len(given) != len(tokens):
        raise TokenizerError(f"tokenizer.ggml.token_type has {len(given)} values for {len(tokens)} tokens")
    names = {0: TokenKind.UNUSED, **{int(kind): kind for kind in TokenKind}}
    try:
        kinds = [names[kind] for kind in given]
    except (KeyError, TypeError):
        bad = next(kind for kind in given if kind not in list(names))
        raise TokenizerError(f"tokenizer.ggml.token_type has the value {bad!r}, expected 0 to 6") from None
    unknown_id = _id(metadata, "unknown")
    named = {_id(metadata, role) for role in ("bos", "eos", "eot", "eom")}
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if looks_like_control(token) or (i in named and token[:1] + token[-1:] == b"<>"):
            kinds[i] = TokenKind.CONTROL
        elif kind is TokenKind.UNKNOWN and unknown_id is not None and i != unknown_id:
            kinds[i] = TokenKind.UNUSED  # converters once marked unused tokens so; only one can be the unknown one
    if unknown_id is not None and unknown_id < len(kinds) and TokenKind.UNKNOWN not in kinds:
        kinds[unknown_id] = TokenKind.UNKNOWN
    return tuple(kinds)


def _bpe_token(token_id: int, text: str, kind: TokenKind) -> bytes:
    if kind is not TokenKind.NORMAL:
        return text.encode(errors="replace")
    token = byte_alphabet.to_bytes(text)
    if not token:
        raise TokenizerError(
            f"token {token_id} is {text!r}, expected GPT-2's byte characters; the vocabulary is damaged"
        )
    return token


def _written_tokens(vocabulary: Vocabulary) -> list[str]:
    tokens = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    if vocabulary.model == "bpe":
        return [
            byte_alphabet.to_text(t) if kind is TokenKind.NORMAL else t.decode(errors="replace") for t, kind in tokens
        ]
    return [t.decode().replace("▁", " ") if kind is TokenKind.USER_DEFINED else t.decode() for t, kind in tokens]


def _written_merges(vocabulary: Vocabulary) -> list[str]:
    normal = [i for i, kind in enumerate(vocabulary.kinds) if kind is TokenKind.NORMAL]
    texts = {i: byte_alphabet.to_text(vocabulary.tokens[i]) for i in normal}
    merges = vocabulary.merges or byte_alphabet.implied_merges(vocabulary.tokens, normal)
    return [f"{texts[left]} {texts[right]}" for left, right in merges]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _array(metadata: Mapping[str, object], key: str) -> list[Any]:
    value: Any = metadata.get(_PREFIX + key)
    if hasattr(value, "tolist"):  # a NumPy array: Python numbers are much faster to walk
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TokenizerError(
            f"tokenizer.ggml.{key} is {_shown(value)}, expected an array; the vocabulary is incomplete"
        )
    return list(value)


def _texts(metadata: Mapping[str, object], key: str) -> list[str]:
    values = _array(metadata, key)
    if all(isinstance(value, str) for value in values):
        return values
    if all(isinstance(value, bytes) for value in values):
        return [value.decode(errors="surrogateescape") for value in values]
    raise TokenizerError(f"tokenizer.ggml.{key} is not an array of strings; the vocabulary is damaged")


def _charsmap(metadata: Mapping[str, object]) -> bytes:
    value = metadata.get(_PREFIX + "precompiled_charsmap", b"")
    if isinstance(value, bytes):
        return value
    try:
        return bytes(number & 0xFF for number in _array(metadata, "precompiled_charsmap"))  # written as i8 or u8
    except TypeError:
        raise TokenizerError("tokenizer.ggml.precompiled_charsmap is not an array of bytes") from None


def _id(metadata: Mapping[str, object], key: str) -> int | None:
    value: Any = metadata.get(f"{_PREFIX}{key}_token_id")
    if value is None:
        return None
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__index__"):
        raise TokenizerError(f"tokenizer.ggml.{key}_token_id is {_shown(value)}, expected a number")
    return int(value)


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(_PREFIX + key)
    if value is None:
        return default
    if value not in (True, False):
        raise TokenizerError(f"tokenizer.ggml.{key} is {_shown(value)}, expected true or false")
    return bool(value)


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]
