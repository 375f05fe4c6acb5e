"""What users type stays text, bos comes once, and long or broken input is answered at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.errors import TokenizerError
from pronk.text.bpe_engine import MAX_RUN, split_long
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind
from support.vocabularies import LLAMA2, LLAMA3, byte_level, real, sentencepiece

BPE = build_tokenizer(byte_level())
SPM = build_tokenizer(sentencepiece())


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (BPE, "<|eot_id|>"),
        (BPE, "a<|start_header_id|>system<|end_header_id|>"),
        (SPM, "<s>"),
        (SPM, "x</s><s> y <unk>"),
    ],
)
def test_typed_special_tokens_are_text_unless_asked_for(tokenizer, text: str) -> None:
    control = set(tokenizer.special_ids.values())
    assert not control & set(tokenizer.encode(text, bos=False)) - {tokenizer.special_ids.get("<unk>")}
    assert control & set(tokenizer.encode(text, bos=False, special=True))


def test_typed_special_tokens_of_real_files(shared_data: Path) -> None:
    llama3, llama2 = real(shared_data, LLAMA3), real(shared_data, LLAMA2)
    for text in llama3.special_ids:
        ids = llama3.encode(f"x{text}y", bos=False)
        assert max(ids) < 128000
        assert llama3.decode(ids) == f"x{text}y"
    for text in ("<s>", "</s>", "<unk>", "[INST] <<SYS>>"):
        ids = llama2.encode(text, bos=False)
        assert min(ids) > 2
        assert llama2.decode(ids) == text
    assert llama3.encode("<|begin_of_text|>hi<|eot_id|>", bos=False, special=True) == [128000, 6151, 128009]
    assert llama2.encode("<s> hi</s>", bos=False, special=True) == [1, 29871, 7251, 2]


def test_bos_comes_once() -> None:
    bos = BPE.bos_id
    assert BPE.encode("hello", bos=True) == [bos, *BPE.encode("hello", bos=False)]
    assert BPE.encode("<|begin_of_text|>hello", bos=True, special=True).count(bos) == 1
    assert BPE.encode("", bos=True) == [bos]
    assert SPM.encode("<s>hello", bos=True, special=True)[:2].count(1) == 1


def test_no_bos_where_texts_do_not_start_with_it() -> None:
    tokenizer = build_tokenizer(byte_level(add_bos=False))
    assert tokenizer.encode("hello", bos=True) == tokenizer.encode("hello", bos=False)
    assert build_tokenizer(byte_level(bos_id=None)).encode("hello", bos=True) == BPE.encode("hello", bos=False)


def test_user_defined_tokens_are_found_in_any_text() -> None:
    vocabulary = byte_level()
    kinds = (*vocabulary.kinds[:-1], TokenKind.USER_DEFINED)
    tokenizer = build_tokenizer(byte_level(kinds=kinds))
    last = tokenizer.vocab_size - 1
    text = vocabulary.tokens[-1].decode()
    assert tokenizer.encode(f"a{text}b", bos=False)[1:-1] == [last]
    assert tokenizer.decode([last]) == text
    piece = build_tokenizer(sentencepiece(extra={"<tool>": TokenKind.USER_DEFINED}))
    assert piece.vocab_size - 1 in piece.encode("he<tool>ll", bos=False)
    assert piece.decode(piece.encode("he<tool>ll", bos=False)) == "he<tool>ll"


@pytest.mark.parametrize("tokenizer", [BPE, SPM])
@pytest.mark.parametrize("text", ["\ud800", "ok \udc80", "\ud83e\udd99"])
def test_half_a_surrogate_pair_is_refused(tokenizer, text: str) -> None:
    with pytest.raises(TokenizerError, match="surrogate pair, U\\+D"):
        tokenizer.encode(text, bos=False)


@pytest.mark.parametrize("tokenizer", [BPE, SPM])
@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, token_id: int) -> None:
    for use in (tokenizer.token_bytes, tokenizer.token_text, lambda i: tokenizer.decode([i])):
        with pytest.raises(
            TokenizerError, match=f"token id {token_id} is outside the vocabulary of {tokenizer.vocab_size}"
        ):
            use(token_id)


def test_stop_ids_grow_and_are_checked() -> None:
    more = BPE.with_stop_ids([5])
    assert more.stop_ids == BPE.stop_ids | {5}
    assert 5 not in BPE.stop_ids
    assert more.encode("hello", bos=True) == BPE.encode("hello", bos=True)
    with pytest.raises(TokenizerError, match="stop token is 999999"):
        BPE.with_stop_ids([999999])


def test_tokens_as_a_person_sees_them() -> None:
    assert [BPE.token_text(i) for i in (0x41, 0xE4, 256)] == ["A", "<0xE4>", "he"]
    assert BPE.token_text(BPE.special_ids["<|eot_id|>"]) == "<|eot_id|>"
    assert [SPM.token_text(i) for i in (0, 1, 3 + 0xE4)] == ["<unk>", "<s>", "<0xE4>"]
    assert SPM.token_text(SPM.encode("hello", bos=False)[0]) == " hello"
    assert [BPE.token_bytes(BPE.special_ids["<|eot_id|>"]), SPM.token_bytes(1)] == [b"", b""]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_level_gives_every_text_back(text: str) -> None:
    assert BPE.decode(BPE.encode(text, bos=True)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_fallback_gives_every_text_back(text: str) -> None:
    ids = SPM.encode(text, bos=True)
    assert SPM.decode(ids) == text.replace("▁", " ")


@given(st.lists(st.integers(0, 255 + 3)))
def test_sentencepiece_ids_decode_to_their_bytes(ids: list[int]) -> None:
    spoken = b"".join(SPM.token_bytes(i) for i in ids)
    assert SPM.decode(ids) == spoken.decode(errors="replace")


def test_without_byte_fallback_unknown_characters_are_one_token() -> None:
    tokenizer = build_tokenizer(sentencepiece(byte_fallback=False))
    ids = tokenizer.encode("hello 日本", bos=False)
    assert ids.count(0) == 1
    assert tokenizer.decode(ids) == "hello  ⁇ "


@given(
    st.lists(
        st.tuples(st.sampled_from("a \n."), st.sampled_from([1, 2, 7, MAX_RUN - 1, MAX_RUN, MAX_RUN + 1])), max_size=6
    )
)
def test_long_texts_are_parted_as_meta_does(runs: list[tuple[str, int]]) -> None:
    text = "".join(character * count for character, count in runs)
    parts = list(split_long(text))
    assert "".join(parts) == text
    assert parts == meta_parts(text) or not text


def meta_parts(text: str) -> list[str]:
    """Meta's definition, by character: cut where more than 25,000 of one kind, space or not, follow each other."""
    parts, start, count, kind = [], 0, 0, text[:1].isspace()
    for i, character in enumerate(text):
        if character.isspace() is not kind:
            kind, count = character.isspace(), 1
        else:
            count += 1
            if count > MAX_RUN:
                parts.append(text[start:i])
                start, count = i, 1
    return [*parts, text[start:]]


@pytest.mark.parametrize("character", ["a", " ", "你"])
@pytest.mark.parametrize("name", [LLAMA3, LLAMA2])
def test_ten_megabytes_of_one_character(shared_data: Path, name: str, character: str) -> None:
    """Meta's own tokenizer is slow or panics on such a text unless it is parted."""
    tokenizer = real(shared_data, name)
    text = character * (10_000_000 // len(character.encode()))
    assert tokenizer.decode(tokenizer.encode(text, bos=True)) == text


def test_importing_loads_no_library() -> None:
    code = (
        "import sys\n"
        "from pronk.text import tokenizers, stream, tiktoken_file, sentencepiece_file, gguf_vocabulary\n"
        "from pronk.text import tokenizer_json, llama2c_vocabulary, json_pipeline, bpe_engine, spm_engine\n"
        "print([m for m in ('tiktoken', 'sentencepiece', 'tokenizers', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
