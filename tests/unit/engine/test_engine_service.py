"""The engine in a thread of its own: submitted, delivered, cancelled, beside callers that step by themselves; and what
they get who wait for a thread that is gone."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.request import Output, Request, Usage
from pronk.engine.runner import Runner
from pronk.engine.sampling import SamplingParams
from pronk.engine.service import EngineService
from pronk.errors import EngineStopped, RequestError
from support.engine_fakes import ByteTokenizer, FakeCache, FakeModel, hashed

_PATIENCE = 60  # seconds after which a test fails instead of hanging


class Served:
    """A service over a fake model; `answer` waits for outputs as a caller in another thread would."""

    def __init__(self) -> None:
        config = EngineConfig(context=200, pages=60, max_sequences=8, token_budget=16, block=4)
        self.model = FakeModel(hashed)
        self.engine = Engine(self.model, FakeCache(60, 4), ByteTokenizer(), config)
        self.runner = Runner(self.engine)
        self.service = EngineService(self.runner)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()

    def submit(self, *requests: Request) -> queue.Queue[Output]:
        outputs: queue.Queue[Output] = queue.Queue()
        self.service.submit(requests, outputs.put)
        return outputs


def ask(prompt: str, **params: Any) -> Request:
    return Request(tuple(prompt.encode()), SamplingParams(**{"temperature": 0, "ignore_eos": True, **params}))


def read(outputs: queue.Queue[Output], requests: int = 1) -> list[Output]:
    """All outputs, until so many requests have ended."""
    found = []
    while requests:
        found.append(outputs.get(timeout=_PATIENCE))
        requests -= found[-1].finish_reason is not None
    return found


def ids(outputs: Sequence[Output], request: Request) -> list[int]:
    return [token for output in outputs if output.request_id == request.id for token in output.ids]


def alone(prompt: str, **params: Any) -> list[int]:
    request = ask(prompt, **params)
    with Served() as served:
        return ids(list(served.runner.run([request])), request)


def test_outputs_come_as_they_would_without_a_thread() -> None:
    requests = [ask("one", max_tokens=5), ask("two", max_tokens=9)]
    with Served() as served:
        found = read(served.submit(*requests), 2)
        assert len(served.model.batches) == 9
        assert served.service.stalled_seconds == 0
    assert [ids(found, request) for request in requests] == [alone("one", max_tokens=5), alone("two", max_tokens=9)]


def test_requests_join_while_others_run_and_callers_step_beside_it() -> None:
    """Readers without the service, submitters from several threads: whoever steps, everybody gets their own."""
    prompts = [f"prompt {i}" for i in range(12)]
    expected = [alone(prompt, max_tokens=20) for prompt in prompts]
    answers: dict[str, list[int]] = {}
    everyone = threading.Barrier(len(prompts))

    def one(prompt: str, index: int) -> None:
        request = ask(prompt, max_tokens=20)
        everyone.wait()
        found = read(served.submit(request)) if index % 2 else list(served.runner.run([request]))
        answers[prompt] = ids(found, request)

    with Served() as served:
        threads = [threading.Thread(target=one, args=(prompt, i)) for i, prompt in enumerate(prompts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
        assert [answers.get(prompt) for prompt in prompts] == expected
        assert max(len(batch.context_lens) for batch in served.model.batches) > 1
        assert not served.engine.busy


def test_a_refused_request_takes_its_companions_along() -> None:
    with Served() as served:
        with pytest.raises(RequestError, match="no tokens"):
            served.submit(ask("fine"), Request(()))
        request = ask("twice", max_tokens=190)
        outputs = served.submit(request)
        for again in ([request], [Request((1,), id="same"), Request((2,), id="same")]):
            with pytest.raises(RequestError, match="is taken, expected one that no other request has"):
                served.submit(*again)
        served.service.cancel([request.id])
        assert read(outputs)[-1].finish_reason in ("cancelled", "length")


def gate(served: Served) -> tuple[threading.Event, threading.Event]:
    """(a step has begun, it may go on): the model waits in the middle of its next step."""
    inside, released = threading.Event(), threading.Event()

    def logits(so_far: Sequence[int]) -> NDArray[np.float32]:
        inside.set()
        assert released.wait(_PATIENCE)
        return hashed(so_far)

    served.model.logits_of = logits
    return inside, released


def test_nothing_but_outputs_waits_for_a_step() -> None:
    with Served() as served:
        inside, released = gate(served)
        first, second = ask("first", max_tokens=190), ask("second", max_tokens=190)
        outputs = served.submit(first)
        assert inside.wait(_PATIENCE)
        also = served.submit(second)
        stats = served.service.stats()
        assert (stats.running, stats.waiting, stats.pages_used) == (1, 1, 2)
        assert served.service.stalled_seconds > 0
        served.model.ops.beat = time.monotonic() + 60  # it got further just now, and in the middle of the step
        assert served.service.stalled_seconds < 0
        served.service.cancel([first.id, second.id])
        released.set()
        assert read(outputs)[-1].finish_reason == read(also)[-1].finish_reason == "cancelled"


def test_stats_count_what_was_done() -> None:
    with Served() as served:
        read(served.submit(ask("four", max_tokens=3), ask("sixsix", max_tokens=5)), 2)
        stats = served.service.stats()
        assert (stats.prompt_tokens, stats.completion_tokens, stats.steps, stats.failed_steps) == (10, 8, 5, 0)
        assert (stats.waiting, stats.running, stats.pages, stats.pages_used) == (0, 0, 60, 0)


def test_a_failing_step_ends_only_its_requests() -> None:
    def fail(so_far: Sequence[int]) -> NDArray[np.float32]:
        raise MemoryError("no room")

    with Served() as served:
        served.model.logits_of = fail
        (output,) = read(served.submit(ask("x")))
        assert isinstance(output.error, MemoryError)
        served.model.logits_of = hashed
        assert len(read(served.submit(ask("x", max_tokens=3)))) == 3
        assert served.service.alive
        assert served.service.stats().failed_steps == 1


def test_a_request_that_cannot_be_taken_in_gets_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its check has passed, so it is queued; nobody must wait for it, and the others go on."""
    with Served() as served:
        add = served.engine.add
        bad, good = ask("bad", max_tokens=3), ask("good", max_tokens=3)
        monkeypatch.setattr(served.engine, "add", lambda request: death() if request is bad else add(request))
        found = read(served.submit(bad, good), 2)
        (lost,) = [output for output in found if output.request_id == bad.id]
        assert (lost.finish_reason, lost.usage) == ("error", Usage(3, 0))
        assert isinstance(lost.error, AssertionError)
        assert len(ids(found, good)) == 3
        assert served.service.alive


def test_a_receiver_that_fails_loses_its_own_request_only(caplog: pytest.LogCaptureFixture) -> None:
    def broken(output: Output) -> None:
        raise RuntimeError("the event loop is closed")

    with Served() as served, caplog.at_level(logging.CRITICAL):
        served.service.submit([ask("bad")], broken)
        request = ask("good", max_tokens=6)
        assert ids(read(served.submit(request)), request) == alone("good", max_tokens=6)
    assert not served.engine.busy


def test_close_cancels_what_runs_and_refuses_what_comes() -> None:
    with Served() as served:
        inside, released = gate(served)
        outputs = served.submit(ask("endless"), ask("waiting"))
        assert inside.wait(_PATIENCE)
        closing = threading.Thread(target=served.service.close)
        closing.start()
        released.set()
        closing.join(_PATIENCE)
        assert [o.finish_reason for o in read(outputs, 2) if o.finish_reason] == ["cancelled", "cancelled"]
        assert not served.service.alive
        with pytest.raises(EngineStopped, match="the engine was stopped; load the model again"):
            served.submit(ask("late"))
        assert not served.engine.busy
        served.model.logits_of = hashed
        assert len(list(served.runner.run([ask("without the service", max_tokens=2)]))) == 2


def death(*_: object) -> Any:
    raise AssertionError("a bug of ours")


@pytest.mark.parametrize("where", [lambda engine: engine.scheduler, lambda engine: engine], ids=["schedule", "outputs"])
def test_an_unexpected_death_is_told_to_all_who_wait(
    where: Callable[[Engine], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Served() as served, caplog.at_level(logging.CRITICAL + 1):
        inside, released = gate(served)
        outputs = served.submit(ask("running"))
        assert inside.wait(_PATIENCE)
        more = served.submit(ask("waiting"))
        broken = where(served.engine)
        monkeypatch.setattr(broken, "schedule" if broken is served.engine.scheduler else "take_outputs", death)
        released.set()
        for lost in (read(outputs)[-1], read(more)[-1]):
            assert lost.finish_reason == "error"
            assert isinstance(lost.error, EngineStopped)
            assert "a bug of ours" in str(lost.error)
        assert not served.service.alive
        with pytest.raises(EngineStopped, match="a bug of ours"):
            served.submit(ask("late"))
        served.service.close()
        own = served.runner.run([ask("late too")])
        with pytest.raises(AssertionError, match="a bug of ours"):  # who steps by themselves see the bug itself
            next(own)
        monkeypatch.undo()


def test_a_service_that_nobody_holds_ends_its_thread() -> None:
    served = Served()
    outputs = served.submit(ask("short", max_tokens=2))
    read(outputs)
    thread = served.service._thread
    del served
    gc.collect()
    thread.join(_PATIENCE)
    assert not thread.is_alive()
