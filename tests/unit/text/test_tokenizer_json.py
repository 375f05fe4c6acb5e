"""tokenizer.json: what becomes a Vocabulary, what runs as it is, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from pronk.errors import TokenizerError
from pronk.text import tokenizer_json
from pronk.text.stream import StreamDecoder
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import TokenKind, Vocabulary
from support.vocabularies import byte_level, gpt2_json, mutated, random_text, sentencepiece, survives

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SMOLLM = {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}
SPLIT = {"type": "Split", "pattern": {"Regex": " ?[a-z]+"}, "behavior": "Isolated", "invert": False}
UNHEARD_OF = {"type": "Sequence", "pretokenizers": [SPLIT, {**BYTE_LEVEL, "use_regex": False}]}
TEXTS = ["hello world", "hello 12 worlds <|im_start|>", "a<tool>b", "", "  \n", "你好 🦙"]


def opened(text: str | bytes, config: Mapping[str, Any] = {}) -> Tokenizer:
    made = tokenizer_json.read(text, config)
    return build_tokenizer(made) if isinstance(made, Vocabulary) else made


def library(text: str) -> Any:
    import tokenizers

    theirs = tokenizers.Tokenizer.from_str(text)
    theirs.no_truncation()
    theirs.encode_special_tokens = True
    return theirs


@pytest.mark.parametrize(("pre_tokenizer", "name"), [(BYTE_LEVEL, "gpt-2"), (SMOLLM, "smollm"), (UNHEARD_OF, None)])
def test_byte_level_files(pre_tokenizer: dict[str, Any], name: str | None) -> None:
    text = gpt2_json(pre_tokenizer)
    made = tokenizer_json.read(text, {"eos_token": "<|endoftext|>"})
    assert (made.pre if isinstance(made, Vocabulary) else None) == name
    tokenizer = opened(text, {"eos_token": "<|endoftext|>", "bos_token": {"content": "<|im_start|>"}})
    theirs = library(text)
    rng = random.Random(3)
    for case in [*TEXTS, *(random_text(rng, 30) for _ in range(50))]:
        ids = tokenizer.encode(case, bos=False)
        assert ids == theirs.encode(case, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == case
        decoder = StreamDecoder(tokenizer)
        assert "".join([*map(decoder.feed, ids), decoder.finish()]) == case
    assert tokenizer.encode("<|im_start|>hello", bos=False, special=True) == [
        tokenizer.special_ids["<|im_start|>"],
        259,
    ]
    assert tokenizer.stop_ids == {tokenizer.special_ids["<|endoftext|>"]}
    assert tokenizer.bos_id == tokenizer.special_ids["<|im_start|>"]
    assert tokenizer.encode("hello", bos=True) == [259]  # no post-processor adds it


@pytest.mark.parametrize("pre_tokenizer", [SMOLLM, UNHEARD_OF])
def test_config_says_whether_bos_is_added(pre_tokenizer: dict[str, Any]) -> None:
    text = gpt2_json(pre_tokenizer)
    bos = opened(text).special_ids["<|im_start|>"]
    config = {"bos_token": "<|im_start|>", "add_bos_token": True}
    assert opened(text, config).encode("hello", bos=True) == [bos, 259]
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}]}
    adding = gpt2_json(pre_tokenizer, post_processor={"type": "Sequence", "processors": [template]})
    made = tokenizer_json.read(adding, {"bos_token": "<|im_start|>"}) if pre_tokenizer is SMOLLM else None
    assert made is None or (isinstance(made, Vocabulary) and made.add_bos)


def test_a_template_with_bos() -> None:
    vocabulary = byte_level()
    config = tokenizer_json.tokenizer_config(vocabulary)
    del config["add_bos_token"]
    made = tokenizer_json.read(tokenizer_json.write(vocabulary), config)
    assert isinstance(made, Vocabulary)
    assert made.add_bos


@pytest.mark.parametrize(
    "vocabulary",
    [
        byte_level(),
        byte_level(pre="gpt-2", add_bos=False),
        byte_level(pre="smollm", merges=((104, 101), (108, 108), (256, 257))),
        sentencepiece(),
        sentencepiece(add_space_prefix=False),
        sentencepiece(extra={"<tool>": TokenKind.USER_DEFINED, "[PAD]": TokenKind.CONTROL}),
    ],
)
def test_written_files_say_the_same(vocabulary: Vocabulary) -> None:
    text = tokenizer_json.write(vocabulary)
    made = tokenizer_json.read(text, tokenizer_json.tokenizer_config(vocabulary))
    assert isinstance(made, Vocabulary)
    names = ("model", "tokens", "kinds", "merges", "bos_id", "eos_id", "stop_ids", "add_bos", "add_space_prefix")
    assert [getattr(made, name) for name in names] == [getattr(vocabulary, name) for name in names]
    ours, theirs, rng = build_tokenizer(vocabulary), build_tokenizer(made), random.Random(1)
    for case in ["hello world", " he  llo", *(random_text(rng, 40) for _ in range(100))]:
        assert ours.encode(case, bos=True) == theirs.encode(case, bos=True) == with_bos(text, case, vocabulary)
    assert tokenizer_json.write(made) == text


def with_bos(text: str, case: str, vocabulary: Vocabulary) -> list[int]:
    assert vocabulary.bos_id is not None
    ids: list[int] = library(text).encode(case, add_special_tokens=False).ids
    return [vocabulary.bos_id, *ids] if vocabulary.add_bos else ids


def written_scores() -> tuple[float, ...]:
    made = tokenizer_json.read(tokenizer_json.write(sentencepiece()), {})
    assert isinstance(made, Vocabulary)
    return made.scores


def llama2_json(**changes: object) -> dict[str, Any]:
    return {**json.loads(tokenizer_json.write(sentencepiece())), **changes}


def test_the_newer_form_of_llama2() -> None:
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    text = json.dumps(llama2_json(normalizer=None, pre_tokenizer=metaspace))
    tokenizer = opened(text, {"add_bos_token": True})
    for case in ("hello world", " hello", "  hello", "", "he\nllo"):
        assert tokenizer.encode(case, bos=True) == library(text).encode(case).ids
    theirs = library(text)
    theirs.encode_special_tokens = False
    assert (
        tokenizer.encode("<s>hello</s>hello", bos=True, special=True)
        == theirs.encode("<s>hello</s>hello", add_special_tokens=False).ids
    )
    assert tokenizer.decode(tokenizer.encode("hello world", bos=True)) == "hello world"
    assert tokenizer.vocabulary is not None, "other formats can be written from it"
    assert tokenizer.vocabulary.scores == pytest.approx(written_scores())


def test_merges_that_no_scores_say_run_as_they_are() -> None:
    root = llama2_json()
    del root["model"]["merges"][2]
    tokenizer = opened(json.dumps(root), {"add_bos_token": True})
    assert tokenizer.vocabulary is None
    rng = random.Random(2)
    for case in ["hello world", "", " x", *(random_text(rng, 30) for _ in range(50))]:
        ids = tokenizer.encode(case, bos=False)
        assert ids == library(json.dumps(root)).encode(case, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == case
        decoder = StreamDecoder(tokenizer)
        assert "".join([*map(decoder.feed, ids), decoder.finish()]) == case
    assert tokenizer.encode("hello", bos=True)[0] == tokenizer.bos_id == 1
    assert [tokenizer.token_text(i) for i in (1, 3 + 0xE4, 3 + 0x41)] == ["<s>", "<0xE4>", "A"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_merge_that_makes_a_control_token_is_left_out(broken: bool) -> None:
    root = llama2_json()
    vocab, merges = root["model"]["vocab"], root["model"]["merges"]
    for text in ("<", "s>", "s", ">"):
        vocab[text] = len(vocab)
    merges += [["s", ">"], ["<", "s>"]]
    if broken:
        merges.pop(0)
    tokenizer = opened(json.dumps(root))
    assert (tokenizer.vocabulary is None) is broken
    assert 1 not in tokenizer.encode("<s>", bos=False)
    assert tokenizer.decode(tokenizer.encode("<s>", bos=False)) == "<s>"


def test_tokens_that_look_like_control_tokens_cannot_be_typed() -> None:
    for pre_tokenizer in (SMOLLM, UNHEARD_OF):
        text = gpt2_json(pre_tokenizer).replace('"special": true', '"special": false')
        tokenizer = opened(text)
        assert len(tokenizer.encode("<|endoftext|>", bos=False)) > 5
        assert "<|endoftext|>" in tokenizer.special_ids
        assert tokenizer.token_bytes(tokenizer.special_ids["<|endoftext|>"]) == b""


def test_added_tokens_of_the_config_alone() -> None:
    more = {"300": {"content": "<|eot_id|>", "special": True}}
    tokenizer = opened(gpt2_json(SMOLLM), {"added_tokens_decoder": more})
    assert tokenizer.vocab_size == 301
    assert tokenizer.special_ids["<|eot_id|>"] == 300
    assert 300 in tokenizer.stop_ids
    assert tokenizer.decode([290, 300]) == ""  # a hole, and a control token


def test_added_tokens_that_take_the_space_beside_them() -> None:
    root = json.loads(gpt2_json(SMOLLM))
    root["added_tokens"][2]["lstrip"] = True
    tokenizer = opened(json.dumps(root))
    assert tokenizer.vocabulary is None
    assert tokenizer.encode("a  <tool>", bos=False) == library(json.dumps(root)).encode("a  <tool>").ids


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(gpt2_json(SMOLLM)), **changes})


def with_model(**changes: object) -> str:
    root = json.loads(gpt2_json(SMOLLM))
    root["model"] |= changes
    return json.dumps(root)


def nested(depth: int) -> str:
    inner = '{"type": "ByteLevel"}'
    for _ in range(depth):
        inner = '{"type": "Sequence", "pretokenizers": [' + inner + "]}"
    return changed(pre_tokenizer="HERE").replace('"HERE"', inner)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "has no model"),
        (changed(model=[]), "has no model"),
        (changed(added_tokens={"a": 1}), "has no model, or no list of added tokens"),
        (changed(added_tokens=[{"id": -1, "content": "x"}]), "the added token 'x' has the id -1"),
        (changed(added_tokens=[{"id": 10**9, "content": "x"}]), "the added token 'x' has the id 1000000000"),
        (changed(added_tokens=[{"id": 4_000_000, "content": "tool"}]), "with ids up to 4000000"),
        (changed(pre_tokenizer={"type": "Sequence", "pretokenizers": 3}), "no list of pretokenizers"),
        (nested(20_000), "not JSON|nested too deeply"),
        (changed(pre_tokenizer=3), "where a step of its pipeline should be"),
        (changed(decoder={"type": "WordPiece"}), "decodes with WordPiece, expected"),
        (changed(decoder=None), "decodes with nothing"),
        (changed(pre_tokenizer={"type": "Unheard"}), "the tokenizers library does not take tokenizer.json"),
        (with_model(vocab=None), "has no vocabulary"),
        (with_model(vocab={"a": 0, "b": 0}), "token 'b' in tokenizer.json has the id 0"),
        (with_model(vocab={"a": "0"}), "token 'a' in tokenizer.json has the id 0"),
        (with_model(vocab={"a": True}), "has the id True"),
        (with_model(vocab={"日": 0}), "'日' in tokenizer.json is not in GPT-2's byte characters"),
        (with_model(merges=["a"]), "merge 0 is 'a'"),
        (with_model(merges=[["a", "b", "c"]]), "merge 0 is 'a b c'"),
        (with_model(merges=[["a", 3]]), "no list of pairs"),
        (with_model(merges=["a b", 3]), "no list of pairs"),
        (with_model(merges={"a": "b"}), "no list of pairs"),
        (with_model(continuing_subword_prefix="#" * 9), "marks continued words"),
        (with_model(type="Unigram", vocab=[[["a"], 1]]), "the tokenizers library does not take"),
        (with_model(type="WordLevel"), "the tokenizers library does not take"),
    ],
)
def test_files_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        opened(text)
    assert "\n" not in str(caught.value)


def test_a_text_that_the_library_refuses() -> None:
    root = json.loads(gpt2_json(UNHEARD_OF))
    root["model"] = {"type": "WordLevel", "vocab": {"hello": 0}, "unk_token": "[missing]"}
    root["added_tokens"] = []
    tokenizer = opened(json.dumps(root))
    assert tokenizer.encode("hello", bos=False) == [0]
    with pytest.raises(TokenizerError, match="the tokenizers library does not encode this text"):
        tokenizer.encode("goodbye", bos=False)


@pytest.mark.parametrize("pre_tokenizer", [SMOLLM, UNHEARD_OF])
def test_mutated_files(pre_tokenizer: dict[str, Any]) -> None:
    data = gpt2_json(pre_tokenizer).encode()
    rng = random.Random(11)
    outcomes = [survives(opened, mutated(data, rng)) for _ in range(300)]
    assert not all(outcomes)
    llama2 = json.dumps(llama2_json(), ensure_ascii=False).encode()
    for _ in range(200):
        survives(opened, mutated(llama2, rng))


def test_values_of_other_types() -> None:
    """Every value of the file in turn becomes something else."""
    root = json.loads(gpt2_json(UNHEARD_OF))
    root["model"]["vocab"] = dict(list(root["model"]["vocab"].items())[:3])
    root["model"]["merges"] = root["model"]["merges"][:1]
    for other in (None, 3, -1, "x", [], {}, [[]], 1e308):
        for changed_root in replaced(root, other):
            survives(opened, json.dumps(changed_root).encode())


def replaced(value: Any, other: object) -> list[Any]:
    if isinstance(value, dict):
        return [other, *({**value, k: new} for k, v in value.items() for new in replaced(v, other))]
    if isinstance(value, list):
        return [other, *([*value[:i], new, *value[i + 1 :]] for i, v in enumerate(value) for new in replaced(v, other))]
    return [other]
