"""How requests are scheduled; what a model is stands in ModelConfig, what one request wants in SamplingParams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pronk.config import KV_BYTES, KvType, ModelConfig
from pronk.errors import RequestError

DEFAULT_CONTEXT = 8192
_FULL_CONTEXTS = 4  # that the page pool holds by default


SpeculationKind = Literal["lookup", "draft", "both"]


@dataclass(frozen=True)
class Speculation:
    """Whether tokens are guessed, to be checked together in one step. What is said is the same with and without.

    kind: "lookup" guesses what followed the last tokens where they stood before in the request's own text; "draft" asks
        another model; "both" asks it where a lookup finds nothing.
    most: tokens guessed at once for a request; each one's text decides how many it gets, up to here.
    rows: with guesses, a step has at most so many rows besides prompts. Guesses are nearly free while a step waits for
        the weights to be read. By what our CPU kernels read and compute in a second, computing takes as long at 7 rows
        of Q4_K and at 14 of Q8_0; from there on a guess costs what a token of another request costs. Among so many
        requests that decode there are none.
    """

    kind: SpeculationKind = "lookup"
    most: int = 8
    rows: int = 12

    def __post_init__(self) -> None:
        if self.kind not in get_args(SpeculationKind):
            raise RequestError(f"speculation is {self.kind!r}, expected one of {', '.join(get_args(SpeculationKind))}")
        for name, least in (("most", 1), ("rows", 2)):
            if getattr(self, name) < least:
                raise RequestError(f"speculation's {name} is {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True)
class EngineConfig:
    """`context` bounds prompt plus answer of one request, in tokens. A step runs at most `token_budget` tokens of at
    most `max_sequences` requests; the budget is also the longest chunk of a prompt. The cache has `pages` pages of
    `block` tokens each, shared by all requests.

    prefill_chunk: most tokens of prompts in a step that somebody decodes in, for who decodes waits for the whole step.
        More reads prompts faster, less makes streams smoother.
    sinks: first tokens that a request which slides keeps; models put much of their attention there, whatever these
        are, and four suffice (Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks").
    kept_pages: pages of requests that have ended, kept for those that begin alike; None keeps all that nobody needs.
    """

    context: int
    pages: int
    max_sequences: int = 16
    token_budget: int = 512
    block: int = 32
    kv_type: KvType = "f16"
    prefill_chunk: int = 128
    sinks: int = 4
    kept_pages: int | None = None
    speculation: Speculation | None = None

    def __post_init__(self) -> None:
        for name in (
            "context",
            "pages",
            "max_sequences",
            "token_budget",
            "block",
            "prefill_chunk",
            "sinks",
            "kept_pages",
        ):
            value, least = getattr(self, name), int(name not in ("sinks", "kept_pages"))
            if value is not None and value < least:
                raise RequestError(f"{name} is {value}, expected at least {least}")
        if self.token_budget < self.max_sequences:
            raise RequestError(
                f"token_budget {self.token_budget} is less than max_sequences {self.max_sequences}; "
                "every running request needs a token in each step"
            )
        if self.kv_type not in KV_BYTES:
            raise RequestError(f"kv_type is {self.kv_type!r}, expected one of {', '.join(KV_BYTES)}")

    @property
    def capacity(self) -> int:
        """Tokens that one request may hold: the context, or the whole pool where that is smaller."""
        return min(self.context, self.pages * self.block)

    def kv_bytes(self, model: ModelConfig) -> int:
        """Memory of the page pool when all of it has been used; a page that no request used costs none."""
        return self.pages * self.block * model.kv_bytes_per_token(self.kv_type)


def engine_config(
    model: ModelConfig,
    *,
    context: int | None = None,
    pages: int | None = None,
    max_sequences: int = 16,
    token_budget: int = 512,
    block: int = 32,
    kv_type: KvType = "f16",
    prefill_chunk: int = 128,
    speculation: Speculation | None = None,
) -> EngineConfig:
    """The defaults for a model: its own context, or 8192 tokens where it has more; pages for four full contexts (or for
    `max_sequences`, if fewer), and for one of them kept after their requests have ended. Raises RequestError for a
    context longer than the model was made for, and for a type of cache that does not fit it."""
    model.check_kv_type(kv_type)
    if context is None:
        context = min(model.context_length, DEFAULT_CONTEXT)
    elif context > model.context_length:
        raise RequestError(
            f"context is {context} tokens, the model's is {model.context_length}; ask for no more than that"
        )
    whole = max(math.ceil(context / max(block, 1)), 1)
    if pages is None:
        pages = max(min(max_sequences, _FULL_CONTEXTS) * whole, 1)
    return EngineConfig(
        context,
        pages,
        max_sequences,
        token_budget,
        block,
        kv_type,
        prefill_chunk,
        kept_pages=min(whole, pages),
        speculation=speculation,
    )
