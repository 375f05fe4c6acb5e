"""What a tokenizer is to the rest of pronk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from pronk.text.vocabulary import Vocabulary


class Tokenizer(Protocol):
    """Text to ids and back. Immutable, safe to share between threads.

    `special=False` reads a user's text: "<|eot_id|>" typed by a person becomes ordinary tokens and never id 128009.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer: the whole set, not one eos."""
        ...

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Control tokens by their text, such as "<|eot_id|>"."""
        ...

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens as data, for writing them; None where tokenizer.json has a pipeline that no other format says."""
        ...

    def with_stop_ids(self, ids: Iterable[int]) -> Tokenizer:
        """The same tokenizer with these ids ending an answer too (generation_config.json's list, for instance)."""
        ...

    def encode(self, text: str, *, bos: bool, special: bool = False) -> list[int]:
        """Ids of text. `bos` puts bos_id first (once; ignored where the model has none or starts no text with it).

        Raises TokenizerError for a text that is no Unicode: half of a surrogate pair.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens left out, broken UTF-8 as U+FFFD. Raises TokenizerError for an id out of range.

        sentencepiece's extra space in front of a text is taken back.
        """
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token adds to the text (none for a control token). What streaming is built on."""
        ...

    def token_text(self, token_id: int) -> str:
        """One token as a person should see it, control tokens by name, lone bytes as <0xE4>."""
        ...
