"""One engine, several threads: callers share batches, and who leaves takes its requests along."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pronk.engine.config import EngineConfig
from pronk.engine.engine import Engine
from pronk.engine.interrupts import HeldBack, LetThrough
from pronk.engine.request import Request
from pronk.engine.runner import Runner
from pronk.engine.sampling import SamplingParams
from pronk.errors import RequestError
from support.engine_fakes import ByteTokenizer, FakeCache, FakeModel, hashed


class Bench:
    """A runner, and the parts of it that a test looks into."""

    def __init__(self, model: FakeModel | None = None) -> None:
        config = EngineConfig(context=200, pages=60, max_sequences=8, token_budget=16, block=4)
        self.model = model or FakeModel(hashed)
        self.engine = Engine(self.model, FakeCache(60, 4), ByteTokenizer(), config)
        self.runner = Runner(self.engine)

    def idle(self) -> bool:
        return not self.engine.busy and self.engine.scheduler.pool.free == 60


def ask(prompt: str, **params: Any) -> Request:
    return Request(tuple(prompt.encode()), SamplingParams(**{"temperature": 0, "ignore_eos": True, **params}))


def answer(runner: Runner, *requests: Request) -> list[list[int]]:
    ids: dict[str, list[int]] = {request.id: [] for request in requests}
    for output in runner.run(requests):
        assert output.error is None
        ids[output.request_id] += output.ids
    return [ids[request.id] for request in requests]


def test_several_requests_run_together() -> None:
    bench = Bench()
    together = answer(bench.runner, ask("one", max_tokens=5), ask("two", max_tokens=9))
    assert [len(ids) for ids in together] == [5, 9]
    assert len(bench.model.batches) == 9
    assert together == [
        answer(bench.runner, ask("one", max_tokens=5))[0],
        answer(bench.runner, ask("two", max_tokens=9))[0],
    ]
    assert bench.idle()


def test_a_bad_request_is_refused_before_any_of_them_runs() -> None:
    bench = Bench()
    with pytest.raises(RequestError, match="no tokens"):
        bench.runner.run([ask("fine"), Request(())])
    assert bench.idle()


def test_threads_share_batches_and_get_their_own_answers() -> None:
    bench = Bench()
    prompts = [f"prompt number {i}" for i in range(12)]
    expected = [answer(Bench().runner, ask(prompt, max_tokens=20))[0] for prompt in prompts]
    everyone = threading.Barrier(len(prompts))

    def one(prompt: str) -> list[int]:
        everyone.wait()
        return answer(bench.runner, ask(prompt, max_tokens=20))[0]

    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(one, prompts)) == expected
    assert bench.idle()
    assert max(len(batch.context_lens) for batch in bench.model.batches) > 1


def test_dropping_the_outputs_cancels_at_once() -> None:
    bench = Bench()
    outputs = bench.runner.run([ask("one"), ask("two")])
    next(outputs)
    assert not bench.idle()
    del outputs
    assert bench.idle()
    outputs = bench.runner.run([ask("never read")])
    del outputs
    bench.runner.cancel([])
    assert bench.idle()
    assert len(bench.model.batches) == 1


def test_cancelled_outputs_can_be_read_to_their_end() -> None:
    bench = Bench()
    outputs = bench.runner.run([ask("one"), ask("two", max_tokens=1)])
    next(outputs)
    outputs.cancel()
    assert [output.finish_reason for output in outputs] == ["length", "cancelled"]
    assert bench.idle()


def test_another_thread_can_cancel_while_the_owner_waits() -> None:
    started, bench = threading.Event(), Bench()

    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        started.set()
        return hashed(ids[-3:])

    bench.model.logits_of = logits
    request = ask("endless", max_tokens=190)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [output.finish_reason for output in bench.runner.run([request])])
        assert started.wait(30)
        bench.runner.cancel([request.id])
        assert reading.result(30)[-1] in ("cancelled", "length")
    assert bench.idle()


def test_a_failing_forward_reaches_its_callers_and_leaves_the_runner_usable() -> None:
    bench = Bench()

    def fail(ids: Sequence[int]) -> NDArray[np.float32]:
        raise MemoryError("no room")

    bench.model.logits_of = fail
    (output,) = list(bench.runner.run([ask("x")]))
    assert isinstance(output.error, MemoryError)
    bench.model.logits_of = hashed
    assert len(answer(bench.runner, ask("x", max_tokens=3))[0]) == 3
    assert bench.idle()


def test_an_interrupt_in_a_step_loses_nothing() -> None:
    """Ctrl-C lands in forward: nothing of that step counts, and the next one does its work again."""
    bench = Bench()
    expected = answer(Bench().runner, ask("question", max_tokens=6))[0]
    outputs = bench.runner.run([ask("question", max_tokens=6)])
    found = list(next(outputs).ids)

    def interrupt(ids: Sequence[int]) -> NDArray[np.float32]:
        raise KeyboardInterrupt

    bench.model.logits_of = interrupt
    with pytest.raises(KeyboardInterrupt):
        next(outputs)
    bench.model.logits_of = hashed
    assert found + [token for output in outputs for token in output.ids] == expected
    assert bench.idle()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises in the main thread")
# One that lands in a finaliser is reported and dropped by Python itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_anywhere_leaves_a_usable_runner() -> None:
    """Ctrl-C at random moments, in our own code too: the request goes on or is cancelled, and the pages come back."""
    bench = Bench()
    expected = answer(Bench().runner, ask("question", max_tokens=190))[0]
    chance = random.Random(1)
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for turn in range(120):
            outputs = bench.runner.run([ask("question", max_tokens=190)])
            found: list[int] = []
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.01))
                for output in outputs:
                    found += output.ids
                signal.setitimer(signal.ITIMER_REAL, 0)
            if turn % 2:
                outputs.cancel()
            rest = [token for output in outputs for token in output.ids]
            if not turn % 2:
                lost = len(expected) - len(found) - len(rest)
                assert lost in (0, 1)  # one that was on its way from the iterator to the loop
                assert expected[len(found) + lost :] == rest
            assert bench.idle()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_is_held_back_and_not_lost() -> None:
    reached = []

    def work() -> None:
        with HeldBack():
            with HeldBack():
                signal.raise_signal(signal.SIGINT)
                reached.append("inside")
            reached.append("still inside")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["inside", "still inside"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_let_through_in_the_middle_and_held_back_again() -> None:
    with HeldBack():
        with pytest.raises(KeyboardInterrupt), LetThrough():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), LetThrough():
            pytest.fail("what came before is raised at the start")
    with LetThrough():  # nothing is held back
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_ignores_interrupts_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldBack(), LetThrough():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
