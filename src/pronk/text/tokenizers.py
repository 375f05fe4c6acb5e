"""Vocabulary -> Tokenizer.

One class for both kinds: what differs between tiktoken and sentencepiece is a function from plain text to ids. Special
tokens never reach those libraries: text is parted around them here, and only when the caller asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from pronk.errors import TokenizerError
from pronk.text.tokenizer import Tokenizer
from pronk.text.vocabulary import SPACE_PIECE, TokenKind, Vocabulary, byte_value

UNKNOWN_TEXT = " ⁇ ".encode()  # what sentencepiece writes for a character that was lost
_LONE_BYTE = re.compile("[\udc80-\udcff]")


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer of a vocabulary, ready to use. Raises TokenizerError for one that the libraries cannot run."""
    if vocabulary.model == "spm":
        from pronk.text import spm_engine

        return VocabularyTokenizer(vocabulary, spm_engine.engine(vocabulary))
    from pronk.text import bpe_engine

    return VocabularyTokenizer(vocabulary, bpe_engine.engine(vocabulary))


def checked(text: str) -> str:
    """The text itself. Raises TokenizerError for one that is no Unicode: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has half of a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}; "
            "decode it from UTF-16 or with errors='replace' first"
        ) from None
    return text


def visible(data: bytes) -> str:
    """Bytes as text, with those that are no UTF-8 as <0xE4>."""
    return _LONE_BYTE.sub(lambda m: f"<0x{ord(m[0]) - 0xDC00:02X}>", data.decode(errors="surrogateescape"))


class Cutter:
    """Cuts given tokens out of a text, longest first."""

    def __init__(self, tokens: Mapping[str, int]):
        self.tokens = tokens
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def split(self, text: str) -> Iterator[str | int]:
        """The pieces of text between the tokens, none of them empty, and the tokens as ids."""
        end = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() > end:
                yield text[end : match.start()]
            yield self.tokens[match[0]]
            end = match.end()
        if end < len(text):
            yield text[end:]


def _by_text(vocabulary: Vocabulary, *kinds: TokenKind) -> dict[str, int]:
    pairs = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    return {token.decode(errors="replace"): i for i, (token, kind) in enumerate(pairs) if kind in kinds}


class VocabularyTokenizer:
    """`Tokenizer` over a Vocabulary and a function that encodes plain text. Immutable."""

    def __init__(self, vocabulary: Vocabulary, encode_text: Callable[[str], list[int]]):
        self._vocabulary = vocabulary
        self._encode_text = encode_text
        self._special = _by_text(vocabulary, TokenKind.CONTROL, TokenKind.UNKNOWN)

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary.tokens)

    @property
    def bos_id(self) -> int | None:
        return self._vocabulary.bos_id

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._vocabulary.stop_ids

    @property
    def special_ids(self) -> Mapping[str, int]:
        return self._special

    def with_stop_ids(self, ids: Iterable[int]) -> VocabularyTokenizer:
        stop_ids = self.stop_ids.union(ids)
        return VocabularyTokenizer(replace(self._vocabulary, stop_ids=stop_ids), self._encode_text)

    def encode(self, text: str, *, bos: bool, special: bool = False) -> list[int]:
        ids: list[int] = []
        for part in (self._cut_special if special else self._cut_always).split(checked(text)):
            ids += [part] if isinstance(part, int) else self._encode_text(part)
        first = self.bos_id if bos and self._vocabulary.add_bos else None
        return ids if first is None or ids[:1] == [first] else [first, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        known = list(ids)
        parts = [self.token_bytes(i) for i in known]
        if self._drops_space:
            self._drop_space(known, parts)
        return b"".join(parts).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._bytes):
            raise TokenizerError(f"token id {token_id} is outside the vocabulary of {len(self._bytes)} tokens")
        return self._bytes[token_id]

    def token_text(self, token_id: int) -> str:
        data = self.token_bytes(token_id)
        if self._vocabulary.kinds[token_id] in (TokenKind.NORMAL, TokenKind.USER_DEFINED):
            return visible(data)
        return visible(self._vocabulary.tokens[token_id])

    @cached_property
    def _bytes(self) -> tuple[bytes, ...]:
        """What each token adds to the text."""
        vocabulary = self._vocabulary
        spm = vocabulary.model == "spm"
        shown: list[bytes] = []
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True):
            if kind in (TokenKind.NORMAL, TokenKind.USER_DEFINED):
                shown.append(token.replace(SPACE_PIECE, b" ") if spm else token)
            elif kind is TokenKind.BYTE:
                shown.append(bytes([byte_value(token) or 0]))
            else:
                shown.append(UNKNOWN_TEXT if kind is TokenKind.UNKNOWN and spm else b"")
        return tuple(shown)

    @cached_property
    def _cut_always(self) -> Cutter:
        """Byte-level BPE's user-defined tokens are found in any text. sentencepiece sees to its own."""
        return Cutter({} if self._vocabulary.model == "spm" else _by_text(self._vocabulary, TokenKind.USER_DEFINED))

    @cached_property
    def _cut_special(self) -> Cutter:
        return Cutter({**self._cut_always.tokens, **self._special})

    @property
    def _drops_space(self) -> bool:
        vocabulary = self._vocabulary
        return vocabulary.model == "spm" and (vocabulary.add_space_prefix or vocabulary.remove_extra_whitespaces)

    def _drop_space(self, ids: list[int], parts: list[bytes]) -> None:
        """Take back the space that encoding put in front, as sentencepiece does; spaces, if it removes extra ones."""
        for position, (token_id, part) in enumerate(zip(ids, parts, strict=True)):
            if not part:
                continue
            if not self._vocabulary.tokens[token_id].startswith(SPACE_PIECE):
                return
            parts[position] = part[1:]
            if parts[position] or not self._vocabulary.remove_extra_whitespaces:
                return
