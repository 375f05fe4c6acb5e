"""Vocabulary files: round trips, damage, and lies. The only thing that comes out of a bad file is a TokenizerError."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.errors import TokenizerError
from pronk.text import (
    gguf_vocabulary,
    llama2c_vocabulary,
    sentencepiece_file,
    spm_engine,
    tiktoken_file,
    tokenizer_json,
)
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary
from support.vocabularies import (
    BABYLLAMA,
    CHINESE,
    LLAMA2,
    LLAMA3,
    byte_level,
    gguf_metadata,
    mutated,
    real,
    sentencepiece,
    survives,
)

READERS: dict[str, Callable[[bytes], Vocabulary]] = {
    "tiktoken": tiktoken_file.read,
    "sentencepiece": sentencepiece_file.read,
    "llama2c": llama2c_vocabulary.read,
}
TEXT = "hello world  你好 \n<s> 12"


def without_source(vocabulary: Vocabulary) -> Vocabulary:
    return replace(vocabulary, source=None)


def vocabulary_of(folder: Path, name: str) -> Vocabulary:
    vocabulary = real(folder, name).vocabulary
    assert vocabulary is not None
    return vocabulary


# --- Round trips ---


@pytest.mark.parametrize(("variant", "stops", "pad"), [("llama3", {0, 1}, None), ("llama3.1", {0, 1, 2}, 4)])
def test_special_tokens_of_llama3(variant: Any, stops: set[int], pad: int | None) -> None:
    names = tiktoken_file.special_tokens(variant)
    assert len(set(names)) == 256
    assert (names[0], names[1], names[6], names[7], names[9]) == (
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    )  # fmt: skip
    data = b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256))
    vocabulary = tiktoken_file.read(data, special=variant)
    ends = [256 + 1, 256 + 9, 256 + 8]
    assert vocabulary.stop_ids == {ends[i] for i in stops}
    assert vocabulary.pad_id == (None if pad is None else 256 + pad)
    assert tiktoken_file.write(without_source(vocabulary)) == data
    if variant == "llama3":
        assert [names[i] for i in (2, 3, 4, 5, 8, 10, 255)] == [
            f"<|reserved_special_token_{i}|>" for i in (0, 1, 2, 3, 4, 5, 250)
        ]
    else:
        assert [names[i] for i in (2, 3, 4, 5, 8, 10, 11)] == [
            "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
            "<|eom_id|>", "<|python_tag|>", "<|reserved_special_token_2|>",
        ]  # fmt: skip


def test_tiktoken_to_gguf_and_back(shared_data: Path) -> None:
    vocabulary = vocabulary_of(shared_data, LLAMA3)
    back = gguf_vocabulary.read(gguf_vocabulary.write(vocabulary))
    assert back == without_source(vocabulary)
    assert tiktoken_file.write(back) == (shared_data / LLAMA3).read_bytes()


def test_gguf_keys_are_those_of_llama_cpps_own_file(shared_data: Path) -> None:
    theirs = gguf_metadata(shared_data / "vocab" / "ggml-vocab-llama-bpe.gguf")
    ours = gguf_vocabulary.write(vocabulary_of(shared_data, LLAMA3))
    for key in ("model", "pre", "token_type", "merges", "bos_token_id", "eos_token_id"):
        assert ours[f"tokenizer.ggml.{key}"] == theirs[f"tokenizer.ggml.{key}"], key
    tokens = "tokenizer.ggml.tokens"
    assert ours[tokens][:128000] == theirs[tokens][:128000]  # type: ignore[index]


@pytest.mark.parametrize("name", [LLAMA2, CHINESE, BABYLLAMA, "tokenizers/chinese_llama/chinese_sp.model"])
def test_sentencepiece_to_gguf_and_back(shared_data: Path, name: str) -> None:
    vocabulary = vocabulary_of(shared_data, name)
    back = gguf_vocabulary.read(gguf_vocabulary.write(vocabulary))
    assert back == without_source(vocabulary)
    assert sentencepiece_file.read(sentencepiece_file.write(back)) == without_source(vocabulary)
    assert sentencepiece_file.write(vocabulary) == (shared_data / name).read_bytes()


@pytest.mark.parametrize("name", ["tokenizers/llama2/tokenizer.bin", "weights/stories260K/tok512.bin"])
def test_llama2c_and_back(shared_data: Path, name: str) -> None:
    data = (shared_data / name).read_bytes()
    vocabulary = llama2c_vocabulary.read(data)
    assert llama2c_vocabulary.write(vocabulary) == data
    rewritten = llama2c_vocabulary.write(without_source(vocabulary))
    assert llama2c_vocabulary.read(rewritten) == vocabulary
    assert rewritten[4:] == data[4:]  # the longest piece is counted in another way by some exporters


def test_llama2c_file_of_llama2_is_llama2(shared_data: Path) -> None:
    flat = vocabulary_of(shared_data, "tokenizers/llama2/tokenizer.bin")
    whole = vocabulary_of(shared_data, LLAMA2)
    assert (flat.tokens, flat.kinds, flat.scores) == (whole.tokens, whole.kinds, whole.scores)


def test_user_defined_pieces_have_plain_spaces_in_gguf() -> None:
    vocabulary = sentencepiece(extra={"▁▁▁▁x": TokenKind.USER_DEFINED})
    metadata = gguf_vocabulary.write(vocabulary)
    assert metadata["tokenizer.ggml.tokens"][-1] == "    x"  # type: ignore[index]
    assert gguf_vocabulary.read(metadata) == vocabulary


def test_formats_that_cannot_say_a_vocabulary_refuse_it() -> None:
    for write, vocabulary in [
        (tiktoken_file.write, sentencepiece()),
        (tiktoken_file.write, byte_level(merges=((104, 101),))),
        (sentencepiece_file.write, byte_level()),
        (llama2c_vocabulary.write, byte_level()),
        (tokenizer_json.write, sentencepiece(unigram=True)),
    ]:
        with pytest.raises(TokenizerError):
            write(vocabulary)


# --- GGUF metadata ---


def gguf(vocabulary: Vocabulary, **changes: object) -> dict[str, object]:
    metadata = gguf_vocabulary.write(vocabulary)
    for key, value in changes.items():
        if value is None:
            metadata.pop(f"tokenizer.ggml.{key}", None)
        else:
            metadata[f"tokenizer.ggml.{key}"] = value
    return metadata


def test_arrays_may_be_numpy_and_strings_bytes() -> None:
    metadata = gguf(sentencepiece())
    metadata["tokenizer.ggml.tokens"] = [t.encode() for t in metadata["tokenizer.ggml.tokens"]]  # type: ignore[attr-defined]
    for key, kind in (("scores", np.float32), ("token_type", np.int32)):
        metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"], kind)
    assert gguf_vocabulary.read(metadata) == sentencepiece()


def test_stop_ids_are_the_whole_set_whatever_the_file_says() -> None:
    vocabulary = gguf_vocabulary.read(gguf(byte_level(), eot_token_id=None, eom_token_id=None))
    assert vocabulary.stop_ids == byte_level().stop_ids
    assert gguf_vocabulary.read(gguf(byte_level(), eot_token_id=5)).stop_ids == byte_level().stop_ids | {5}


def test_control_tokens_that_a_file_calls_normal_cannot_be_typed() -> None:
    vocabulary = byte_level()
    tokenizer = build_tokenizer(gguf_vocabulary.read(gguf(vocabulary, token_type=[1] * len(vocabulary.tokens))))
    assert tokenizer.special_ids.keys() == build_tokenizer(vocabulary).special_ids.keys()
    assert tokenizer.encode("<|eot_id|>", bos=False) == list(b"<|eot_id|>")


def test_a_sentencepiece_vocabulary_whose_ends_a_file_calls_normal() -> None:
    kinds = [1 if kind is TokenKind.CONTROL else int(kind) for kind in sentencepiece().kinds]
    assert gguf_vocabulary.read(gguf(sentencepiece(), token_type=kinds)) == sentencepiece()


def test_bos_where_the_file_does_not_say() -> None:
    assert gguf_vocabulary.read(gguf(byte_level(), add_bos_token=None)).add_bos
    assert not gguf_vocabulary.read(gguf(byte_level(), add_bos_token=None, pre="gpt-2")).add_bos
    assert gguf_vocabulary.read(gguf(sentencepiece(), add_bos_token=None)).add_bos
    assert not gguf_vocabulary.read(gguf(sentencepiece(), add_bos_token=False)).add_bos


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "nonsense"}, "unknown pre-tokenizer 'nonsense', expected one of .*llama-bpe.*smollm"),
        ({"pre": None}, "tokenizer.ggml.pre is missing.*convert the model again"),
        ({"pre": "default"}, "unknown pre-tokenizer 'default'"),
        ({"model": "rwkv"}, "tokenizer.ggml.model 'rwkv', expected llama, gpt2 or t5"),
        ({"model": None}, "no tokenizer.ggml.model"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": "abc"}, "expected an array"),
        ({"tokens": [1, 2]}, "not an array of strings"),
        ({"tokens": []}, "token_type has 525 values for 0 tokens"),
        ({"token_type": [1]}, "token_type has 1 values for 525 tokens"),
        ({"token_type": [9] * 525}, "token_type has the value 9"),
        ({"merges": ["he xx"]}, "merge 0 is 'he xx'"),
        ({"merges": []}, "no merges"),
        ({"bos_token_id": 525}, "the bos token is 525, expected an id below 525"),
        ({"eot_token_id": -1}, "the stop token is -1"),
        ({"eos_token_id": "x"}, "eos_token_id is 'x', expected a number"),
        ({"add_bos_token": "yes"}, "expected true or false"),
    ],
)
def test_gguf_metadata_that_cannot_be(changes: dict[str, object], message: str) -> None:
    assert len(byte_level().tokens) == 525
    with pytest.raises(TokenizerError, match=message):
        gguf_vocabulary.read(gguf(byte_level(), **changes))


def test_listed_merges_are_kept_where_ids_do_not_say_them() -> None:
    vocabulary = byte_level(pre="gpt-2", merges=((ord("l"), ord("l")), (ord("h"), ord("e"))))
    back = gguf_vocabulary.read(gguf_vocabulary.write(vocabulary))
    assert back.merges == vocabulary.merges
    assert build_tokenizer(back).encode("hello", bos=False) == [256, 257, ord("o")]  # he, ll; hell is in no merge


# --- Damage ---


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no token for the byte 0x00 and 255 others"),
        (b"AA==", "line 1 of the tiktoken file is b'AA=='"),
        (b"A 0\n", "expected base64 and a rank"),
        (b"AA== 1\n", "line 1 of the tiktoken file has rank 1, expected 0"),
        (
            b"AA== 0\nAA== 1\n" + b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i + 1) for i in range(1, 256)),
            "twice",
        ),
        (b"AA== 99999999999999999999999\n", "has rank 99999999999999999999, expected 0"),
    ],
)
def test_tiktoken_files_that_cannot_be(data: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tiktoken_file.read(data)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for read in (tiktoken_file.read, sentencepiece_file.read):
        with pytest.raises(TokenizerError, match=r"cannot read .*tokenizer\.model: No such file"):
            read(tmp_path / "tokenizer.model")


def test_a_sentencepiece_file_whose_control_tokens_could_be_typed() -> None:
    data = sentencepiece_file.serialize(sentencepiece(extra={"<|im_end|>": TokenKind.USER_DEFINED}))
    tokenizer = build_tokenizer(sentencepiece_file.read(data))
    last = tokenizer.vocab_size - 1
    assert last in tokenizer.stop_ids
    assert last not in tokenizer.encode("<|im_end|>", bos=False)
    assert tokenizer.encode("<|im_end|>", bos=False, special=True) == [last]


def test_the_two_kinds_of_tokenizer_model_are_told_apart() -> None:
    data = b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256))
    assert tiktoken_file.looks_like(data)
    assert not tiktoken_file.looks_like(sentencepiece_file.serialize(sentencepiece()))
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        sentencepiece_file.read(data)


def proto(*pieces: tuple[bytes, float, int]) -> bytes:
    """A sentencepiece BPE model with these pieces, whatever they are."""
    out = b""
    for text, score, kind in pieces:
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        out += b"\x0a" + bytes([len(piece)]) + piece
    return out + b"\x12\x02\x18\x02"


GOOD = ((b"<unk>", 0.0, 2), (b"a", -1.0, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a vocabulary of 0 tokens"),
        (proto(*GOOD, (b"a", 0.0, 1)), "token b'a' is in the vocabulary twice"),
        (proto(*GOOD, (b"b", float("nan"), 1)), "score of piece 2 is nan"),
        (proto(*GOOD, (b"b", float("inf"), 1)), "score of piece 2 is inf"),
        (proto(GOOD[1]), "0 unknown tokens"),
        (proto(*GOOD, (b"<u>", 0.0, 2)), "2 unknown tokens"),
        (proto(*GOOD, (b"", 0.0, 1)), "piece 2 is b'', expected UTF-8 text"),
        (proto(*GOOD, (b"\xff", 0.0, 1)), "piece 2 is b'.xff', expected UTF-8 text"),
        (proto(*GOOD, (b"<0x00>", 0.0, 6)), "1 byte tokens that are not"),
        (proto(*GOOD, (b"b", 0.0, 7)), "piece 2 of the sentencepiece model has type 7"),
        (proto(*GOOD) + b"\x12\x02\x18\x03", "of type 3, expected BPE"),
        (proto(*GOOD) + b"\x12\x03\xc0\x01\x01", "keeps spaces in a way"),
        (proto(*GOOD)[:-5], "truncated"),
        (proto(*GOOD) + b"\x0a\xff\xff\xff\xff\x7f", "truncated: .* bytes of field 1"),
        (b"\xff" * 12, "number of over ten bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x02\x01a", "field 0"),
        (b"\x0a\x02\x0a\x80", "truncated: it ends inside a number"),
    ],
)
def test_sentencepiece_files_that_cannot_be(data: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        sentencepiece_file.read(data)


def test_a_proto_reads_as_it_is_meant() -> None:
    vocabulary = sentencepiece_file.read(proto(*GOOD))
    assert (vocabulary.tokens, vocabulary.unigram, vocabulary.bos_id) == ((b"<unk>", b"a"), False, None)


@pytest.mark.parametrize(
    ("charsmap", "message"),
    [
        (b"\x01", "claims a trie of 0"),
        (struct.pack("<I", 1 << 30) + b"\0", "claims a trie of 1073741824"),
        (struct.pack("<I", 100) + bytes(101), "claims a trie of 100"),
        (struct.pack("<I", 1024) + bytes(1024) + b"x", "claims a trie of 1024"),
        (struct.pack("<II", 1024, 0x7FFFFFFF) + bytes(1021), "points outside itself"),
        (struct.pack("<II", 1024, 0x80000009) + bytes(1021), "points outside itself"),
    ],
)
def test_character_maps_that_lead_outside(charsmap: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        build_tokenizer(sentencepiece(charsmap=charsmap))


def test_a_real_character_map_passes(shared_data: Path) -> None:
    vocabulary = vocabulary_of(shared_data, "tokenizers/chinese_llama/chinese_sp.model")
    assert len(vocabulary.charsmap) > 200_000
    spm_engine.check_charsmap(vocabulary.charsmap)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes; it is truncated"),
        (struct.pack("<ifi", 7, 0.0, 5) + b"<un", "piece 0 of tokenizer.bin has 5 bytes where 3 are left"),
        (struct.pack("<ifi", 7, 0.0, -5) + b"<unk>", "has -5 bytes"),
        (struct.pack("<if", 7, 0.0), "ends inside piece 0"),
        (struct.pack("<ifi", 7, 0.0, 5) + b"<unk>", "starts with"),
    ],
)
def test_llama2c_files_that_cannot_be(data: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        llama2c_vocabulary.read(data)


def test_llama2c_file_of_another_model() -> None:
    data = llama2c_vocabulary.write(sentencepiece())
    count = len(sentencepiece().tokens)
    assert len(llama2c_vocabulary.read(data, count).tokens) == count
    with pytest.raises(TokenizerError, match=f"has {count} pieces, expected the model's 32000; it belongs to another"):
        llama2c_vocabulary.read(data, 32000)


def small_files() -> dict[str, bytes]:
    return {
        "tiktoken": b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(byte_level().tokens[:269])),
        "sentencepiece": sentencepiece_file.serialize(sentencepiece()),
        "llama2c": llama2c_vocabulary.write(sentencepiece()),
    }


@pytest.mark.parametrize("name", READERS)
def test_mutated_files(name: str) -> None:
    data = small_files()[name]
    rng = random.Random(f"{name} 4")
    outcomes = [survives(lambda raw: build_tokenizer(READERS[name](raw)), mutated(data, rng)) for _ in range(400)]
    assert not all(outcomes), "damage that is never noticed is not damage"
    assert survives(lambda raw: build_tokenizer(READERS[name](raw)), data)


@pytest.mark.parametrize(("name", "file"), [("tiktoken", LLAMA3), ("sentencepiece", LLAMA2)])
def test_mutated_real_files(shared_data: Path, name: str, file: str) -> None:
    data = (shared_data / file).read_bytes()
    rng = random.Random(file)
    for _ in range(6):
        survives(lambda raw: build_tokenizer(READERS[name](raw)), mutated(data, rng))


def test_mutated_character_maps(shared_data: Path) -> None:
    vocabulary = vocabulary_of(shared_data, "tokenizers/chinese_llama/chinese_sp.model")
    rng = random.Random(8)
    small = sentencepiece()
    for _ in range(40):
        charsmap = mutated(vocabulary.charsmap, rng)
        survives(lambda raw: build_tokenizer(replace(small, charsmap=raw)), charsmap)
