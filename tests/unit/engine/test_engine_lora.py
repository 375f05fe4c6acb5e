"""Requests that use adapters: what the model is told of them, and that the cache never mixes them up."""

from __future__ import annotations

from typing import Any

import pytest

from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.request import Request
from pronk.engine.runner import Runner
from pronk.engine.sampling import SamplingParams
from pronk.errors import RequestError
from support.engine_fakes import FakeModel, hashed

PROMPT = tuple(b"once upon a time there was a llama in the mountains")


def engine(**changes: Any) -> Engine:
    config = EngineConfig(**{"context": 128, "pages": 32, "block": 16, **changes})
    made = Engine(FakeModel(hashed), None, None, config)
    made.cache = made.model.ops.cache(made.model.config, config.pages, config.block, "f16")  # type: ignore[attr-defined]
    made.use(made.model, {"poet": 0, "clerk": 3})
    return made


def request(adapter: str | None, prompt: tuple[int, ...] = PROMPT, tokens: int = 2, **more: Any) -> Request:
    return Request(prompt, SamplingParams(temperature=0, max_tokens=tokens), adapter=adapter, **more)


def finish(engine: Engine) -> dict[str, Any]:
    """The last output of each request, by id."""
    last: dict[str, Any] = {}
    while engine.busy:
        for output in engine.step():
            assert output.error is None
            last[output.request_id] = output
    return last


def test_a_batch_says_which_rows_use_which_adapter() -> None:
    made = engine()
    for adapter, prompt in ((None, b"nnn"), ("clerk", b"cc"), ("poet", b"pppp"), ("clerk", b"c")):
        made.add(request(adapter, tuple(prompt)))
    finish(made)
    first, second = made.model.batches  # type: ignore[attr-defined]
    rows = sorted(zip(map(chr, first.tokens), first.adapters.tolist(), strict=True))
    assert rows == [("c", 3)] * 3 + [("n", -1)] * 3 + [("p", 0)] * 4
    assert sorted(second.adapters.tolist()) == [-1, 0, 3, 3]


def test_a_batch_without_adapters_is_as_if_there_were_none() -> None:
    made = engine()
    made.add(request(None))
    finish(made)
    assert [batch.adapters for batch in made.model.batches] == [None, None]  # type: ignore[attr-defined]


def test_an_adapter_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="no adapter 'poett', expected one that is loaded: 'poet', 'clerk'"):
        engine().check(request("poett"))


def test_a_prompt_is_found_in_the_cache_by_those_of_its_adapter_only() -> None:
    made = engine()
    found = []
    for adapter in (None, "poet", "clerk", None, "poet", "clerk"):
        made.add(request(adapter))
        (output,) = finish(made).values()
        found.append(output.usage.cached_tokens)
    assert found == [0, 0, 0, 48, 48, 48]


def test_a_name_that_is_loaded_anew_finds_nothing_of_the_old_one() -> None:
    made = engine()
    made.add(request("poet"))
    finish(made)
    made.use(made.model, {})
    made.use(made.model, {"poet": 4})
    made.add(request("poet"))
    (output,) = finish(made).values()
    assert output.usage.cached_tokens == 0


def test_an_adapter_in_use_stays() -> None:
    made = engine()
    runner = Runner(made)
    outputs = runner.run([request("poet", tokens=8)])
    with pytest.raises(RequestError, match="'poet' is used by a request that runs; wait for it or cancel it"):
        runner.use(made.model, {"clerk": 3})  # it waits
    next(outputs)
    with pytest.raises(RequestError, match="'poet' is used by a request that runs"):
        runner.use(made.model, {"clerk": 3})  # it runs
    runner.use(made.model, {"poet": 0})
    assert [output.finish_reason for output in outputs][-1] == "length"
    runner.use(made.model, {})
    assert made.adapters == {}


def test_a_request_that_was_preempted_goes_on_with_its_adapter() -> None:
    made = engine(pages=6)
    for adapter in ("poet", None, "clerk"):
        made.add(request(adapter, PROMPT[:20], tokens=40))
    finish(made)
    assert made.scheduler.preemptions > 0
    for batch in made.model.batches:  # type: ignore[attr-defined]
        assert batch.adapters is None or len(batch.adapters) == len(batch.tokens)
