"""Tokens one by one: their texts, joined, are the text, and each knows where it lies in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.server.token_text import TokenTexts, located, written_out
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from support.vocabularies import byte_level, sentencepiece

TOKENIZERS = {"bpe": build_tokenizer(byte_level()), "spm": build_tokenizer(sentencepiece())}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


TEXTS = st.text(max_size=30).filter(lambda text: all(not 0xD800 <= ord(c) < 0xE000 for c in text))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
def test_each_token_covers_its_characters_and_together_all(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, bos=True)
    places = located(tokenizer, text, ids)
    assert [place.id for place in places] == ids
    if any(place.stop for place in places):  # it was not changed before it was cut
        covered = set()
        for place in places:
            assert place.text == text[place.start : place.stop]
            covered |= set(range(place.start, place.stop))
        assert covered == set(range(len(text)))


def test_a_begin_of_text_that_was_added_covers_nothing_and_one_that_was_read_its_name(tokenizer: Tokenizer) -> None:
    bos = next(name for name, token in tokenizer.special_ids.items() if token == tokenizer.bos_id)
    added = located(tokenizer, "ab", tokenizer.encode("ab", bos=True))[0]
    assert (added.id, added.start, added.stop) == (tokenizer.bos_id, 0, 0)
    text = f"{bos}ab"
    read = located(tokenizer, text, tokenizer.encode(text, bos=True, special=True))[0]
    assert (read.id, read.text) == (tokenizer.bos_id, bos)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
def test_token_texts_joined_are_the_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, bos=False)
    texts = TokenTexts(tokenizer, ())
    assert "".join(map(texts.feed, ids)) + texts.finish() == tokenizer.decode(ids)


def test_a_character_comes_with_the_token_that_ends_it() -> None:
    tokenizer = TOKENIZERS["bpe"]
    ids = tokenizer.encode("é", bos=False)
    texts = TokenTexts(tokenizer, ())
    assert [texts.feed(token) for token in ids] == ["", "é"]


def test_control_tokens_are_written_by_name(tokenizer: Tokenizer) -> None:
    name, token = next(iter(tokenizer.special_ids.items()))
    ids = [token, *tokenizer.encode("ab", bos=False)]
    assert written_out(tokenizer, ids) == f"{name}ab"
