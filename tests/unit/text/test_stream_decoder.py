"""Streaming gives what decoding everything at once gives, cut at the stop string, however the ids fall."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind
from support.vocabularies import byte_level, sentencepiece

BPE = build_tokenizer(byte_level())
SPM = build_tokenizer(sentencepiece())
SQUEEZING = build_tokenizer(sentencepiece(remove_extra_whitespaces=True))
A, B, C = (ord(c) for c in "abc")


def streamed(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], StreamDecoder]:
    decoder = StreamDecoder(tokenizer, stop)
    return [*(decoder.feed(i) for i in ids), decoder.finish()], decoder


def cut(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """The definition: the stop string that is complete first ends the text; of two that end together, the longer."""
    ends = [(text.index(s) + len(s), -len(s), s) for s in stop if s and s in text]
    if not ends:
        return text, None
    end, _, found = min(ends)
    return text[: end - len(found)], found


@given(st.lists(st.integers(0, BPE.vocab_size - 1)))
def test_any_byte_level_ids(ids: list[int]) -> None:
    assert "".join(streamed(BPE, ids)[0]) == BPE.decode(ids)


@pytest.mark.parametrize("tokenizer", [SPM, SQUEEZING])
@given(data=st.data())
def test_any_sentencepiece_ids(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from([*range(3, tokenizer.vocab_size), 1, *[3 + 0x20, 259, 259, 270, 270]])))
    assert "".join(streamed(tokenizer, ids)[0]) == tokenizer.decode(ids)


@given(
    st.lists(st.sampled_from([A, B, C, 0xE4, 0xBD, 0xA0, 256, 258, 300]), max_size=30),
    st.lists(st.text("abc你\ufffdhe", min_size=0, max_size=5), max_size=4),
)
def test_stop_strings_in_any_split(ids: list[int], stop: list[str]) -> None:
    pieces, decoder = streamed(BPE, ids, stop)
    text, found = cut(BPE.decode(ids), stop)
    assert ("".join(pieces), decoder.stop_string, decoder.stopped) == (text, found, found is not None)


def test_characters_come_whole() -> None:
    ids = list("🦙你".encode())
    assert streamed(BPE, ids)[0] == ["", "", "", "🦙", "", "", "你", ""]


def test_bytes_that_can_never_be_a_character() -> None:
    assert streamed(BPE, [0xE4, A, 0xFF, 0xF0, 0x9F])[0] == ["", "\ufffda", "\ufffd", "", "", "\ufffd"]


def test_control_tokens_give_nothing() -> None:
    eot = BPE.special_ids["<|eot_id|>"]
    assert streamed(BPE, [A, eot, B])[0] == ["a", "", "b", ""]


def test_only_what_may_be_a_stop_string_is_held_back() -> None:
    pieces, decoder = streamed(BPE, b"ab\nUsex\nUser:z", ["\nUser:"])
    assert pieces[:8] == ["a", "b", "", "", "", "", "\nUsex", ""]
    assert "".join(pieces) == "ab\nUsex"
    assert decoder.stop_string == "\nUser:"


def test_the_first_complete_stop_string_wins() -> None:
    assert cut("abcd", ["abcd", "bc"]) == ("a", "bc")
    for stop, text, found in [(["abcd", "bc"], "a", "bc"), (["c", "bc"], "a", "bc"), (["cab", "abc"], "", "abc")]:
        pieces, decoder = streamed(BPE, b"abcab", stop)
        assert ("".join(pieces), decoder.stop_string) == (text, found)


def test_overlapping_starts_of_a_stop_string() -> None:
    assert "".join(streamed(BPE, b"aaab", ["aab"])[0]) == "a"
    assert "".join(streamed(BPE, b"ababac", ["abac"])[0]) == "ab"


def test_after_the_stop_nothing_comes() -> None:
    decoder = StreamDecoder(BPE, ["b"])
    assert [decoder.feed(A), decoder.feed(B), decoder.feed(C), decoder.finish()] == ["a", "", "", ""]
    assert decoder.stopped


def test_finish_gives_what_was_held() -> None:
    decoder = StreamDecoder(BPE, ["abc"])
    assert [decoder.feed(A), decoder.feed(B), decoder.finish()] == ["", "", "ab"]
    assert not decoder.stopped


def test_sentencepiece_space_in_front() -> None:
    ids = SPM.encode("hello world", bos=True)
    assert "".join(streamed(SPM, ids)[0]) == "hello world"
    decoder = StreamDecoder(SPM, continuation=True)
    assert "".join([*(decoder.feed(i) for i in ids), decoder.finish()]) == " hello world"
    assert "".join(streamed(SPM, [3 + 0x20, ids[1]])[0]) == "  hello"  # a byte that is a space is no prefix


def test_no_space_is_taken_where_none_was_added() -> None:
    tokenizer = build_tokenizer(sentencepiece(add_space_prefix=False))
    ids = tokenizer.encode(" hello", bos=False)
    assert "".join(streamed(tokenizer, ids)[0]) == " hello" == tokenizer.decode(ids)


def test_a_user_defined_token_is_shown() -> None:
    tokenizer = build_tokenizer(sentencepiece(extra={"<tool>": TokenKind.USER_DEFINED}))
    assert "".join(streamed(tokenizer, [tokenizer.vocab_size - 1])[0]) == "<tool>"
