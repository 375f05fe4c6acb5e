"""Hugging Face's `tokenizer.json` and `tokenizer_config.json`, read and written.

A tokenizer.json is a pipeline: normalizer, pre-tokenizer, model, decoder. Two shapes of it are nearly all that Llamas
have, and become a Vocabulary: byte-level BPE with a known way of splitting (Llama 3, SmolLM2), and BPE with byte
fallback that is Llama 2's sentencepiece in other clothes. Anything else runs as it is, on the tokenizers library
(`json_pipeline.py`).

A text must never become a control token by being typed, so tokens that look like control tokens are taken for ones, and
merges that would make one from text are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pronk.errors import TokenizerError
from pronk.text import byte_alphabet
from pronk.text.json_tokens import Json, JsonTokens, merge_lines, merge_pairs, parse, read_tokens, steps
from pronk.text.pre_tokenizers import GPT2_PATTERN, KNOWN, pre_tokenizer
from pronk.text.tokenizer import Tokenizer
from pronk.text.vocabulary import SPACE_PIECE, TokenKind, Vocabulary, byte_value

_SPACE = SPACE_PIECE.decode()


def read(json_text: str | bytes, config: Mapping[str, Any]) -> Vocabulary | Tokenizer:
    """The vocabulary of a tokenizer.json, or the tokenizer itself where it is more than one.

    `config` is tokenizer_config.json, empty where there is none. Raises TokenizerError for a damaged file.
    """
    root = parse(json_text)
    try:
        return _read(root, read_tokens(root, config), json_text)
    except RecursionError:
        raise TokenizerError("tokenizer.json is nested too deeply; it is damaged") from None


def _read(root: Json, tokens: JsonTokens, json_text: str | bytes) -> Vocabulary | Tokenizer:
    model = root["model"]
    source = ("tokenizer.json", json_text.encode(errors="replace") if isinstance(json_text, str) else json_text)
    if model.get("type", "BPE") == "BPE" and tokens.plain and _is_plain_bpe(model):
        vocabulary = _byte_level(root, tokens, source) or _sentencepiece(root, tokens, source)
    else:
        vocabulary = None
    if vocabulary is not None and not _spares_a_space(root):
        return vocabulary
    from pronk.text.json_pipeline import JsonTokenizer

    return JsonTokenizer(root, tokens, vocabulary)


def write(vocabulary: Vocabulary) -> str:
    """The tokenizer.json of a vocabulary. Raises TokenizerError for one that the format cannot say exactly."""
    if vocabulary.source and vocabulary.source[0] == "tokenizer.json":
        return vocabulary.source[1].decode()
    if vocabulary.model == "spm" and (vocabulary.charsmap or vocabulary.unigram):
        raise TokenizerError(
            "a sentencepiece vocabulary with a character map or unigram scores needs a tokenizer.model; write that"
        )
    parts = _written_byte_level(vocabulary) if vocabulary.model == "bpe" else _written_sentencepiece(vocabulary)
    special = (TokenKind.CONTROL, TokenKind.UNKNOWN)
    added = [
        {
            "id": i,
            "content": token.decode(errors="replace").replace(_SPACE, " " if vocabulary.model == "spm" else _SPACE),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind in special,
        }
        for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in (*special, TokenKind.USER_DEFINED)
    ]
    root = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **parts,
        "post_processor": _written_template(vocabulary),
    }
    return json.dumps(root, ensure_ascii=False)


def tokenizer_config(vocabulary: Vocabulary) -> Json:
    """What tokenizer_config.json says beside it; a chat template is the caller's to add."""
    config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # which runs tokenizer.json as it is
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    for name, field in (("bos", "bos_id"), ("eos", "eos_id"), ("unk", "unknown_id"), ("pad", "pad_id")):
        token_id: int | None = getattr(vocabulary, field)
        if token_id is not None:
            config[f"{name}_token"] = vocabulary.tokens[token_id].decode(errors="replace")
    return config


def _is_plain_bpe(model: Json) -> bool:
    return not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))


def _byte_level(root: Json, tokens: JsonTokens, source: tuple[str, bytes]) -> Vocabulary | None:
    model = root["model"]
    pre = _pre_name(steps(root.get("pre_tokenizer"), "pretokenizers"), bool(model.get("ignore_merges")))
    decoders = [step.get("type") for step in steps(root.get("decoder"), "decoders")]
    if pre is None or root.get("normalizer") is not None or decoders != ["ByteLevel"] or model.get("byte_fallback"):
        return None
    raw = [
        byte_alphabet.to_bytes(text) if kind is TokenKind.NORMAL else text.encode(errors="replace")
        for text, kind in zip(tokens.texts, tokens.kinds, strict=True)
    ]
    if not all(raw):
        bad = tokens.texts[next(i for i, token in enumerate(raw) if not token)]
        raise TokenizerError(f"token {bad[:40]!r} in tokenizer.json is not in GPT-2's byte characters; it is damaged")
    roles = tokens.roles()
    roles["unknown_id"] = None  # every text has bytes; a token named there is never made
    return Vocabulary(
        model="bpe",
        tokens=tuple(token for token in raw if token is not None),
        kinds=tokens.kinds,
        pre=pre,
        merges=byte_alphabet.merge_ids(merge_lines(model), tokens.texts, [t or b"" for t in raw], tokens.kinds),
        add_space_prefix=False,
        source=source,
        **roles,
    )


def _pre_name(pipeline: list[Json], ignore_merges: bool) -> str | None:
    """The name of a pre-tokenizer that does what the pipeline does; None where none is known to."""
    patterns: list[str] = []
    for step in pipeline[:-1]:
        pattern = step.get("pattern")
        if step.get("type") == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            patterns.append(str(pattern.get("Regex")) if isinstance(pattern, dict) else "")
        else:
            return None
    last = pipeline[-1] if pipeline else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if last.get("use_regex", True):
        patterns.append(GPT2_PATTERN)
    return next(
        (name for name, pre in KNOWN.items() if pre.patterns == tuple(patterns) and pre.ignore_merges == ignore_merges),
        None,
    )


def _sentencepiece(root: Json, tokens: JsonTokens, source: tuple[str, bytes]) -> Vocabulary | None:
    """The vocabulary where BPE with byte fallback does exactly what sentencepiece would; None where it might not."""
    model = root["model"]
    prefix = _space_prefix(root)
    unknown_id = tokens.unknown_id
    if prefix is None or not model.get("byte_fallback") or unknown_id is None or model.get("ignore_merges"):
        return None
    kinds = list(tokens.kinds)
    kinds[unknown_id] = TokenKind.UNKNOWN
    byte_ids = [i for i, text in enumerate(tokens.texts) if byte_value(text.encode(errors="replace")) is not None]
    for i in byte_ids:
        kinds[i] = TokenKind.BYTE
    texts = [
        text.replace(" ", _SPACE) if i in tokens.added else text for i, text in enumerate(tokens.texts)
    ]  # fmt: skip
    control = tokens.control_texts
    scores = _scores(texts, kinds, [pair for pair in merge_pairs(model) if "".join(pair) not in control])
    if scores is None or len(byte_ids) != 256:
        return None
    return Vocabulary(
        model="spm",
        tokens=tuple(text.encode(errors="replace") for text in texts),
        kinds=tuple(kinds),
        scores=scores,
        add_space_prefix=prefix,
        source=source,
        **tokens.roles(),
    )


def _space_prefix(root: Json) -> bool | None:
    """Whether a space is put in front of a text; None where the pipeline is not one of those that Llama 2 comes in."""
    normalizer = [dict(step) for step in steps(root.get("normalizer"), "normalizers")]
    pre = steps(root.get("pre_tokenizer"), "pretokenizers")
    decoders = [step.get("type") for step in steps(root.get("decoder"), "decoders")]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if not pre and normalizer and normalizer[-1] == replace:
        before = normalizer[:-1]
        prefix = None if before not in ([], [{"type": "Prepend", "prepend": _SPACE}]) else bool(before)
    elif not normalizer and len(pre) == 1 and pre[0].get("type") == "Metaspace" and pre[0].get("split") is False:
        prefix = {"first": True, "always": True, "never": False}.get(str(pre[0].get("prepend_scheme", "always")))
    else:
        return None
    return prefix if decoders == ["Replace", "ByteFallback", "Fuse", *["Strip"] * bool(prefix)] else None


def _spares_a_space(root: Json) -> bool:
    """Whether a text that starts with a space gets no other in front, and texts after a special token none at all.

    Newer files have this Metaspace step; sentencepiece always adds one. The ids are the library's to make then, and the
    vocabulary is for writing other files.
    """
    return any(step["type"] == "Metaspace" for step in steps(root.get("pre_tokenizer"), "pretokenizers"))


def _scores(
    texts: Sequence[str], kinds: Sequence[TokenKind], merges: Sequence[tuple[str, str]]
) -> tuple[float, ...] | None:
    """Scores under which sentencepiece merges in the order of the list; None where no scores do.

    sentencepiece ranks what a merge makes, a list ranks the merges. The two agree when the list has every way of making
    each piece, and all ways of one piece stand together. Where the ways of several pieces are mixed, those must be runs
    of one character (Llama 2's spaces, which have one score) in the order that makes them grow from the left, as
    sentencepiece does among equal scores.
    """
    index = {text: i for i, (text, kind) in enumerate(zip(texts, kinds, strict=True)) if kind is TokenKind.NORMAL}
    made = [index.get(left + right) for left, right in merges]
    ways = sum(text[:cut] in index and text[cut:] in index for text in index for cut in range(1, len(text)))
    if None in made or len(set(merges)) != len(merges) or ways != len(made):
        return None
    last = {token_id: position for position, token_id in enumerate(made)}
    scores = [0.0] * len(texts)  # of pieces that no merge makes, single characters, any score will do
    start = 0
    while start < len(made):
        end = last[made[start]]
        position = start
        while position <= end:
            end = max(end, last[made[position]])
            position += 1
        if len(set(made[start : end + 1])) > 1 and not _grows_from_left(merges[start : end + 1]):
            return None
        for token_id in made[start : end + 1]:
            scores[token_id or 0] = -float(start)
        start = end + 1
    return tuple(scores)


def _grows_from_left(merges: Sequence[tuple[str, str]]) -> bool:
    """Whether merges make runs of one character, longest left half first."""
    one_character = len(set("".join(left + right for left, right in merges))) == 1
    return one_character and list(merges) == sorted(merges, key=lambda pair: (-len(pair[0]), -len(pair[1])))


def _written_byte_level(vocabulary: Vocabulary) -> Json:
    pre = pre_tokenizer(vocabulary.pre)
    normal = [i for i, kind in enumerate(vocabulary.kinds) if kind is TokenKind.NORMAL]
    texts = {i: byte_alphabet.to_text(vocabulary.tokens[i]) for i in normal}
    merges = vocabulary.merges or byte_alphabet.implied_merges(vocabulary.tokens, normal)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": {**byte_level, "use_regex": True},
        "model": _written_model(texts, [[texts[a], texts[b]] for a, b in merges], ignore_merges=pre.ignore_merges),
    }


def _written_sentencepiece(vocabulary: Vocabulary) -> Json:
    texts = {i: token.decode() for i, token in enumerate(vocabulary.tokens)}
    normal = [i for i, kind in enumerate(vocabulary.kinds) if kind is TokenKind.NORMAL]
    best_first = sorted(normal, key=lambda i: -vocabulary.scores[i])
    rank = {texts[i]: i for i in best_first}
    merges = [
        [text[:cut], text[cut:]]
        for text in rank
        for cut in range(1, len(text))
        if text[:cut] in rank and text[cut:] in rank
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    ends, runs = (
        {"type": "Replace", "pattern": {"Regex": regex}, "content": content}
        for regex, content in (("^ +| +$", ""), (" {2,}", " "))
    )
    single = [ends, runs] * vocabulary.remove_extra_whitespaces
    prepend = [{"type": "Prepend", "prepend": _SPACE}] * vocabulary.add_space_prefix
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * vocabulary.add_space_prefix
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    unknown = texts[vocabulary.kinds.index(TokenKind.UNKNOWN)]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*single, *prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            **_written_model(texts, merges, ignore_merges=False),
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": TokenKind.BYTE in vocabulary.kinds,
        },
    }


def _written_model(texts: Mapping[int, str], merges: list[list[str]], *, ignore_merges: bool) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": {text: i for i, text in texts.items()},
        "merges": merges,
    }


def _written_template(vocabulary: Vocabulary) -> Json | None:
    """The post-processor that puts bos in front."""
    if vocabulary.bos_id is None or not vocabulary.add_bos:
        return None
    bos = vocabulary.tokens[vocabulary.bos_id].decode(errors="replace")
    first, second = ({"SpecialToken": {"id": bos, "type_id": i}} for i in (0, 1))
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, second, b],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary.bos_id], "tokens": [bos]}},
    }
