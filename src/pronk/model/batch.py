"""One step's work: a ragged batch that may mix chunks of prompts with decoding sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """T tokens of S sequences, laid end to end. All arrays are int32, contiguous, and not written to.

    Sequence s owns rows query_starts[s] .. query_starts[s+1] and, after this step, context_lens[s] tokens in the cache,
    of which its rows are the last. Position p of a sequence lives in page block_tables[s, p // block], row p % block;
    `slots` is that page * block + row for each of the T tokens. `logit_rows` are the rows whose logits are wanted.
    """

    tokens: NDArray[np.int32]  # (T)
    positions: NDArray[np.int32]  # (T)
    slots: NDArray[np.int32]  # (T)
    query_starts: NDArray[np.int32]  # (S + 1)
    context_lens: NDArray[np.int32]  # (S)
    block_tables: NDArray[np.int32]  # (S, blocks), unused entries 0
    logit_rows: NDArray[np.int32]  # (R)
    adapters: NDArray[np.int32] | None = (
        None  # (T) number of each row's LoRA adapter, -1 for none; None: no row has one
    )


@dataclass(frozen=True)
class AdapterRows:
    """The rows of a batch that use one adapter, in order: of its T tokens, and of its R logit rows."""

    number: int
    rows: NDArray[np.int32]
    logit_rows: NDArray[np.int32]


def adapter_rows(batch: Batch) -> tuple[AdapterRows, ...]:
    """One for each adapter that the batch uses."""
    if batch.adapters is None:
        return ()
    wanted = batch.adapters[batch.logit_rows]
    return tuple(
        AdapterRows(
            int(number),
            np.flatnonzero(batch.adapters == number).astype(np.int32),
            np.flatnonzero(wanted == number).astype(np.int32),
        )
        for number in np.unique(batch.adapters)
        if number >= 0
    )


def make_batch(
    chunks: Sequence[tuple[Sequence[int], int, Sequence[int]]],
    block: int,
    *,
    all_logits: bool = False,
    wants_logits: Sequence[int] | None = None,
    adapters: Sequence[int] | None = None,
) -> Batch:
    """A Batch from (new token ids, tokens already cached, pages) for each sequence.

    Logits are asked for at each sequence's last row, or at every row with `all_logits`; `wants_logits` says instead of
    how many of its last rows: 0 for a prompt that goes on in a later step, more than 1 where the prompt is scored.
    `adapters` are the numbers of the sequences' LoRA adapters, -1 for none.
    """
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    rows: list[int] = []
    width = max((len(pages) for _, _, pages in chunks), default=0)
    tables = np.zeros((len(chunks), max(width, 1)), np.int32)
    for s, (ids, cached, pages) in enumerate(chunks):
        span = range(cached, cached + len(ids))
        tokens.extend(ids)
        positions.extend(span)
        slots.extend(pages[p // block] * block + p % block for p in span)
        starts.append(len(tokens))
        tables[s, : len(pages)] = pages
        wanted = len(ids) if all_logits else 1 if wants_logits is None else wants_logits[s]
        rows.extend(range(starts[-1] - wanted, starts[-1]))
    return Batch(
        tokens=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        slots=np.array(slots, np.int32),
        query_starts=np.array(starts, np.int32),
        context_lens=np.array([cached + len(ids) for ids, cached, _ in chunks], np.int32),
        block_tables=tables,
        logit_rows=np.array(rows, np.int32),
        adapters=np.repeat(np.array(adapters, np.int32), np.diff(starts)) if _any(adapters) else None,
    )


def _any(adapters: Sequence[int] | None) -> bool:
    return adapters is not None and any(number >= 0 for number in adapters)
