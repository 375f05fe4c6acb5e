"""Trains the tokenizer: byte-level BPE with Llama 3's way of cutting text, written in tiktoken's form.

What has to be copied is to be the same tokens wherever it stands, since a small model copies better than it spells.
Digits stay single. A word is built without the space before it, and only then may a space join it, as one last merge:
" Podor" ends in the tokens of "Podor". A Chinese character that names are made of joins no other, so that no name is
cut differently in other company.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from pronk.text.byte_alphabet import to_bytes

# Shares of the tokens beyond the 256 bytes. What is left are pieces of other words, of code and of punctuation.
_CHARACTERS = 0.40  # Chinese characters
_CHINESE_WORDS = 0.10
_SPACED = 0.18  # words with the space before them
_LONGEST_CHINESE_WORD = 3  # characters

_CHINESE = r"[\u4e00-\u9fff]"
_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train(texts: Iterable[str], ranks: int, apart: Collection[str] = ()) -> bytes:
    """The tiktoken file of `ranks` tokens: the 256 bytes in byte order, then merges in the order they are made.

    `apart` are Chinese characters that join no other; they have a token each, however rare they are.
    """
    kept = list(texts)
    free = ranks - 256
    tokens = [bytes([value]) for value in range(256)]
    tokens += _characters(kept, round(free * _CHARACTERS), apart)
    tokens += _chinese_words(kept, round(free * _CHINESE_WORDS), apart)
    left, most_spaced = ranks - len(tokens), round(free * _SPACED)
    pieces = _pieces(kept, left)
    spaced = _with_space(kept, most_spaced, frozenset(pieces[: left - most_spaced]))
    tokens += pieces[: left - len(spaced)] + spaced
    if len(tokens) != ranks:
        raise ValueError(f"{len(tokens)} tokens were learnt, expected {ranks}; the texts are too few")
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def _characters(texts: Sequence[str], most: int, first: Collection[str]) -> list[bytes]:
    """`first`, then the most frequent. A character is three bytes, so the first two need a token on the way."""
    counts = Counter(character for text in texts for character in re.findall(_CHINESE, text))
    made: dict[bytes, None] = {}
    for character in (*sorted(first), *(character for character, _ in counts.most_common())):
        spelt = character.encode()
        if spelt in made:
            continue
        if len(made) + 1 + (spelt[:2] not in made) > most:
            break
        made[spelt[:2]] = made[spelt] = None
    return list(made)


def _chinese_words(texts: Sequence[str], count: int, apart: Collection[str]) -> list[bytes]:
    runs = [run for text in texts for run in re.findall(f"{_CHINESE}+", text)]
    inside = [part for run in runs for part in re.split(f"[{''.join(sorted(apart))}]", run) if part] if apart else runs
    alphabet = set("".join(inside))
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + count, max_token_length=_LONGEST_CHINESE_WORD, show_progress=False
    )
    tokenizer.train_from_iterator(inside, trainer)
    return [token.encode() for token in _learnt(tokenizer) if len(token) > 1]


def _pieces(texts: Sequence[str], count: int) -> list[bytes]:
    """Of all that is not Chinese."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{_CHINESE}+"), behavior="removed"),
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [token for token in (to_bytes(text) for text in _learnt(tokenizer)) if token and len(token) > 1]


def _with_space(texts: Sequence[str], count: int, tokens: Collection[bytes]) -> list[bytes]:
    """The most frequent words that a space may join: those that are one token without it."""
    counts = Counter(word for text in texts for word in re.findall(r"(?<= )[A-Za-z]+", text))
    words = [word for word, _ in counts.most_common() if word.encode() in tokens]
    return [b" " + word.encode() for word in words[:count]]


def _learnt(tokenizer: Tokenizer) -> list[str]:
    return [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
