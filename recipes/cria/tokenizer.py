"""Trains the tokenizer: byte-level BPE with Llama 3's way of cutting text, written in tiktoken's form.

Training cuts finer than Llama 3 does, so that some merges are never learnt: digits stay single, and only a space may
join the word after it. A small model computes and copies better so: a word is the same tokens in a sentence, after a
comma and in JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from pronk.text.byte_alphabet import to_bytes

_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train(texts: Iterable[str], ranks: int) -> bytes:
    """The tiktoken file of `ranks` tokens: the 256 bytes in byte order, then merges in the order they were learnt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=ranks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes([value]) for value in range(256)]
    tokens += [token for token in (to_bytes(text) for text, _ in learnt) if token and len(token) > 1]
    if len(tokens) != ranks:
        raise ValueError(f"{len(tokens)} tokens were learnt, expected {ranks}; the texts are too few")
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
