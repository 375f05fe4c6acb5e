"""A tokenizer.json that is more than a vocabulary, run by the tokenizers library as it is.

Text goes in through the library. Ids come back through here, token by token, so that a stream of tokens and a whole
list of them give the same text; the library's decoders look at whole lists. Only decoders that can be read token by
token are taken.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pronk.errors import TokenizerError
from pronk.text import byte_alphabet
from pronk.text.json_tokens import Json, JsonTokens, merge_lines, steps
from pronk.text.tokenizers import checked, visible
from pronk.text.vocabulary import TokenKind, Vocabulary, byte_value

if TYPE_CHECKING:
    import tokenizers


class JsonTokenizer:
    """`Tokenizer` over a parsed tokenizer.json. Immutable. Raises TokenizerError where the library does not take it.

    `vocabulary` is what other formats can say of it, where they can say nearly all.
    """

    def __init__(self, root: Json, tokens: JsonTokens, vocabulary: Vocabulary | None = None):
        self._tokens = tokens
        self._vocabulary = vocabulary
        self._stop_ids = tokens.stop_ids
        self._root = _prepared(root, tokens)
        self._bytes, self._drops_space = _decoded(self._root, tokens)
        self._lock = threading.Lock()
        self._plain = _build(self._root, special=False)
        self._special: tokenizers.Tokenizer | None = None

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        return len(self._tokens.texts)

    @property
    def bos_id(self) -> int | None:
        return self._tokens.bos_id

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._stop_ids

    @cached_property
    def special_ids(self) -> Mapping[str, int]:
        pairs = enumerate(zip(self._tokens.texts, self._tokens.kinds, strict=True))
        return {text: i for i, (text, kind) in pairs if kind is TokenKind.CONTROL}

    def with_stop_ids(self, ids: Iterable[int]) -> JsonTokenizer:
        other = copy.copy(self)
        other._stop_ids = self._stop_ids.union(ids)
        for token_id in other._stop_ids:
            self.token_bytes(token_id)  # in range
        return other

    def encode(self, text: str, *, bos: bool, special: bool = False) -> list[int]:
        library = self._library(special)
        with _named_errors("encode this text"):
            ids = list(library.encode(checked(text), add_special_tokens=False).ids)
        first = self.bos_id if bos and self._tokens.add_bos else None
        return ids if first is None or ids[:1] == [first] else [first, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        data = b"".join(map(self.token_bytes, ids))
        if self._drops_space:
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._bytes):
            raise TokenizerError(f"token id {token_id} is outside the vocabulary of {len(self._bytes)} tokens")
        return self._bytes[token_id]

    def token_text(self, token_id: int) -> str:
        data = self.token_bytes(token_id)
        return visible(data) if data else self._tokens.texts[token_id]

    def _library(self, special: bool) -> tokenizers.Tokenizer:
        if not special:
            return self._plain
        with self._lock:
            if self._special is None:
                self._special = _build(self._root, special=True)
            return self._special


def _prepared(root: Json, tokens: JsonTokens) -> Json:
    """The pipeline without truncation and padding, which would change texts in silence, and safe from typed tokens."""
    control = tokens.control_texts
    model = dict(root["model"])
    if model.get("continuing_subword_prefix"):  # with which the library breaks on merges shorter than it
        raise TokenizerError("tokenizer.json marks continued words (continuing_subword_prefix), which no Llama's does")
    if model.get("merges"):
        model["merges"] = [line for line in merge_lines(model) if line.replace(" ", "", 1) not in control]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    given = {entry["id"]: entry for entry in root.get("added_tokens") or []}
    added = [
        {**flags, "content": tokens.texts[i], **given.get(i, {}), "id": i, "special": tokens.texts[i] in control}
        for i in sorted(tokens.added)
    ]
    return {**root, "model": model, "added_tokens": added, "truncation": None, "padding": None}


def _build(root: Json, *, special: bool) -> tokenizers.Tokenizer:
    import tokenizers

    with _named_errors("take tokenizer.json"):
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(root))
    tokenizer.encode_special_tokens = not special
    return tokenizer


@contextmanager
def _named_errors(task: str) -> Iterator[None]:
    """The library raises plain Exception for what it refuses, and PanicException, a BaseException, where it broke."""
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"the tokenizers library does not {task}: {reason}") from None


def _decoded(root: Json, tokens: JsonTokens) -> tuple[tuple[bytes, ...], bool]:
    """What each token adds to the text, and whether a space in front of it all is taken back."""
    decoders = steps(root.get("decoder"), "decoders")
    names = [step.get("type") for step in decoders]
    unknown = set(names) - {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if unknown or not names:
        raise TokenizerError(
            f"tokenizer.json decodes with {', '.join(map(str, unknown)) or 'nothing'}, expected ByteLevel, Metaspace, "
            "or Replace with ByteFallback, Fuse and Strip"
        )
    replacements = [_replacement(step) for step in decoders if step["type"] in ("Replace", "Metaspace")]

    def added_bytes(token_id: int, text: str, kind: TokenKind) -> bytes:
        if kind in (TokenKind.CONTROL, TokenKind.UNUSED):
            return b""
        if token_id in tokens.added:
            return text.encode(errors="replace")
        byte = byte_value(text.encode(errors="replace")) if "ByteFallback" in names else None
        if byte is not None:
            return bytes([byte])
        if "ByteLevel" in names:
            return byte_alphabet.to_bytes(text) or text.encode(errors="replace")
        for old, new in replacements:
            text = text.replace(old, new)
        return text.encode(errors="replace")

    pairs = enumerate(zip(tokens.texts, tokens.kinds, strict=True))
    shown = tuple(added_bytes(i, text, kind) for i, (text, kind) in pairs)
    return shown, any(map(_strips_space, decoders))


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return str(step.get("replacement", "▁")), " "
    pattern, content = step.get("pattern"), step.get("content")
    old = pattern.get("String") if isinstance(pattern, Mapping) else None
    if not isinstance(old, str) or not old or not isinstance(content, str):
        raise TokenizerError("tokenizer.json replaces by a regular expression when decoding, which is not supported")
    return old, content


def _strips_space(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    if step["type"] != "Strip":
        return False
    if (step.get("content"), step.get("start"), step.get("stop")) not in ((" ", 1, 0), (" ", 0, 0)):
        raise TokenizerError("tokenizer.json strips more than one leading space when decoding, which is not supported")
    return step.get("start") == 1
