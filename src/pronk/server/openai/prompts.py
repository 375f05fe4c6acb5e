"""Prompts as OpenAI takes them: a text, a list of texts, token ids, or a list of lists of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pronk.api import Llama
from pronk.errors import TokenizerError
from pronk.server.errors import ApiError
from pronk.server.openai.fields import bad_field
from pronk.server.settings import ServerSettings
from pronk.text.tokenizer import Tokenizer

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Prompt:
    """`given` is the text that the ids come from; None where ids were given."""

    ids: tuple[int, ...]
    given: str | None

    def text(self, tokenizer: Tokenizer) -> str:
        return tokenizer.decode(self.ids) if self.given is None else self.given


def read_prompts(llama: Llama, prompts: Prompts, where: str, settings: ServerSettings) -> list[Prompt]:
    """Raises ApiError 400 for none, too many, or ids that the model has not."""
    items: Sequence[str | Sequence[int]]
    if isinstance(prompts, str):
        items = [prompts]
    elif prompts and isinstance(prompts[0], int):
        items = [cast("Sequence[int]", prompts)]
    else:
        items = cast("Sequence[str | Sequence[int]]", prompts)
    if not 1 <= len(items) <= settings.max_prompts:
        raise bad_field(where, f"has {len(items)} prompts, expected 1 to {settings.max_prompts}")
    return [_read(llama, item, f"{where}[{i}]" if len(items) > 1 else where) for i, item in enumerate(items)]


def _read(llama: Llama, item: str | Sequence[int], where: str) -> Prompt:
    tokenizer = llama.tokenizer
    if isinstance(item, str):
        vocabulary = tokenizer.vocabulary
        try:
            ids = tokenizer.encode(item, bos=vocabulary is None or vocabulary.add_bos)
        except TokenizerError as error:
            raise ApiError(400, str(error), param=where, code="invalid_value") from None
        if not ids:
            raise bad_field(where, "has no tokens, expected at least one")
        return Prompt(tuple(ids), item)
    if not item:
        raise bad_field(where, "has no tokens, expected at least one")
    for token in item:
        if not 0 <= token < tokenizer.vocab_size:
            raise bad_field(where, f"has token id {token}, the vocabulary ends at {tokenizer.vocab_size - 1}")
    return Prompt(tuple(item), None)
