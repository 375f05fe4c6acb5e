"""Vectors of texts: pooled from the states that the logits are made of, whatever the chunks and the texts beside."""

from __future__ import annotations

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.config import ModelConfig
from pronk.errors import RequestError
from pronk.model import embedding as module
from pronk.model.embedding import embed
from pronk.model.llama import LlamaModel, load_model
from support.random_models import lazy_tensors
from support.running import run

CONFIG = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96, vocab_size=128, context_length=256
)
_RNG = np.random.default_rng(5)
STATE = {name: _RNG.normal(size=shape).astype(np.float32) * 0.2 for name, shape in CONFIG.tensor_shapes().items()}
TEXTS = [_RNG.integers(0, 128, length).tolist() for length in (3, 90, 1, 32, 40)]


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return load_model(CONFIG, lazy_tensors(STATE), make_backend("cpu"))


def logits(vectors: np.ndarray) -> np.ndarray:
    return vectors @ STATE["output.weight"].T


def test_a_vector_is_the_states_that_the_logits_are_made_of(model: LlamaModel) -> None:
    last = embed(model, TEXTS, 256, pooling="last", normalize=False, kv_type="f32")
    mean = embed(model, TEXTS, 256, pooling="mean", normalize=False, kv_type="f32")
    assert last.shape == mean.shape == (5, 64)
    assert last.dtype == mean.dtype == np.float32
    for i, text in enumerate(TEXTS):
        expected = run(model, text)
        assert logits(last[i]) == pytest.approx(expected[-1], abs=1e-4)
        assert logits(mean[i]) == pytest.approx(expected.mean(axis=0), abs=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_neither_chunks_nor_neighbours_change_a_vector(
    model: LlamaModel, pooling: module.Pooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = embed(model, TEXTS, 256, pooling=pooling)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    for chunk in (512, 40, 7):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        alone = [embed(model, [text], 256, pooling=pooling)[0] for text in TEXTS]
        assert np.stack(alone) == pytest.approx(together, abs=1e-6)
        assert embed(model, TEXTS, 256, pooling=pooling) == pytest.approx(together, abs=1e-6)
        if pooling == "last":
            assert np.array_equal(np.stack(alone), together)


def test_texts_that_cannot_be_read_are_refused(model: LlamaModel) -> None:
    with pytest.raises(RequestError, match="text 1 has 9 tokens, expected 1 to 8, the context; shorten it"):
        embed(model, [[1], [1] * 9], 8)
    with pytest.raises(RequestError, match="text 0 has 0 tokens, expected 1 to 8, the context; leave it out"):
        embed(model, [[]], 8)
    with pytest.raises(RequestError, match="text 0 has token id 128, the vocabulary ends at 127"):
        embed(model, [[128]], 8)
    with pytest.raises(RequestError, match="pooling is 'first', expected one of mean, last"):
        embed(model, [[1]], 8, pooling="first")  # type: ignore[arg-type]
