"""The same ids as the upstream tools give: tiktoken, sentencepiece, tokenizers, llama.cpp."""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pronk.text import tokenizer_json
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary
from support.vocabularies import BABYLLAMA, CHINESE, LLAMA2, LLAMA3, random_text, real

# meta-llama/llama3, llama/tokenizer.py
META_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRICKY = [
    "", " ", "  ", "\n", "\t\n ", "a", " a", "Don't 'S 'ſ I'LL", "1234567 ١٢٣٤ ½Ⅻ", "x\u00a0y\u3000z\u0085",
    "🦙🦙 👩‍👩‍👧‍👦 🏳️‍🌈",
    "你好，世界！日本語のテキスト 한국어", "e\u0301 é ﬁ Å", "\x00\x01", "<unk>", "    def f(x):\n        return x\n",
    "<0x0A>",
    "▁▁ ▁a",
    "café\r\n\r\nnaïve", "https://a.b/c?d=e&f", "\u202eabc\u200b", "𝕳𝖊𝖑𝖑𝖔 𐍈", "a" * 300, " " * 300, "aba" * 50,
    "ᄀ" * 40,
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """Real prose without the corpus' own <unk>, which libraries take for a token; odd cases; random Unicode."""
    rng = random.Random(20)
    prose = (shared_data / "text/wikitext-2/valid.txt").read_text().replace("<unk>", "unk").splitlines()[:250]
    return [*prose, *TRICKY, *(random_text(rng, rng.randrange(1, 80)) for _ in range(300))]


def differing(texts: list[str], ours: Callable[[str], list[int]], theirs: Callable[[str], Any]) -> list[str]:
    return [text for text in texts if ours(text) != list(theirs(text))]


def test_llama3_is_tiktoken(shared_data: Path, texts: list[str]) -> None:
    import tiktoken

    lines = (shared_data / LLAMA3).read_bytes().splitlines()
    ranks = {base64.b64decode(word): int(rank) for word, rank in map(bytes.split, lines)}
    theirs = tiktoken.Encoding("llama3", pat_str=META_PATTERN, mergeable_ranks=ranks, special_tokens={})
    tokenizer = real(shared_data, LLAMA3)
    assert differing(texts, lambda text: tokenizer.encode(text, bos=False), theirs.encode_ordinary) == []
    assert all(tokenizer.decode(tokenizer.encode(text, bos=True)) == text for text in texts)


@pytest.mark.parametrize("name", [LLAMA2, CHINESE, BABYLLAMA, "tokenizers/chinese_llama/chinese_sp.model"])
def test_sentencepiece_files(shared_data: Path, texts: list[str], name: str) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(shared_data / name))
    tokenizer = real(shared_data, name)
    assert differing(texts, lambda text: tokenizer.encode(text, bos=False), theirs.encode) == []
    if name != BABYLLAMA:  # whose file has a strange text for lost characters
        ids = [tokenizer.encode(text, bos=True) for text in texts]
        assert [tokenizer.decode(one) for one in ids] == [theirs.decode(one) for one in ids]


@pytest.fixture(scope="module", params=["bpe", "spm"])
def llama_cpp(request: pytest.FixtureRequest, shared_data: Path) -> Iterator[tuple[str, Any]]:
    peer = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = shared_data / "vocab" / f"ggml-vocab-llama-{request.param}.gguf"
    model = peer.Llama(str(path), vocab_only=True, verbose=False)
    yield request.param, model
    model.close()


def test_gguf_vocabularies_as_llama_cpp_reads_them(
    shared_data: Path, texts: list[str], llama_cpp: tuple[str, Any]
) -> None:
    kind, peer = llama_cpp
    tokenizer = real(shared_data, f"gguf-{kind}")
    # Libraries know different versions of Unicode, and llama.cpp writes "ignoring case" as two letters: ſ is a third
    known = [text for text in texts if "ſ" not in text and all(unicodedata.category(c) != "Cn" for c in text)]

    def theirs(text: str) -> list[int]:
        return list(peer.tokenize(text.encode(), add_bos=False, special=False)) if text else []

    assert len(known) > 300
    assert differing(known, lambda text: tokenizer.encode(text, bos=False), theirs) == []


@pytest.mark.parametrize("name", [LLAMA3, LLAMA2, CHINESE])
def test_what_we_write_is_read_alike_by_tokenizers(shared_data: Path, texts: list[str], name: str) -> None:
    import tokenizers

    tokenizer = real(shared_data, name)
    assert tokenizer.vocabulary is not None
    theirs = tokenizers.Tokenizer.from_str(tokenizer_json.write(tokenizer.vocabulary))
    typed = [text for text in texts if text != "<unk>"]  # theirs takes it for the token

    def encode(text: str) -> list[int]:
        return list(theirs.encode(text).ids)

    assert differing(typed, lambda text: tokenizer.encode(text, bos=True), encode) == []
    assert [theirs.decode(encode(text)) for text in typed] == [tokenizer.decode(encode(text)) for text in typed]


@pytest.mark.parametrize("name", [LLAMA3, LLAMA2])
def test_transformers_opens_what_we_write(shared_data: Path, tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = real(shared_data, name)
    assert tokenizer.vocabulary is not None
    (tmp_path / "tokenizer.json").write_text(tokenizer_json.write(tokenizer.vocabulary))
    config = tokenizer_json.tokenizer_config(tokenizer.vocabulary)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in ("Hello, 你好 🦙 don't\n\n 123456", "  two  spaces"):
        assert theirs.encode(text) == tokenizer.encode(text, bos=True)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.vocabulary.eos_id)
    assert len(theirs) == tokenizer.vocab_size


def test_llama3_as_transformers_converts_it(shared_data: Path) -> None:
    converting = pytest.importorskip("transformers.convert_slow_tokenizer")
    ours = real(shared_data, LLAMA3).vocabulary
    assert ours is not None
    special = [token.decode() for token, kind in zip(ours.tokens, ours.kinds, strict=True) if kind is TokenKind.CONTROL]
    converter = converting.TikTokenConverter(str(shared_data / LLAMA3), extra_special_tokens=special)
    config = {**tokenizer_json.tokenizer_config(ours), "add_bos_token": True}
    theirs = tokenizer_json.read(converter.converted().to_str(), config)
    assert isinstance(theirs, Vocabulary)
    assert replace(theirs, source=None, pad_id=ours.pad_id) == replace(ours, source=None)


def test_llama2_as_transformers_converts_it(shared_data: Path, texts: list[str]) -> None:
    converting = pytest.importorskip("transformers.convert_slow_tokenizer")
    llama = pytest.importorskip("transformers.models.llama.tokenization_llama")
    tokenizer = real(shared_data, LLAMA2)
    vocabulary = tokenizer.vocabulary
    assert vocabulary is not None
    spaces = ["x" + " " * count + "y" for count in range(60)] + [" " * count for count in range(60)]
    vocab = {token.decode(): i for i, token in enumerate(vocabulary.tokens)}
    merges = converting.generate_merges(vocab, dict(zip(vocab, vocabulary.scores, strict=True)))
    text = llama.LlamaTokenizer(vocab=vocab, merges=merges).backend_tokenizer.to_str()
    made = tokenizer_json.read(text, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})
    assert not isinstance(made, Vocabulary), "it adds no space in front of one"
    assert made.vocabulary is not None
    known = [text for text in texts if not text.startswith((" ", "▁"))]
    assert differing(known, partial(made.encode, bos=True), partial(tokenizer.encode, bos=True)) == []
    theirs = build_tokenizer(made.vocabulary)
    encode = partial(theirs.encode, bos=True)
    assert differing([*texts, *spaces], encode, partial(tokenizer.encode, bos=True)) == []
    assert theirs.stop_ids == tokenizer.stop_ids
