"""The engine over real arithmetic: our kernels give a request the same bits alone, in a batch, with any chunk, and
after a preemption."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.checkpoints.open import open_checkpoint
from pronk.config import ModelConfig
from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.request import Output, Request
from pronk.engine.sampling import SamplingParams
from pronk.model.llama import LlamaModel, load_model
from pronk.tensors import types
from support.random_models import lazy_tensors

CONFIG = ModelConfig(
    dim=256, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=32, ffn_dim=512, vocab_size=300, context_length=256
)


@pytest.fixture(scope="module", params=["cria", "F32", "Q4_0"])
def model(request: pytest.FixtureRequest) -> LlamaModel:
    """The built-in model (Q8_0), and two of random weights."""
    if request.param == "cria":
        checkpoint = open_checkpoint("cria")
        return load_model(checkpoint.config, checkpoint.tensors, make_backend("cpu"))
    rng = np.random.default_rng(3)
    state = {
        name: rng.normal(size=shape).astype(np.float32) * (1.5 / np.sqrt(shape[-1]) if len(shape) == 2 else 1)
        for name, shape in CONFIG.tensor_shapes().items()
    }
    return load_model(CONFIG, lazy_tensors(state, types.by_name(request.param)), make_backend("cpu"))


def answers(model: LlamaModel, requests: list[Request], **changes: Any) -> list[tuple[list[int], list[float | None]]]:
    """Ids, and log probabilities of prompt and answer, of each request."""
    config = EngineConfig(**{"context": 256, "pages": 64, "max_sequences": 8, "token_budget": 256, **changes})
    engine = Engine(model, model.ops.cache(model.config, config.pages, config.block, config.kv_type), None, config)
    fresh = [Request(request.prompt, request.params) for request in requests]
    outputs: dict[str, list[Output]] = {request.id: [] for request in fresh}
    for request in fresh:
        engine.add(request)
    while engine.busy:
        for output in engine.step():
            assert output.error is None
            outputs[output.request_id].append(output)
    if "pages" in changes:
        assert engine.scheduler.preemptions > 0
    return [
        (
            [token for output in outputs[request.id] for token in output.ids],
            [s.logprob for output in outputs[request.id] for s in (*output.prompt_logprobs, *output.logprobs)],
        )
        for request in fresh
    ]


def make_requests() -> list[Request]:
    rng = np.random.default_rng(8)
    requests = []
    for length, answer in ((3, 40), (70, 30), (1, 60), (129, 20), (33, 33)):
        params = SamplingParams(
            temperature=0, max_tokens=answer, logprobs=0, prompt_logprobs=0 if length > 50 else None
        )
        requests.append(Request(tuple(rng.integers(0, 300, length).tolist()), params))
    requests.append(Request(requests[1].prompt, SamplingParams(temperature=1.0, top_p=1.0, seed=9, max_tokens=30)))
    return requests


def test_the_bits_are_the_same_alone_in_a_batch_and_in_any_chunks(model: LlamaModel) -> None:
    requests = make_requests()
    alone = [answers(model, [request])[0] for request in requests]
    assert len({tuple(ids) for ids, _ in alone}) == len(requests)
    for changes in ({}, {"token_budget": 8}, {"token_budget": 37}, {"max_sequences": 3}, {"pages": 10, "block": 16}):
        assert answers(model, requests, **changes) == alone, changes
    assert answers(model, requests[::-1]) == alone[::-1]


def test_the_bits_are_the_same_when_a_prompt_is_found_in_the_cache(model: LlamaModel) -> None:
    """The beginning read by another request, in other chunks; the same prompt at the same time; an answer gone on."""
    ids = np.random.default_rng(4).integers(0, 300, 120).tolist()
    params = SamplingParams(temperature=0, max_tokens=12, logprobs=0)
    prompts = [ids[:100], ids[:100], [*ids[:64], 7, 8, 9], ids, ids[:33]]
    requests = [Request(tuple(prompt), params) for prompt in prompts]
    alone = [answers(model, [request])[0] for request in requests]
    assert answers(model, requests, token_budget=48) == alone
    assert answers(model, requests, token_budget=48, max_sequences=1) == alone
    assert answers(model, [*requests, *requests], kept_pages=3) == [*alone, *alone]
