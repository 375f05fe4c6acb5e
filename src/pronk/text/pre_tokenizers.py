"""How byte-level BPE cuts text into words before merging, by the name that GGUF's `tokenizer.ggml.pre` gives it.

The names are llama.cpp's (`llama-vocab.cpp`); the patterns are those of the models' own tokenizer.json files, which
llama.cpp's are adaptations of. Patterns apply one after the other, each to the pieces that the one before left.
A wrong pattern gives text that looks right and a model that is quietly worse, so a name that is not here is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from pronk.errors import TokenizerError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CAPITALS, _SMALLS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALLS}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALLS}*")

_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)


@dataclass(frozen=True)
class PreTokenizer:
    """`ignore_merges`: a word that is a token is that token, whether or not merges lead to it (as tiktoken does)."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False  # where the file does not say


_LLAMA3_STYLE = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_GPT2_STYLE = PreTokenizer((GPT2_PATTERN,))
_SMOLLM_STYLE = PreTokenizer((r"\p{N}", GPT2_PATTERN))

KNOWN: dict[str, PreTokenizer] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LLAMA3_STYLE),
    **dict.fromkeys(("smaug-bpe", "dbrx"), PreTokenizer((_LLAMA3,))),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), _GPT2_STYLE),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _SMOLLM_STYLE),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), PreTokenizer((_QWEN2,))),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": PreTokenizer((_GPT4O,)),
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The one called `name`. Raises TokenizerError, listing the known ones."""
    if not name:
        raise TokenizerError(
            "the vocabulary does not say how text is split (tokenizer.ggml.pre is missing), and a wrong guess would "
            "quietly make the model worse; convert the model again from its original files with a current converter"
        )
    try:
        return KNOWN[name]
    except KeyError:
        raise TokenizerError(f"unknown pre-tokenizer {name!r}, expected one of {', '.join(sorted(KNOWN))}") from None
