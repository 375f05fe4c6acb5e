"""Targets: kept, spent, and better spent than evenly; sizes as people write them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.checkpoints.random import random_checkpoint
from pronk.errors import RequestError
from pronk.quantize import quantizer, target, texts
from pronk.quantize.target import Option
from pronk.tensors import types

KINDS = (types.Q4_0, types.Q5_0, types.Q8_0, types.F16)


@pytest.mark.parametrize(
    ("text", "size"), [("3.2GB", 3_200_000_000), ("800 mb", 800_000_000), ("3GiB", 3 << 30), ("12", 12), ("5k", 5000)]
)
def test_sizes(text: str, size: int) -> None:
    assert target.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "3.2 TBs", "-3GB", "0", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(RequestError, match="is no size"):
        target.parse_size(text)


def made_up(seed: int, tensors: int = 4) -> tuple[dict[str, list[Option]], dict[str, float]]:
    dice = np.random.default_rng(seed)
    choices, gains = {}, {}
    for i in range(tensors):
        columns = int(dice.integers(1, 9)) * 256
        errors = np.sort(dice.random(len(KINDS)))[::-1]
        choices[str(i)] = [
            Option(kind, kind.nbytes((columns,)), float(e)) for kind, e in zip(KINDS, errors, strict=True)
        ]
        gains[str(i)] = float(dice.random())
    return choices, gains


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_within_the_budget_and_near_the_best(seed: int) -> None:
    choices, gains = made_up(seed)
    smallest = sum(options[0].nbytes for options in choices.values())
    largest = sum(options[-1].nbytes for options in choices.values())
    budget = smallest + (largest - smallest) * 2 // 5
    chosen = target.choose(choices, gains, budget)

    def cost(picked: dict[str, types.TensorType]) -> tuple[float, int]:
        options = {name: next(o for o in choices[name] if o.type == kind) for name, kind in picked.items()}
        return sum(gains[n] * o.error for n, o in options.items()), sum(o.nbytes for o in options.values())

    all_ways = (dict(zip(choices, way, strict=True)) for way in itertools.product(KINDS, repeat=len(choices)))
    best = min(c for c, size in map(cost, all_ways) if size <= budget)
    found, size = cost(chosen)
    assert size <= budget
    worst, _ = cost(dict.fromkeys(choices, KINDS[0]))
    assert worst - found >= 0.8 * (worst - best)


def test_too_small_a_budget_is_refused() -> None:
    choices, gains = made_up(0)
    with pytest.raises(RequestError, match="in the smallest types that they may have"):
        target.choose(choices, gains, 100)


@pytest.mark.parametrize("share", [0.55, 0.7, 0.95])
def test_the_file_is_no_larger_than_asked_for_and_hardly_smaller(share: float, tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "F16")
    size = int(source.nbytes * share)
    choices = target.options(source, None, kinds=(types.Q8_0, types.F16))
    gains = target.relative_gains(source, None)
    chosen = target.choose(choices, gains, target.budget_of_size(source, size))
    done = quantizer.quantize(source, tmp_path / "a.gguf", target.plan(source, chosen, "target"))
    assert 0.96 * size <= done.nbytes <= size


def test_bits_a_weight_are_kept() -> None:
    source = random_checkpoint("tiny", "F16")
    choices = target.options(source, None, kinds=(types.Q8_0, types.F16))
    chosen = target.choose(choices, target.relative_gains(source, None), target.budget_of_bits(source, 12.0))
    made = quantizer.typed(source, target.plan(source, chosen, "target"))
    assert 11.5 < 8 * made.nbytes / source.config.parameter_count() <= 12.0


def test_what_is_exact_has_no_error_and_every_gain_is_measured() -> None:
    source = random_checkpoint("tiny-tied", "F16")
    choices = target.options(source, None, kinds=(types.Q8_0, types.F16))
    windows = texts.windows(source, "ba be bi bo bu do " * 20, 32, 1)
    gains = target.measured_gains(source, choices, 8.0, None, make_backend("cpu"), windows)
    assert gains.keys() == choices.keys()
    assert all(gain > 0 for gain in gains.values())
    assert all(options[1].error == 0 < options[0].error for options in choices.values())


def test_types_of_least_bits_are_not_chosen_without_an_importance_matrix() -> None:
    source = random_checkpoint("tiny")
    choices = target.options(source, None)
    assert not {o.type for options in choices.values() for o in options} & target.NEED_IMPORTANCE
    assert types.Q8_0 in target.available()
