"""An engine whose model says random tokens and likes to come to an end: what grammars are tried on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jsonschema_rs
import numpy as np
from numpy.typing import NDArray

from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.grammar import Grammar
from pronk.engine.request import Output, Request
from pronk.engine.sampling import SamplingParams
from support.engine_fakes import SMALL, ByteTokenizer, FakeCache, FakeModel

ENDING = b'"}])0<>;'
_BYTES = ByteTokenizer()
Answer = tuple[str, Output, list[int]]


def eager(ids: Sequence[int], tokenizer: Any = None, script: Sequence[int] = ()) -> NDArray[np.float32]:
    """Logits that depend on every token, the `script` first: it comes where it may. A prompt is one token."""
    tokenizer = tokenizer or _BYTES
    rng = np.random.default_rng([len(ids), *ids])
    logits = rng.normal(size=tokenizer.vocab_size).astype(np.float32) * 2
    logits[endings(tokenizer)] += 5
    if len(ids) <= len(script):
        logits[script[len(ids) - 1]] += 100
    return logits


@lru_cache
def endings(tokenizer: Any) -> list[int]:
    """Stops, and single bytes that close what a grammar has opened."""
    texts = enumerate(map(tokenizer.token_bytes, range(tokenizer.vocab_size)))
    return [token for token, data in texts if token in tokenizer.stop_ids or (len(data) == 1 and data in ENDING)]


def fake_engine(tokenizer: Any = None, pages: int = 400, script: Sequence[int] = ()) -> Engine:
    """Of bytes and a stop token, or of another tokenizer's ids."""
    tokenizer = tokenizer or _BYTES
    config = EngineConfig(context=400, pages=pages, max_sequences=8, token_budget=512, block=4)
    shape = replace(SMALL, vocab_size=tokenizer.vocab_size, context_length=400)
    model = FakeModel(lambda ids: eager(ids, tokenizer, script), shape)
    return Engine(model, FakeCache(config.pages, config.block), tokenizer, config)


def run(engine: Engine, *params: SamplingParams) -> list[Answer]:
    """(text, last output, ids) of requests that run together."""
    requests = [Request((65 + (p.seed or 0) % 26,), p) for p in params]
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[Output]] = {request.id: [] for request in requests}
    while engine.busy:
        for output in engine.step():
            assert output.error is None, output.error
            outputs[output.request_id].append(output)
    found = [outputs[request.id] for request in requests]
    return [("".join(o.text for o in each), each[-1], [i for o in each for i in o.ids]) for each in found]


def sampled(grammar: Grammar, seed: int = 0, **more: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 1, "top_p": 1, "seed": seed, "max_tokens": 300, "grammar": grammar, **more})


def valid(schema: Any, text: str) -> bool:
    return jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(json.loads(text))
