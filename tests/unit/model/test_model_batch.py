from __future__ import annotations

import numpy as np

from pronk.model.batch import make_batch


def test_rows_lie_end_to_end_with_their_positions_and_slots() -> None:
    batch = make_batch([([5, 6, 7], 3, [9, 2]), ([8], 0, [4])], block=4)
    assert batch.tokens.tolist() == [5, 6, 7, 8]
    assert batch.positions.tolist() == [3, 4, 5, 0]
    assert batch.slots.tolist() == [9 * 4 + 3, 2 * 4, 2 * 4 + 1, 4 * 4]
    assert batch.query_starts.tolist() == [0, 3, 4]
    assert batch.context_lens.tolist() == [6, 1]
    assert batch.block_tables.tolist() == [[9, 2], [4, 0]]
    assert batch.logit_rows.tolist() == [2, 3]


def test_every_array_is_int32_and_contiguous() -> None:
    batch = make_batch([([5, 6], 0, [0, 1, 2])], block=4)
    for value in vars(batch).values():
        if value is not None:
            assert value.dtype == np.int32
            assert value.flags.c_contiguous


def test_logits_are_asked_for_where_they_are_wanted() -> None:
    chunks = [([1, 2], 0, [0]), ([3, 4, 5], 0, [1]), ([6], 0, [2])]
    assert make_batch(chunks, 4).logit_rows.tolist() == [1, 4, 5]
    assert make_batch(chunks, 4, all_logits=True).logit_rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert make_batch(chunks, 4, wants_logits=[1, 0, 1]).logit_rows.tolist() == [1, 5]
    assert make_batch(chunks, 4, wants_logits=[0, 2, 0]).logit_rows.tolist() == [3, 4]


def test_an_empty_batch_has_shapes_too() -> None:
    batch = make_batch([], 4)
    assert batch.tokens.shape == (0,)
    assert batch.query_starts.tolist() == [0]
    assert batch.block_tables.shape == (0, 1)
