"""What a test of speed consists of. No test asserts a speed."""

from __future__ import annotations

import pytest

from pronk.backends.cpu import CpuBackend
from pronk.checkpoints.random import random_checkpoint
from pronk.errors import RequestError
from pronk.model.llama import LlamaModel, load_model
from pronk.model.speed import Speed, Workload, measure

TINY = random_checkpoint("tiny")


@pytest.mark.parametrize(
    ("workload", "name"),
    [
        (Workload(prompt=512), "pp512"),
        (Workload(decode=32, depth=2048), "tg32 @ d2048"),
        (Workload(prompt=512, decode=128, depth=4, sequences=2), "pp512+tg128 @ d4 x2"),
    ],
)
def test_names(workload: Workload, name: str) -> None:
    assert workload.name == name


def test_a_prompt_is_read_in_chunks_and_tokens_one_by_one() -> None:
    assert list(Workload(prompt=1100, decode=2, depth=3).steps()) == [
        (3, 512),
        (515, 512),
        (1027, 76),
        (1103, 1),
        (1104, 1),
    ]
    assert list(Workload(decode=2).steps()) == [(0, 1), (1, 1)]


def test_samples() -> None:
    speed = Speed(Workload(prompt=1), (1.0, 2.0, 6.0))
    assert (speed.median, speed.mean, speed.deviation) == (2, 3, pytest.approx(7**0.5))
    assert Speed(Workload(prompt=1), (5.0,)).deviation == 0


def test_what_does_not_fit_is_refused_before_it_is_run() -> None:
    model = load_model(TINY.config, TINY.tensors, CpuBackend())
    with pytest.raises(RequestError, match=r"pp500\+tg20 needs 520 tokens, the context holds 512"):
        next(measure(model, [Workload(prompt=4), Workload(prompt=500, decode=20)]))


def test_the_steps_that_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each depth is filled once; each test is warmed up and then run as often as asked."""
    model, steps = load_model(TINY.config, TINY.tensors, CpuBackend()), []
    forward = LlamaModel.forward

    def recorded(self: LlamaModel, batch, cache):  # type: ignore[no-untyped-def]
        steps.append((len(batch.context_lens), int(batch.context_lens[0]), len(batch.tokens)))
        return forward(self, batch, cache)

    monkeypatch.setattr(LlamaModel, "forward", recorded)
    tests = [Workload(prompt=4, depth=2, sequences=2), Workload(decode=3, depth=2, sequences=2), Workload(decode=1)]
    found = list(measure(model, tests, repeats=2))
    assert [speed.workload for speed in found] == tests
    assert all(len(speed.samples) == 2 for speed in found)
    prompt, decode = [(2, 6, 8)], [(2, 3, 2), (2, 4, 2), (2, 5, 2)]
    assert steps == [(1, 2, 2), (1, 2, 2), *prompt * 3, *decode[:2], *decode * 2, *[(1, 1, 1)] * 3]
