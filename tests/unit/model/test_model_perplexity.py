from __future__ import annotations

import math

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.errors import RequestError
from pronk.model import perplexity as module
from pronk.model.llama import LlamaModel, load_model
from pronk.model.perplexity import negative_log_likelihood, perplexity
from support.random_models import Shape, config_of, lazy_tensors, meta_state, random_llama
from support.running import run

pytest.importorskip("torch", reason="the torch extra is not installed")
TOKENS = np.random.default_rng(3).integers(3, 320, 70).tolist()


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    shape = Shape(n_layers=1, context=64)
    return load_model(
        config_of(shape), lazy_tensors(meta_state(random_llama(shape), shape)), make_backend("torch", dtype="float64")
    )


def scores(model: LlamaModel, window: list[int]) -> list[float]:
    """By the definition: from the middle on, each token given all before it."""
    logits = run(model, window).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [-log_p[i, window[i + 1]] for i in range(len(window) // 2, len(window) - 1)]


def test_the_second_half_of_each_window_is_scored(model: LlamaModel) -> None:
    result = perplexity(model, TOKENS, 32)
    expected = scores(model, TOKENS[:32]) + scores(model, TOKENS[32:64])  # the last 6 fill no window
    assert result.tokens == len(expected) == 2 * 15
    assert result.perplexity == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)
    deviation = np.std(expected) / math.sqrt(len(expected) - 1)
    assert result.stderr == pytest.approx(result.perplexity * deviation, rel=1e-4)


def test_bos_takes_the_place_of_each_windows_first_token(model: LlamaModel) -> None:
    expected = scores(model, [1, *TOKENS[1:32]]) + scores(model, [1, *TOKENS[33:64]])
    assert perplexity(model, TOKENS, 32, bos_id=1).perplexity == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)


def test_a_window_longer_than_a_step_is_the_same_sum(model: LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perplexity(model, TOKENS, 33)
    monkeypatch.setattr(module, "_CHUNK", 7)
    chunked = perplexity(model, TOKENS, 33)
    assert chunked.tokens == whole.tokens == 2 * 16
    assert chunked.perplexity == pytest.approx(whole.perplexity, rel=1e-5)


def test_progress_is_told_after_each_window(model: LlamaModel) -> None:
    seen = []
    result = perplexity(
        model, TOKENS, 16, progress=lambda done, total, so_far: seen.append((done, total, so_far.tokens))
    )
    assert seen == [(1, 4, 7), (2, 4, 14), (3, 4, 21), (4, 4, 28)]
    assert result.tokens == 28


def test_what_cannot_be_scored_is_refused(model: LlamaModel) -> None:
    with pytest.raises(RequestError, match="the text has 20 tokens, expected at least 32"):
        perplexity(model, TOKENS[:20], 32)
    with pytest.raises(RequestError, match="a window of 65 tokens, expected 4 to 64"):
        perplexity(model, TOKENS, 65)
    with pytest.raises(RequestError, match="a window of 3 tokens"):
        perplexity(model, TOKENS, 3)


def test_likelihoods_of_large_logits_are_finite() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]], np.float32)
    assert negative_log_likelihood(logits, [2, 1]) == pytest.approx([2000.0, math.log(3)])
