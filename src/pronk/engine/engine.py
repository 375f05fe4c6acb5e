"""Many requests through one model, step by step: schedule, run, postprocess.

Runs over anything that has `config` and `forward(batch, cache)`. Not for several threads at once: `runner.py` is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import accumulate
from time import monotonic
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pronk.config import ModelConfig
from pronk.engine.config import EngineConfig, Speculation
from pronk.engine.generation import Generation
from pronk.engine.grammar import GrammarCompiler
from pronk.engine.interrupts import LetThrough
from pronk.engine.lookup import Lookup
from pronk.engine.request import Output, Request, Usage
from pronk.engine.samplers import Samplers
from pronk.engine.scheduler import Chunk, Scheduler
from pronk.engine.speculation import Proposer, Speculator
from pronk.engine.stats import EngineStats
from pronk.errors import RequestError
from pronk.model.batch import Batch, make_batch
from pronk.model.lora import number_of
from pronk.text.tokenizer import Tokenizer


class Model(Protocol):
    """What the engine needs of a model. Invariant: a row's logits never depend on the other rows of the batch."""

    @property
    def config(self) -> ModelConfig: ...

    def forward(self, batch: Batch, cache: Any) -> NDArray[np.float32]:
        """Logits (R, V) of the batch's logit rows. Writes the batch's keys and values into `cache`."""
        ...


class Engine:
    """`cache` has `config.pages` pages of `config.block` tokens, of the model's own backend. `tokenizer` may be None:
    requests then give ids and no text. `grammars` compiles for this tokenizer; where there is none, one is made.
    `draft` guesses tokens where `config.speculation` asks for one."""

    def __init__(
        self,
        model: Model,
        cache: Any,
        tokenizer: Tokenizer | None,
        config: EngineConfig,
        grammars: GrammarCompiler | None = None,
        *,
        draft: Proposer | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.tokenizer = tokenizer
        self.config = config
        self.adapters: Mapping[str, int] = {}  # names of LoRA adapters that the model carries, numbers in batches
        self.scheduler = Scheduler(config)
        self._samplers = Samplers(tokenizer, grammars)
        # A model's vocabulary may be padded past the tokenizer's; nothing there has a text.
        self._vocabulary = min(model.config.vocab_size, tokenizer.vocab_size if tokenizer else sys.maxsize)
        self._speculator = _speculator(config.speculation, draft, self._vocabulary)
        self._live: dict[str, Generation] = {}
        self._deadlines: dict[str, float] = {}
        self._outputs: list[Output] = []  # not taken yet: an interrupt (Ctrl-C) in a step must lose none
        self._steps = self._failed_steps = 0
        self._prompt_tokens = self._completion_tokens = self._cached_tokens = 0
        self._drafted_tokens = self._accepted_tokens = 0

    @property
    def busy(self) -> bool:
        return bool(self._live)

    def check(self, request: Request) -> None:
        """Raises RequestError for a request that can never run. Changes nothing."""
        if not request.prompt:
            raise RequestError("the prompt has no tokens, expected at least one")
        self._check_context(request)
        if request.adapter is not None:
            number_of(request.adapter, self.adapters)
        if request.params.stop and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer, and this model came with none; use stop_ids")
        self._samplers.check(request.params)
        listed = request.params.allowed_ids or ()
        for what, ids in (
            ("the prompt", request.prompt),
            ("logit_bias", request.params.logit_bias),
            ("allowed_ids", listed),
        ):
            for token in ids:
                if not 0 <= token < self._vocabulary:
                    raise RequestError(f"{what} has token id {token}, the vocabulary ends at {self._vocabulary - 1}")

    def _check_context(self, request: Request) -> None:
        length, capacity = len(request.prompt), self.config.capacity
        if request.slide:
            if capacity < (least := 2 * (self.config.sinks + 1)):
                raise RequestError(
                    f"a context that slides has at least {least} tokens, this one {capacity}; lengthen it"
                )
            if request.params.prompt_logprobs is not None and length >= capacity:
                raise RequestError(
                    f"the prompt has {length} tokens, of which a context of {capacity} that slides drops some, and "
                    "prompt_logprobs are of all; shorten it"
                )
            return
        if length > self.config.context:
            raise RequestError(
                f"the prompt has {length} tokens, the context holds {self.config.context}; "
                "shorten it or ask for a longer context"
            )
        if length > self.config.capacity:
            raise RequestError(
                f"the prompt has {length} tokens, the cache's {self.config.pages} pages hold {self.config.capacity}; "
                "shorten it or ask for more pages"
            )

    def add(self, request: Request) -> None:
        """Queue a request. Raises RequestError as `check` does."""
        self.check(request)
        assert request.id not in self._live, f"{request.id} is already running"
        generation = Generation(request, self.tokenizer, self._vocabulary, self.config, self._samplers)
        if request.adapter is not None:  # the number, for a name may be loaded anew from another file
            generation.sequence.salt = f"adapter {self.adapters[request.adapter]}"
        self.scheduler.add(generation.sequence)
        self._live[request.id] = generation
        if request.deadline is not None:
            self._deadlines[request.id] = request.deadline

    def use(self, model: Model, adapters: Mapping[str, int]) -> None:
        """From the next step on: the same model with other LoRA adapters. Also from another thread in the middle of a
        step. Raises RequestError where a request that has not ended would lose its adapter."""
        for generation in list(self._live.values()):
            check_kept(generation.request, adapters)
        self.model, self.adapters = model, adapters

    def cancel(self, request_id: str) -> Output | None:
        """End a request between steps and free its pages; None for one that has ended or never was."""
        generation = self._live.get(request_id)
        return self._ended(generation.end("cancelled")) if generation else None

    def step(self) -> list[Output]:
        """One forward pass. At most one Output for each request; none for those whose prompt is still being read.

        When the pass fails, the requests in it end with the error and the engine goes on with the others.
        """
        self.run_step()
        return self.take_outputs()

    def run_step(self) -> None:
        """`step`, with its outputs kept until `take_outputs`."""
        self._end_overdue()
        if plan := self.scheduler.schedule():
            self._steps += 1
            plan = self._guess(plan)
            try:
                logits = self._run(plan)
            except Exception as error:
                self._failed_steps += 1
                self._outputs += [self._fail(chunk, error) for chunk in plan]
            else:
                self._postprocess(plan, logits)

    def take_outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def stats(self) -> EngineStats:
        """Also from another thread in the middle of a step; the numbers then are of moments that lie close together."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        return EngineStats(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            pages=pool.count,
            pages_used=pool.count - pool.free,
            pages_cached=pool.idle,
            preemptions=scheduler.preemptions,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=self._cached_tokens,
            failed_steps=self._failed_steps,
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
        )

    @property
    def beat(self) -> float:
        """When the pass last got further, by time.monotonic(); 0 for a backend that does not say."""
        return float(getattr(getattr(self.model, "ops", None), "beat", 0.0))

    def _end_overdue(self) -> None:
        now = monotonic()
        for request_id in [i for i, deadline in self._deadlines.items() if deadline <= now]:
            self._outputs.append(self._ended(self._live[request_id].end("deadline")))

    def _guess(self, plan: list[Chunk]) -> list[Chunk]:
        """The plan with guessed tokens behind those that decode, in what the step has left."""
        if self._speculator is None:
            return plan
        wishes = [self._live[c.sequence.request_id].wish() for c in plan if c.complete and c.end - c.start == 1]
        room = self.config.token_budget - sum(c.end - c.start for c in plan)
        found = self._speculator.propose(wishes, room)
        return [self.scheduler.guess(c, found.get(c.sequence.request_id, ())) for c in plan]

    def _run(self, plan: list[Chunk]) -> list[NDArray[np.float32]]:
        """Logits (wanted rows, V) of each chunk."""
        wanted, adapters = [], []
        for chunk in plan:
            generation = self._live[chunk.sequence.request_id]
            generation.start()
            wanted.append(generation.wanted_rows(chunk))
            adapters.append(self._number(generation.request))
        pieces = [([*c.sequence.ids[c.start : c.end], *c.guessed], c.start, c.sequence.pages) for c in plan]
        batch = make_batch(pieces, self.config.block, wants_logits=wanted, adapters=adapters)
        with LetThrough():
            logits = self.model.forward(batch, self.cache)
        ends = list(accumulate(wanted))
        return [logits[end - count : end] for end, count in zip(ends, wanted, strict=True)]

    def _number(self, request: Request) -> int:
        """Of its adapter; -1 for none."""
        return -1 if request.adapter is None else self.adapters[request.adapter]

    def _postprocess(self, plan: list[Chunk], logits: list[NDArray[np.float32]]) -> None:
        for chunk, rows in zip(plan, logits, strict=True):
            generation = self._live[chunk.sequence.request_id]
            before, right = generation.usage, generation.accepted
            try:
                output = generation.advance(chunk, rows)
            except Exception as error:  # of this request alone: logits that are not finite, an id without text
                self._outputs.append(self._fail(chunk, error))
                continue
            self.scheduler.done(chunk)
            self._count(before, generation.usage, chunk)
            if self._speculator and chunk.guessed:
                right = generation.accepted - right
                self._drafted_tokens += len(chunk.guessed)
                self._accepted_tokens += right
                self._speculator.learn(generation.request.id, len(chunk.guessed), right)
            if output:
                self._outputs.append(self._ended(output) if output.finish_reason else output)
                if generation.full and not output.finish_reason:  # it slides
                    self.scheduler.restart(generation.sequence, generation.slid_ids())

    def _count(self, before: Usage, after: Usage, chunk: Chunk) -> None:
        self._completion_tokens += after.completion_tokens - before.completion_tokens
        if chunk.complete and before.completion_tokens == 0:  # the prompt has been read: this happens once
            self._prompt_tokens += after.prompt_tokens
            self._cached_tokens += after.cached_tokens

    def _fail(self, chunk: Chunk, error: Exception) -> Output:
        return self._ended(self._live[chunk.sequence.request_id].fail(error))

    def _ended(self, output: Output) -> Output:
        self.scheduler.remove(self._live.pop(output.request_id).sequence)
        self._deadlines.pop(output.request_id, None)
        if self._speculator:
            self._speculator.forget(output.request_id)
        return output


def _speculator(config: Speculation | None, draft: Proposer | None, vocabulary: int) -> Speculator | None:
    if config is None:
        return None
    assert (draft is None) == (config.kind == "lookup"), f"speculation is {config.kind!r}, the draft is {draft}"
    proposers: list[Proposer] = [] if config.kind == "draft" else [Lookup()]
    return Speculator(config, proposers + ([draft] if draft else []), vocabulary)


def check_kept(request: Request, adapters: Mapping[str, int]) -> None:
    """Raises RequestError unless the request's adapter is among these."""
    if request.adapter is not None and request.adapter not in adapters:
        raise RequestError(f"the adapter {request.adapter!r} is used by a request that runs; wait for it or cancel it")
