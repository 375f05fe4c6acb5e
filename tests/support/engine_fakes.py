"""A model that returns chosen logits, and a tokenizer of bytes: enough to test an engine without weights."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.model.batch import Batch
from pronk.text import tiktoken_file
from pronk.text.tokenizer import Tokenizer
from pronk.text.tokenizers import build_tokenizer
from pronk.text.vocabulary import Vocabulary

STOP = 256
SMALL = ModelConfig(
    dim=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, ffn_dim=8, vocab_size=257, context_length=256
)


class ByteTokenizer:
    """256 bytes and one stop token, "<stop>"."""

    vocab_size = 257
    bos_id: int | None = None
    stop_ids = frozenset({STOP})
    special_ids: Mapping[str, int] = {"<stop>": STOP}
    vocabulary: Vocabulary | None = None

    def encode(self, text: str, *, bos: bool, special: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == STOP else bytes([token_id])

    def token_text(self, token_id: int) -> str:
        return "<stop>" if token_id == STOP else chr(token_id)


class FakeCache:
    """Tokens where a real cache has keys and values, (pages, block); -1 where nothing was written. As a real value
    does, `history` depends on all tokens up to that place."""

    def __init__(self, pages: int, block: int) -> None:
        self.tokens = np.full((pages, block), -1, np.int32)
        self.history = np.zeros((pages, block), np.int64)


class FakeOps:
    def cache(self, config: ModelConfig, blocks: int, block: int, kv_type: str) -> FakeCache:
        return FakeCache(blocks, block)


class FakeModel:
    """Logits are a function of the tokens found in the cache's pages, so a wrong page, slot or position shows.

    `logits_of(ids)` gives a row (V) for a sequence that ends in ids[-1].
    """

    def __init__(self, logits_of: Callable[[Sequence[int]], NDArray[np.float32]], config: ModelConfig = SMALL) -> None:
        self.config = config
        self.ops = FakeOps()
        self.logits_of = logits_of
        self.batches: list[Batch] = []

    def forward(self, batch: Batch, cache: Any) -> NDArray[np.float32]:
        self.batches.append(batch)
        block = cache.tokens.shape[1]
        cache.tokens.reshape(-1)[batch.slots] = batch.tokens
        for s, length in enumerate(batch.context_lens):
            self._write_history(cache, batch.block_tables[s], length, batch.query_starts[s + 1] - batch.query_starts[s])
        rows = []
        for row in batch.logit_rows:
            s = int(np.searchsorted(batch.query_starts, row, side="right")) - 1
            position = int(batch.positions[row])
            assert position == batch.context_lens[s] - (batch.query_starts[s + 1] - row)
            pages = batch.block_tables[s, : position // block + 1]
            rows.append(self.logits_of(cache.tokens[pages].reshape(-1)[: position + 1].tolist()))
        return np.array(rows, np.float32).reshape(len(rows), self.config.vocab_size)

    def _write_history(self, cache: FakeCache, pages: NDArray[np.int32], length: int, new: int) -> None:
        """Of a sequence's new tokens; the others have to be there, with the same tokens before them."""
        block, past = cache.tokens.shape[1], 0
        for position in range(length):
            place = pages[position // block], position % block
            past = hash((past, int(cache.tokens[place])))
            if position >= length - new:
                cache.history[place] = past
            else:
                assert cache.history[place] == past, f"position {position} holds what follows another text"


def one_hot(token: int, vocabulary: int = SMALL.vocab_size) -> NDArray[np.float32]:
    logits = np.zeros(vocabulary, np.float32)
    logits[token] = 10
    return logits


def says(text: str, prompt: int) -> FakeModel:
    """After `prompt` tokens it says this text, then stops."""
    return recites([*text.encode(), STOP], prompt)


def recites(script: Sequence[int], prompt: int, config: ModelConfig = SMALL) -> FakeModel:
    """After `prompt` tokens these ids come, the last one again and again."""
    return FakeModel(
        lambda ids: one_hot(script[min(max(len(ids) - prompt, 0), len(script) - 1)], config.vocab_size), config
    )


def tiny_llama3(special: tiktoken_file.Specials = "llama3.1") -> Tokenizer:
    """Llama 3's special tokens over a vocabulary of the 256 bytes: 512 ids."""
    ranks = b"".join(b"%s %d\n" % (base64.b64encode(bytes([b])), b) for b in range(256))
    return build_tokenizer(tiktoken_file.read(ranks, special=special))


def hashed(ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits that depend on every token so far, all bytes but the stop token likely."""
    logits = np.random.default_rng([len(ids), *ids]).normal(size=SMALL.vocab_size).astype(np.float32) * 2
    logits[STOP] -= 2
    return logits
