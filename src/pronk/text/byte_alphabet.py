"""Bytes as printable characters, the way GPT-2 writes them: tokenizer.json and GGUF keep byte-level BPE tokens so.

Source: openai/gpt-2, encoder.py `bytes_to_unicode`. Printable latin-1 bytes stand for themselves; the other 68 take
the code points from U+0100 on, in order. A space is "Ġ", a newline "Ċ".
"""

from __future__ import annotations

from collections.abc import Sequence

from pronk.errors import TokenizerError
from pronk.text.vocabulary import TokenKind

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = sorted(set(range(256)) - set(_PRINTABLE))

CHARACTERS: dict[int, str] = {
    **{byte: chr(byte) for byte in _PRINTABLE},
    **{byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)},
}
# As a translation to latin-1: what is no character of the alphabet goes where latin-1 has none.
_TO_LATIN1 = {**dict.fromkeys(_OTHERS, 0xFFFF), **{0x100 + i: byte for i, byte in enumerate(_OTHERS)}}


def to_bytes(text: str) -> bytes | None:
    """The bytes that `text` spells; None when a character is not of the alphabet."""
    try:
        return text.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return None


def to_text(token: bytes) -> str:
    return token.decode("latin-1").translate(CHARACTERS)


def implied_merges(tokens: Sequence[bytes], ids: Sequence[int]) -> list[tuple[int, int]]:
    """Every merge that a vocabulary allows when its ids are its ranks, as pairs of ids in rank order.

    tiktoken keeps no merges: it joins any two neighbours whose union is a token, lowest id first. Files that need a
    list get all of them, ordered by the id of the union and then by the pair, as converted Llama 3 files have it.
    """
    rank = {tokens[i]: i for i in ids}
    merges: list[tuple[int, int]] = []
    for token in rank:
        cuts = []
        for cut in range(1, len(token)):
            left = rank.get(token[:cut])
            if left is not None:
                right = rank.get(token[cut:])
                if right is not None:
                    cuts.append((left, right))
        merges += sorted(cuts) if len(cuts) > 1 else cuts
    return merges


def merge_ids(
    lines: Sequence[str], texts: Sequence[str], tokens: Sequence[bytes], kinds: Sequence[TokenKind]
) -> tuple[tuple[int, int], ...]:
    """Merges written as "left right" -> pairs of ids; none where they say no more than the order of the ids does.

    `texts` are the tokens in this alphabet. A merge that would make a control token out of text is left out. Raises
    TokenizerError for a merge of what is no token.
    """
    normal = [i for i, kind in enumerate(kinds) if kind is TokenKind.NORMAL]
    implied = implied_merges(tokens, normal)
    if len(implied) == len(lines) and lines == [f"{texts[left]} {texts[right]}" for left, right in implied]:
        return ()
    if not lines:
        raise TokenizerError("the vocabulary has no merges; it is incomplete")
    index = {texts[i]: i for i in normal}
    special = {text for text, kind in zip(texts, kinds, strict=True) if kind is not TokenKind.NORMAL}
    merges = []
    for number, line in enumerate(lines):
        left, _, right = line.partition(" ")
        if left not in index or right not in index or left + right not in index:
            if left + right in special:
                continue
            raise TokenizerError(
                f"merge {number} is {line[:60]!r}, expected two tokens that make a third; it is damaged"
            )
        merges.append((index[left], index[right]))
    return tuple(merges)
