"""Guesses from a second, smaller Llama.

It reads the request's text into a cache of its own and goes on by itself, as many tokens as are wanted, for all
requests together. What was guessed wrong is dropped at the next guess, where its text and the request's part. It draws
as the request does, with the same random number at the same place: where both models find the same tokens likely, the
draws are mostly the same too, and not only at temperature 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.engine.blocks import BlockPool
from pronk.engine.config import EngineConfig, engine_config
from pronk.engine.engine import Model
from pronk.engine.interrupts import LetThrough
from pronk.engine.retokenize import Retokenizer
from pronk.engine.sampling import Sampler, SamplingParams
from pronk.engine.speculation import Wish
from pronk.errors import RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel
from pronk.text.tokenizer import Tokenizer

_LONGEST = 64  # tokens that a model is run on for, whatever the ratio of the two vocabularies


class Draft:
    """A Proposer. `cache` has `config.pages` pages of `config.block` tokens, of the model's own backend; a request may
    have `config.capacity` of them, and where it is longer the model sees its newer half.

    Raises RequestError for a model that has another vocabulary when one of the tokenizers is missing.
    """

    def __init__(
        self,
        model: Model,
        cache: Any,
        config: EngineConfig,
        tokenizer: Tokenizer | None,
        target: Tokenizer | None,
        target_vocabulary: int,
    ) -> None:
        """`target` is the tokenizer of the model that the guesses are for, which has `target_vocabulary` ids."""
        self._runner = _Reader(model, cache, config)
        self._tokenizer, self._target = tokenizer, target
        self.same_vocabulary = _same_vocabulary(tokenizer, target, model.config.vocab_size, target_vocabulary)
        self._vocabulary = min(model.config.vocab_size, tokenizer.vocab_size if tokenizer else target_vocabulary)
        self._texts: dict[str, Retokenizer] = {}

    def propose(self, wishes: Sequence[Wish]) -> list[Sequence[int]]:
        if self.same_vocabulary:
            return list(self._runner.run([self._plain(wish) for wish in wishes]))
        texts = [self._texts.get(wish.request_id) or self._text(wish.request_id) for wish in wishes]
        asked = [self._translated(wish, text) for wish, text in zip(wishes, texts, strict=True)]
        answers = self._runner.run([ask for ask in asked if ask])
        found = {ask.request_id: ids for ask, ids in zip(filter(None, asked), answers, strict=True)}
        return [
            text.guess(found.get(wish.request_id, ()))[: wish.count] for wish, text in zip(wishes, texts, strict=True)
        ]

    def forget(self, request_id: str) -> None:
        self._texts.pop(request_id, None)
        self._runner.forget(request_id)

    def _text(self, request_id: str) -> Retokenizer:
        assert self._target is not None
        assert self._tokenizer is not None
        return self._texts.setdefault(request_id, Retokenizer(self._target, self._tokenizer))

    def _plain(self, wish: Wish) -> _Ask:
        p = wish.params
        sampler = Sampler(
            SamplingParams(
                temperature=p.temperature,
                top_k=p.top_k,
                top_p=p.top_p,
                min_p=p.min_p,
                typical_p=p.typical_p,
                temperature_first=p.temperature_first,
                seed=wish.seed,
            ),
            (),
        )
        first = len(wish.ids)
        return _Ask(
            wish.request_id,
            wish.ids,
            wish.count,
            lambda row, done: sampler.choose(row[: self._vocabulary], range(first + done)),
            (),
        )

    def _translated(self, wish: Wish, text: Retokenizer) -> _Ask | None:
        """Its likeliest text: a random number for a token of another vocabulary is none for it."""
        assert self._tokenizer is not None
        ids = text.read(wish.ids)
        if not ids:
            return None
        count = min(text.draft_tokens(wish.count + 1), _LONGEST)
        ends = self._tokenizer.stop_ids | set(self._tokenizer.special_ids.values())
        return _Ask(wish.request_id, ids, count, lambda row, _: int(row[: self._vocabulary].argmax()), ends)


def make_draft(
    model: LlamaModel,
    tokenizer: Tokenizer | None,
    target: Tokenizer | None,
    target_model: ModelConfig,
    config: EngineConfig,
) -> Draft:
    """A draft for an engine of `config`, with a cache of its own: keys and values of a draft are small, always f16."""
    own = engine_config(
        model.config,
        context=min(config.context, model.config.context_length),
        max_sequences=config.max_sequences,
        token_budget=config.token_budget,
        block=config.block,
    )
    cache = model.ops.cache(model.config, own.pages, own.block, own.kv_type)
    return Draft(model, cache, own, tokenizer, target, target_model.vocab_size)


def _same_vocabulary(draft: Tokenizer | None, target: Tokenizer | None, size: int, target_size: int) -> bool:
    """Whether each id is the same token to both."""
    if draft is None or target is None:
        if size != target_size:
            missing = "draft" if draft is None else "model"
            raise RequestError(
                f"the draft has {size} tokens, the model {target_size}, and the {missing} came without a tokenizer to "
                "compare them by; choose a draft of the same vocabulary"
            )
        return True
    if draft.vocab_size != target.vocab_size or dict(draft.special_ids) != dict(target.special_ids):
        return False
    return all(draft.token_bytes(i) == target.token_bytes(i) for i in range(target.vocab_size))


@dataclass
class _Ask:
    """`count` tokens to follow these ids. choose(logits, tokens chosen so far); one of `ends` is the last, left out."""

    request_id: str
    ids: Sequence[int]
    count: int
    choose: Callable[[NDArray[np.float32], int], int]
    ends: Collection[int]


@dataclass(eq=False)
class _Sequence:
    """`read` are the tokens in the cache's pages; the request's ids from `start` on, as far as they were right."""

    start: int = 0
    read: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Run:
    ask: _Ask
    sequence: _Sequence
    ids: list[int]  # the sequence's, with those chosen
    chosen: list[int] = field(default_factory=list)

    @property
    def unread(self) -> list[int]:
        return self.ids[len(self.sequence.read) :]


class _Reader:
    """The model and its pages. A request keeps its pages until others need them, who was asked for longest ago first.

    An interrupt may come in the forward pass: a sequence only says that it has read what is in the cache.
    """

    def __init__(self, model: Model, cache: Any, config: EngineConfig) -> None:
        self._model, self._cache, self._config = model, cache, config
        self._pool = BlockPool(config.pages)
        self._sequences: dict[str, _Sequence] = {}  # asked for longest ago first

    def run(self, asked: Sequence[_Ask]) -> list[list[int]]:
        """The tokens of each. None for a text of which there is more to read than fits into a step: it is read on at
        the next call."""
        runs = [self._begin(ask) for ask in asked]
        going = list(runs)
        while going:
            going = self._step(going)
        return [run.chosen for run in runs]

    def forget(self, request_id: str) -> None:
        if sequence := self._sequences.pop(request_id, None):
            self._pool.give(sequence.pages)

    def _begin(self, ask: _Ask) -> _Run:
        sequence = self._sequences.pop(ask.request_id, None) or _Sequence()
        self._sequences[ask.request_id] = sequence
        capacity, length = self._config.capacity, len(ask.ids)
        ask.count = min(ask.count, max(capacity // 4, 1))
        if not sequence.start < length <= sequence.start + capacity - ask.count:
            sequence.start = max(length - max(capacity // 2, 1), 0)
            sequence.read.clear()
        ids = list(ask.ids[sequence.start :])
        same = _common(sequence.read, ids)
        del sequence.read[min(same, len(ids) - 1) :]  # the last one is computed, for the logits
        return _Run(ask, sequence, ids)

    def _step(self, going: list[_Run]) -> list[_Run]:
        """One forward pass. Returns those that go on."""
        room, parts = self._config.token_budget, list[tuple[_Run, list[int]]]()
        for run in sorted(going, key=lambda run: len(run.unread)):
            part = run.unread[:room]
            if part and self._has_pages(run.sequence, len(run.sequence.read) + len(part), going):
                room -= len(part)
                parts.append((run, part))
        if not parts:
            return []
        whole = [len(part) == len(run.unread) for run, part in parts]
        pieces = [(part, len(run.sequence.read), run.sequence.pages) for run, part in parts]
        batch = make_batch(pieces, self._config.block, wants_logits=list(map(int, whole)))
        with LetThrough():
            logits = self._model.forward(batch, self._cache)
        goes_on = []
        for (run, part), complete, row in zip(parts, whole, accumulate(map(int, whole)), strict=True):
            run.sequence.read += part
            if complete and self._choose(run, logits[row - 1]):
                goes_on.append(run)
        return goes_on

    def _choose(self, run: _Run, row: NDArray[np.float32]) -> bool:
        """Whether there is more to choose."""
        token = run.ask.choose(row, len(run.chosen))
        if token in run.ask.ends:
            return False
        run.chosen.append(token)
        run.ids.append(token)
        return len(run.chosen) < run.ask.count

    def _has_pages(self, sequence: _Sequence, tokens: int, going: list[_Run]) -> bool:
        missing = -(-tokens // self._config.block) - len(sequence.pages)
        busy = {run.ask.request_id for run in going}
        for request_id in [i for i in self._sequences if i not in busy]:
            if missing <= self._pool.free:
                break
            self.forget(request_id)
        if missing > self._pool.free:
            return False
        sequence.pages += self._pool.take(missing)
        return True


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens at their beginning are the same."""
    size, at = min(len(a), len(b)), 0
    while at < size and a[at : at + 64] == b[at : at + 64]:
        at += 64
    while at < size and a[at] == b[at]:
        at += 1
    return min(at, size)
