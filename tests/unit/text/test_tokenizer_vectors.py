"""llama.cpp's tokenizer vectors, from the vocabularies in GGUF files and from the files they were made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.vocabularies import LLAMA2, LLAMA3, real, vectors

SOURCES = {
    "bpe": ("gguf-bpe", LLAMA3),
    "spm": ("gguf-spm", LLAMA2, "tokenizers/llama2/tokenizer.bin"),
}


@pytest.mark.parametrize(("kind", "source"), [(kind, source) for kind, all_of in SOURCES.items() for source in all_of])
def test_every_vector(shared_data: Path, kind: str, source: str) -> None:
    tokenizer = real(shared_data, source)
    cases = vectors(shared_data, kind)
    assert len(cases) == 46
    wrong = [text for text, ids in cases if tokenizer.encode(text, bos=False) != ids]
    assert wrong == []


@pytest.mark.parametrize("source", [source for all_of in SOURCES.values() for source in all_of])
def test_decoding_gives_the_text_back(shared_data: Path, source: str) -> None:
    tokenizer = real(shared_data, source)
    for text, ids in vectors(shared_data, "bpe" if source in SOURCES["bpe"] else "spm"):
        assert tokenizer.decode(ids) == text
