"""The tokens of a tokenizer.json, read and checked, whatever pipeline the file holds around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pronk.errors import TokenizerError
from pronk.text.vocabulary import MAX_TOKENS, TokenKind, looks_like_control, stop_set

Json = dict[str, Any]
# What a file without a tokenizer_config.json most likely means by its own control tokens.
_USUAL = {"bos_token": ("<s>", "<|begin_of_text|>"), "eos_token": ("</s>", "<|end_of_text|>"), "unk_token": ("<unk>",)}


@dataclass(frozen=True)
class JsonTokens:
    """The tokens of a tokenizer.json in id order, with the ids that have a role."""

    texts: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    added: frozenset[int]  # written in the file as people type them, not in the model's alphabet
    plain: bool  # no added token swallows the spaces around it or wants to be a whole word
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    pad_id: int | None
    add_bos: bool

    @property
    def stop_ids(self) -> frozenset[int]:
        return stop_set((text.encode(errors="replace") for text in self.texts), self.eos_id)

    @property
    def control_texts(self) -> frozenset[str]:
        pairs = zip(self.texts, self.kinds, strict=True)
        return frozenset(text for text, kind in pairs if kind is TokenKind.CONTROL)

    def roles(self) -> dict[str, Any]:
        names = ("bos_id", "eos_id", "unknown_id", "pad_id", "add_bos", "stop_ids")
        return {name: getattr(self, name) for name in names}


def parse(json_text: str | bytes) -> Json:
    """The file as Python data, with a model. Raises TokenizerError."""
    try:
        root = json.loads(json_text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"tokenizer.json is not JSON: {str(error)[:120]}") from None
    model = root.get("model") if isinstance(root, dict) else None
    if not isinstance(model, dict) or not isinstance(root.get("added_tokens") or [], list):
        raise TokenizerError("tokenizer.json has no model, or no list of added tokens; it is damaged or another file")
    return dict(root)


def merge_lines(model: Json) -> list[str]:
    """The merges as "left right": older files have them so, newer ones as pairs. Raises TokenizerError."""
    merges = model.get("merges") or []
    kinds = set(map(type, merges)) if isinstance(merges, list) else {dict}
    try:
        if kinds <= {list}:
            return list(map(" ".join, merges))
        if kinds <= {str}:
            return list(merges)
    except TypeError:
        pass
    raise TokenizerError("the merges in tokenizer.json are no list of pairs of tokens; it is damaged")


def merge_pairs(model: Json) -> list[tuple[str, str]]:
    """The merges as pairs. Raises TokenizerError where a piece has a space in it, which nothing here makes."""
    pairs = []
    for number, line in enumerate(merge_lines(model)):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise TokenizerError(f"merge {number} in tokenizer.json is {line[:60]!r}, expected two tokens")
        pairs.append((left, right))
    return pairs


def read_tokens(root: Json, config: Mapping[str, Any]) -> JsonTokens:
    """The tokens of a parsed file. Raises TokenizerError where they contradict each other."""
    texts, kinds = _model_tokens(root["model"])
    added = _added_tokens(root, config)
    for token_id, entry in added.items():
        texts[token_id] = entry["content"]
        special = entry.get("special") or looks_like_control(entry["content"].encode(errors="replace"))
        kinds[token_id] = TokenKind.CONTROL if special else TokenKind.USER_DEFINED
    index = {text: i for i, text in texts.items()}
    if len(index) != len(texts):
        raise TokenizerError("tokenizer.json gives one text to two tokens; it is damaged")
    size = max(texts, default=-1) + 1
    if not 0 < size <= min(MAX_TOKENS, 2 * len(texts) + 65536):
        raise TokenizerError(f"tokenizer.json has {len(texts)} tokens with ids up to {size - 1}; it is damaged")

    def role(name: str) -> int | None:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if name in config:
            return index.get(value) if isinstance(value, str) else None
        known = (index[text] for text in _USUAL.get(name, ()) if text in index)
        return next((i for i in known if kinds[i] is TokenKind.CONTROL), None)

    unknown = root["model"].get("unk_token")
    unknown_id = index.get(unknown) if isinstance(unknown, str) else role("unk_token")
    flags = ("lstrip", "rstrip", "single_word")
    bos_id = role("bos_token")
    return JsonTokens(
        texts=tuple(texts.get(i, f"[UNUSED_{i}]") for i in range(size)),
        kinds=tuple(kinds.get(i, TokenKind.UNUSED) for i in range(size)),
        added=frozenset(added),
        plain=not any(entry.get(flag) for entry in added.values() for flag in flags),
        bos_id=bos_id,
        eos_id=role("eos_token"),
        unknown_id=unknown_id,
        pad_id=role("pad_token"),
        add_bos=bos_id is not None and _adds_bos(root, config, index, bos_id),
    )


def _model_tokens(model: Json) -> tuple[dict[int, str], dict[int, TokenKind]]:
    vocab = model.get("vocab")
    if isinstance(vocab, list):  # Unigram: [text, score] in id order
        vocab = {str(entry[0]): i for i, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    if not isinstance(vocab, dict):
        raise TokenizerError("the model in tokenizer.json has no vocabulary; it is damaged")
    texts: dict[int, str] = {}
    for text, token_id in vocab.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS or token_id in texts:
            raise TokenizerError(
                f"token {str(text)[:40]!r} in tokenizer.json has the id {str(token_id)[:20]}; it is damaged"
            )
        texts[token_id] = str(text)
    return texts, dict.fromkeys(texts, TokenKind.NORMAL)


def _added_tokens(root: Json, config: Mapping[str, Any]) -> dict[int, Json]:
    """By id. tokenizer_config.json can name more of them than tokenizer.json does."""
    more = config.get("added_tokens_decoder") or {}
    given = root.get("added_tokens") or []
    entries = [(entry.get("id") if isinstance(entry, dict) else None, entry) for entry in given]
    if isinstance(more, Mapping):
        known = [token_id for token_id, _ in entries]
        numbered = ((int(k) if str(k).isdecimal() else k, entry) for k, entry in more.items())
        entries += [(token_id, entry) for token_id, entry in numbered if token_id not in known]
    added: dict[int, Json] = {}
    for token_id, entry in entries:
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS or not isinstance(content, str) or not content:
            raise TokenizerError(
                f"the added token {str(content)[:40]!r} has the id {str(token_id)[:20]}; it is damaged"
            )
        added[token_id] = dict(entry)
    return added


def _adds_bos(root: Json, config: Mapping[str, Any], index: Mapping[str, int], bos_id: int) -> bool:
    """Whether a text starts with bos: the config's word, else what the post-processor does."""
    if isinstance(config.get("add_bos_token"), bool):
        return bool(config["add_bos_token"])
    if str(config.get("tokenizer_class")).startswith(("LlamaTokenizer", "CodeLlamaTokenizer")):
        return True  # their default
    for step in steps(root.get("post_processor"), "processors"):
        single = step.get("single")
        first = single[0] if isinstance(single, list) and single else None
        special = first.get("SpecialToken") if isinstance(first, dict) else None
        if isinstance(special, dict) and index.get(str(special.get("id"))) == bos_id:
            return True
    return False


def steps(part: object, key: str) -> list[Json]:
    """A normalizer, pre-tokenizer, decoder or post-processor as the list of what it does one after the other."""
    if part is None:
        return []
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise TokenizerError(
            f"tokenizer.json has {str(part)[:40]!r} where a step of its pipeline should be; it is damaged"
        )
    if part.get("type") != "Sequence":
        return [part]
    inner = part.get(key)
    if not isinstance(inner, list) or not all(isinstance(step, dict) for step in inner):
        raise TokenizerError(f"a Sequence in tokenizer.json has no list of {key}; it is damaged")
    return [step for one in inner for step in steps(one, key)]
