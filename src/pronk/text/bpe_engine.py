"""Byte-level BPE on the upstream libraries: tiktoken where ids are ranks, tokenizers where merges are listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pronk.errors import TokenizerError
from pronk.text import byte_alphabet
from pronk.text.pre_tokenizers import PreTokenizer, pre_tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary

# Meta's limits (llama3/tokenizer.py): tiktoken is given at most so many characters, and so many without a change
# between space and other text. They decide where a very long text is cut, so other numbers would give other ids.
MAX_CHARACTERS = 400_000
MAX_RUN = 25_000

_RUNS = re.compile(r"\s+|\S+")


def engine(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Text without special tokens -> ids. Raises TokenizerError for a vocabulary that cannot encode every byte."""
    pre = pre_tokenizer(vocabulary.pre)
    normal = [i for i, kind in enumerate(vocabulary.kinds) if kind is TokenKind.NORMAL]
    if vocabulary.merges or len(pre.patterns) > 1 or not pre.ignore_merges:  # which tiktoken always does
        return _merging(vocabulary, normal, pre)
    return _ranking(vocabulary, normal, pre)


def _ranking(vocabulary: Vocabulary, normal: list[int], pre: PreTokenizer) -> Callable[[str], list[int]]:
    import tiktoken

    ranks = {vocabulary.tokens[i]: i for i in normal}
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:  # tiktoken would panic at the first such byte
        raise TokenizerError(f"no token for the byte {missing[0]:#04x} and {len(missing) - 1} others; it is damaged")
    encoding = tiktoken.Encoding("pronk", pat_str=pre.patterns[0], mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> list[int]:
        if len(text) <= MAX_RUN:
            return list(encoding.encode_ordinary(text))
        return [token_id for part in split_long(text) for token_id in encoding.encode_ordinary(part)]

    return encode


def split_long(text: str) -> Iterator[str]:
    """The parts in which Meta gives a long text to tiktoken."""
    for start in range(0, len(text), MAX_CHARACTERS):
        chunk = text[start : start + MAX_CHARACTERS]
        begin = 0
        for run in _RUNS.finditer(chunk):
            for cut in range(run.start() + MAX_RUN, run.end(), MAX_RUN):
                yield chunk[begin:cut]
                begin = cut
        yield chunk[begin:]


def _merging(vocabulary: Vocabulary, normal: list[int], pre: PreTokenizer) -> Callable[[str], list[int]]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    text_of = {i: byte_alphabet.to_text(vocabulary.tokens[i]) for i in normal}
    merges = vocabulary.merges or byte_alphabet.implied_merges(vocabulary.tokens, normal)
    known = set(text_of.values())
    pairs = []
    for left, right in merges:
        pair = (text_of.get(left, ""), text_of.get(right, ""))
        if "" in pair or pair[0] + pair[1] not in known:
            raise TokenizerError(f"the merge of tokens {left} and {right} gives no token; the vocabulary is damaged")
        pairs.append(pair)
    tokenizer = Tokenizer(
        models.BPE(vocab={text: i for i, text in text_of.items()}, merges=pairs, ignore_merges=pre.ignore_merges)
    )
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
