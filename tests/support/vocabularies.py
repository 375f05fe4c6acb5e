"""Small vocabularies made here, and the reading of llama.cpp's tokenizer vectors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from pronk.checkpoints import gguf_file
from pronk.errors import TokenizerError
from pronk.text import byte_alphabet, gguf_vocabulary, llama2c_vocabulary, sentencepiece_file, tiktoken_file
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary

SEPARATOR = "\n__ggml_vocab_test__\n"
WORDS = (
    *b"he ll hell hello or ld".split(),
    b" w",
    b" wor",
    b" world",
    b"\xe4\xbd",
    b"\xe4\xbd\xa0",
    b" " * 2,
    b" " * 4,
)

LLAMA3 = "tokenizers/llama3/tokenizer.model"
LLAMA2 = "tokenizers/llama2/tokenizer.model"
CHINESE = "tokenizers/chinese_llama/chinese_llama2_tokenizer.model"
BABYLLAMA = "weights/babyllama105/tok105.model"


def vectors(folder: Path, kind: str) -> list[tuple[str, list[int]]]:
    """llama.cpp's vectors for "bpe" or "spm": texts and their ids without bos; the empty tail left out."""
    stem = folder / "vocab" / f"ggml-vocab-llama-{kind}.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split(SEPARATOR)[:-1]
    lines = Path(f"{stem}.out").read_text().splitlines()
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]


@lru_cache
def gguf_metadata(path: Path) -> dict[str, object]:
    return dict(gguf_file.read(path).metadata)


@lru_cache
def real(folder: Path, name: str) -> Tokenizer:
    """A tokenizer of the test data by file, or by "gguf-bpe", "gguf-spm"."""
    if name.startswith("gguf-"):
        path = folder / "vocab" / f"ggml-vocab-llama-{name[5:]}.gguf"
        return build_tokenizer(gguf_vocabulary.read(gguf_metadata(path)))
    data = (folder / name).read_bytes()
    if name.endswith(".bin"):
        return build_tokenizer(llama2c_vocabulary.read(data))
    read = tiktoken_file.read if tiktoken_file.looks_like(data) else sentencepiece_file.read
    return build_tokenizer(read(data))


def byte_level(words: tuple[bytes, ...] = WORDS, **changes: object) -> Vocabulary:
    """256 bytes, a few words in rank order, Llama 3's special tokens."""
    ranks = [bytes([byte]) for byte in range(256)] + list(words)
    special = [name.encode() for name in tiktoken_file.special_tokens("llama3.1")]
    first = len(ranks)
    fields: dict[str, object] = {
        "model": "bpe",
        "tokens": (*ranks, *special),
        "kinds": (TokenKind.NORMAL,) * first + (TokenKind.CONTROL,) * len(special),
        "pre": "llama-bpe",
        "bos_id": first,
        "eos_id": first + 1,
        "stop_ids": frozenset({first + 1, first + 8, first + 9}),
        "add_space_prefix": False,
    }
    return Vocabulary(**{**fields, **changes})  # type: ignore[arg-type]


def sentencepiece(byte_fallback: bool = True, extra: Mapping[str, TokenKind] = {}, **changes: object) -> Vocabulary:
    """A sentencepiece vocabulary of a few words; `extra` pieces come last."""
    words = ["▁▁", "he", "ll", "▁w", "or", "▁wor", "ld", "▁world", "hell", "hello", "▁hello", *"▁helowrd你.\n"]
    start = [("<unk>", TokenKind.UNKNOWN), ("<s>", TokenKind.CONTROL), ("</s>", TokenKind.CONTROL)]
    raw = [(f"<0x{byte:02X}>", TokenKind.BYTE) for byte in range(256)] if byte_fallback else []
    pieces = [*start, *raw, *((word, TokenKind.NORMAL) for word in words), *extra.items()]
    first = len(start) + len(raw)
    fields: dict[str, object] = {
        "model": "spm",
        "tokens": tuple(text.encode() for text, _ in pieces),
        "kinds": tuple(kind for _, kind in pieces),
        "scores": tuple(-float(max(0, i - first)) for i in range(len(pieces))),
        "bos_id": 1,
        "eos_id": 2,
        "unknown_id": 0,
        "stop_ids": frozenset({2}),
    }
    return Vocabulary(**{**fields, **changes})  # type: ignore[arg-type]


def gpt2_json(pre_tokenizer: object, **changes: object) -> str:
    """A tokenizer.json of byte-level BPE with listed merges, one for each word, as GPT-2's family has them."""
    characters = [byte_alphabet.CHARACTERS[byte] for byte in range(256)]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "1 2"]
    texts = [*characters, *(merge.replace(" ", "") for merge in merges)]
    size = len(texts)
    special = [(size, "<|endoftext|>", True), (size + 1, "<|im_start|>", True), (size + 2, "<tool>", False)]
    root = {
        "version": "1.0",
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "special": flag, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
            for i, text, flag in special
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate(texts)}, "merges": merges},
        **changes,
    }  # fmt: skip
    return json.dumps(root)


def random_text(rng: random.Random, length: int) -> str:
    """Letters, spaces, newlines, and characters from everywhere in Unicode but the surrogates."""
    ranges = ((32, 127), (9, 14), (32, 33), (0x80, 0x250), (0x300, 0xD800), (0xE000, 0x11000), (0x1F300, 0x1FB00))
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(length))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with a few bytes changed, cut out, doubled, or cut off."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out))
        span = rng.randrange(1, 12)
        what = rng.randrange(5)
        if what == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            out[at : at + span] = bytes(rng.randrange(256) for _ in range(span))
        elif what == 2:
            del out[at : at + span]
        elif what == 3:
            out[at:at] = out[at : at + span]
        elif len(out) > 16:
            del out[rng.randrange(len(out) // 2, len(out)) :]
    return bytes(out)


def survives(read: Callable[[bytes], Tokenizer], data: bytes) -> bool:
    """Whether damaged data still makes a tokenizer; then it works. All else is a TokenizerError of one line."""
    refusal = ""
    try:
        tokenizer = read(data)
    except TokenizerError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        return False
    text = "hello world 你好 \n <s>12"
    tokenizer.decode(tokenizer.encode(text, bos=True) + tokenizer.encode(text, bos=False, special=True))
    return True
