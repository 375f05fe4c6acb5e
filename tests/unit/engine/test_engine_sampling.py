"""SamplingParams refuses what is out of range; the sampler hands the rest to the kernels as it should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.engine.logprobs import token_logprob
from pronk.engine.sampling import Sampler, SamplingParams
from pronk.errors import PronkError, RequestError


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, expected at least 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "warm"}, "temperature is 'warm', expected a number"),
        ({"top_p": 0}, "top_p is 0, expected more than 0 and at most 1"),
        ({"top_p": 1.01}, r"top_p is 1.01, expected more than 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1, expected at least 0"),
        ({"top_k": 1.5}, "top_k is 1.5, expected a whole number"),
        ({"min_p": 2}, "min_p is 2, expected at least 0 and at most 1"),
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, expected more than 0 and finite"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5, expected at least -2 and at most 2"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3"),
        ({"logit_bias": {-1: 0.0}}, "a token of logit_bias is -1"),
        ({"logit_bias": {7: math.nan}}, "the logit_bias of token 7 is nan, expected any number and finite"),
        ({"logit_bias": {7: math.inf}}, "the logit_bias of token 7 is inf"),
        ({"seed": -1}, "seed is -1, expected at least 0 and at most 18446744073709551615"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"stop": ("",)}, "stop has ''"),
        ({"stop": (3,)}, "stop has 3, expected strings"),
        ({"stop_ids": [-5]}, "a stop id is -5"),
        ({"max_tokens": -1}, "max_tokens is -1, expected at least 0"),
        ({"max_tokens": True}, "max_tokens is True, expected a whole number"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"prompt_logprobs": 0.5}, "prompt_logprobs is 0.5"),
        # what single precision, or a 32-bit number, does not hold
        ({"temperature": 1e39}, r"temperature is more than 1e\+09"),
        ({"temperature": 10**400}, "temperature is more than"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty is 1e-300, expected at least 1e-09"),
        ({"logit_bias": {7: -1e39}}, "the logit_bias of token 7 is more than"),
        ({"top_k": 2**31}, "top_k is more than 2147483647"),
        ({"stop_ids": [2**31]}, "a stop id is more than"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(params: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**params)


def test_one_stop_string_is_not_a_sequence_of_letters() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"], stop_ids={3}).stop_ids == (3,)


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def choose(row: np.ndarray, ids: list[int], prompt: int = 1, **params: Any) -> int:
    return Sampler(SamplingParams(**{"temperature": 0, **params}), ids[:prompt]).choose(row, ids)


def test_greedy_takes_the_first_of_the_largest() -> None:
    assert choose(logits(1, 5, 5, 2), [0]) == 1


def test_repetition_counts_the_prompt_and_presence_does_not() -> None:
    row = logits(3, 2.9, 0)
    assert choose(row, [0], repetition_penalty=1.1) == 1
    assert choose(row, [0], presence_penalty=0.5, frequency_penalty=0.5) == 0
    assert choose(row, [2, 0], presence_penalty=0.5) == 1
    assert choose(row, [2, 0], frequency_penalty=0.05) == 0
    assert choose(row, [2, 0, 0, 0], frequency_penalty=0.05) == 1


def test_a_sampler_counts_tokens_as_they_come() -> None:
    sampler = Sampler(SamplingParams(temperature=0, frequency_penalty=1), [0])
    ids, row = [0], logits(2.5, 1, 0)
    for _ in range(5):
        ids.append(sampler.choose(row, ids))
    assert ids[1:] == [0, 0, 1, 0, 1]
    assert sampler.choose(row, ids) == choose(row, ids, frequency_penalty=1)


def test_bias_forbids_and_prefers() -> None:
    row = logits(3, 2, 1)
    assert choose(row, [0], logit_bias={0: -math.inf}) == 1
    assert choose(row, [0], logit_bias={2: 5}) == 2
    assert row.tolist() == [3, 2, 1]
    with pytest.raises(RequestError, match="no token is left"):
        choose(row, [0], logit_bias=dict.fromkeys(range(3), -math.inf))


def test_cuts_leave_the_likely_tokens() -> None:
    row = logits(*np.log([0.5, 0.3, 0.15, 0.05]))

    def drawn(**params: Any) -> set[int]:
        off = {"temperature": 1, "top_p": 1}
        return {choose(row, [0] * n, seed=n, **{**off, **params}) for n in range(1, 300)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {0, 1}
    assert drawn(top_p=0.7) == {0, 1}
    assert drawn(min_p=0.25) == {0, 1, 2}
    assert drawn(top_p=0.85, temperature=3) == {0, 1, 2}
    assert drawn(top_p=0.85, temperature=3, temperature_first=True) == {0, 1, 2, 3}


def test_draws_follow_the_probabilities() -> None:
    row = logits(*np.log([0.6, 0.3, 0.1]))
    sampler = Sampler(SamplingParams(temperature=1, top_p=1, seed=5), [0])
    counts = np.bincount([sampler.choose(row, [0] * n) for n in range(1, 4001)], minlength=3)
    assert counts / 4000 == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_a_choice_depends_on_seed_and_position_alone() -> None:
    row = logits(*[0.0] * 1000)
    params = SamplingParams(temperature=1, top_p=1, seed=11)
    first, second = Sampler(params, [1]), Sampler(params, [2, 3])
    assert first.choose(row, [1, 2, 3]) == second.choose(row, [2, 3, 9])
    assert first.choose(row, [1, 2, 3]) != first.choose(row, [1, 2, 3, 4])
    free = SamplingParams(temperature=1, top_p=1)
    assert len({Sampler(free, [1]).choose(row, [1]) for _ in range(20)}) > 1


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(PronkError, match="NaN"):
        choose(logits(1, math.nan, 2), [0])


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50), st.integers(0, 8), st.data())
def test_logprobs_are_log_softmax(values: list[float], top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(values) - 1))
    wide = np.array(values, np.float64)
    expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    found = token_logprob(np.array(values, np.float32), token, top)
    assert found.logprob == pytest.approx(expected[token], abs=1e-4)
    order = np.argsort(-wide, kind="stable")[:top]
    assert [i for i, _ in found.top] == order.tolist()
    assert [p for _, p in found.top] == pytest.approx(expected[order].tolist(), abs=1e-4)
