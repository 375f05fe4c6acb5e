"""What the tables of benchmarks/cpu_vs_peers.py say, from figures that are given."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.peers.comparison import (
    OURS,
    REFERENCE,
    Ceilings,
    Measured,
    Row,
    Unit,
    Work,
    Workload,
    merged,
    row_of,
    tables,
    work,
)
from pronk.checkpoints.random import random_checkpoint

FAILED = Measured(failure="it said no")


def row(engines: dict[str, Measured], unit: Unit = "tokens/s", test: str = "pp512") -> Row:
    return Row("prefill", "tiny", "Q4_0", test, unit, engines, 0.5, "int8")


def once(*values: float) -> Measured:
    return Measured(values, (1000,) * len(values))


def test_the_best_peer_is_the_fastest_by_its_median() -> None:
    measured = row({OURS: once(10, 30, 20), "slow": once(1, 99, 2), "fast": once(5, 5, 5), "broken": FAILED})
    assert (measured.best_peer, measured.ratio) == ("fast", 4)


def test_of_seconds_fewer_are_better() -> None:
    measured = row({OURS: once(2), "slow": once(9), "fast": once(3)}, "seconds")
    assert (measured.best_peer, measured.ratio) == ("fast", 1.5)


@pytest.mark.parametrize("unit", ["tokens/s", "seconds"])
@pytest.mark.parametrize("engines", [{OURS: once(2), "peer": FAILED}, {OURS: FAILED, "peer": once(2)}])
def test_an_engine_that_failed_is_a_line_and_no_ratio(engines: dict[str, Measured], unit: Unit) -> None:
    measured = row(engines, unit)
    assert measured.ratio is None
    assert "failed: it said no" in tables([measured])


def test_without_a_peer_there_is_no_ratio() -> None:
    alone = row({OURS: once(2)})
    assert (alone.best_peer, alone.ratio) == (None, None)
    assert "| none |" in tables([alone])


def test_every_line_of_a_table_has_as_many_cells() -> None:
    units: tuple[Unit, ...] = ("tokens/s", "seconds")
    sides = (once(7), once(7, 8), FAILED)
    rows = [row({OURS: ours, "peer": theirs}, unit) for unit in units for ours in sides for theirs in sides]
    rows += [row({REFERENCE: plain, OURS: ours}, "perplexity") for plain in sides for ours in sides]
    for part in tables(rows).split("\n\n"):
        assert len({line.count("|") for line in part.strip().splitlines()}) == 1


@pytest.mark.parametrize(("ours", "kept"), [(7.006, "yes"), (6.994, "yes"), (7.008, "no"), (6.992, "no")])
def test_perplexity_is_kept_within_a_thousandth(ours: float, kept: str) -> None:
    text = tables([row({REFERENCE: once(7), OURS: once(ours), "llama.cpp": once(9)}, "perplexity")])
    assert text.strip().endswith(f"| {kept} |")


def test_a_row_survives_json_and_takes_the_place_of_its_older_self() -> None:
    old, other = row({OURS: once(1), "peer": FAILED}), row({OURS: once(2)}, test="pp2048")
    assert row_of(json.loads(json.dumps(old.facts()))) == old
    new = row({OURS: once(3)})
    assert merged([old, other], [new]) == [new, other]


def test_a_share_is_of_the_lower_ceiling() -> None:
    ceilings = Ceilings(bandwidth=100, int8=1000, float32=200)
    assert Work(bytes=10, operations=50, integer=True).share(5, ceilings) == (0.5, "bandwidth")
    assert Work(bytes=1, operations=50, integer=True).share(10, ceilings) == (0.5, "int8")
    assert Work(bytes=1, operations=50, integer=False).share(2, ceilings) == (0.5, "float32")


@pytest.mark.parametrize("shape", ["tiny", "tiny-tied"])
def test_a_decoded_token_reads_every_matrix_once(shape: str) -> None:
    checkpoint = random_checkpoint(shape, "Q8_0")
    names = {"tok_embeddings.weight"} if shape == "tiny" else set()
    matrices = [t for t in checkpoint.tensors.values() if len(t.shape) == 2 and t.name not in names]
    alone = work(checkpoint, Workload(decode=2, depth=99))
    kv = 100 * 2 * 4 * 4 * 32 * 2  # tokens, keys and values, layers, kv heads, width, bytes
    assert alone == Work(sum(t.nbytes for t in matrices) + kv, 2 * sum(math.prod(t.shape) for t in matrices), True)
    four = work(checkpoint, Workload(decode=2, depth=99, sequences=4))
    assert four.bytes - kv == pytest.approx((alone.bytes - kv) / 4)
    prompt = work(checkpoint, Workload(prompt=2048))
    assert alone.operations - prompt.operations == 2 * 512 * 256  # the output, for the last token alone
    assert prompt.bytes == pytest.approx((alone.bytes - kv) / 512)


def test_workloads_are_called_what_pronk_bench_calls_them() -> None:
    assert Workload(prompt=512).name == "pp512"
    assert Workload(decode=32, depth=2048).name == "tg32 @ d2048"
    assert Workload(decode=32, sequences=4).name == "tg32 x4"
    assert Workload(decode=8, sequences=2).flags == ["-p", "0", "-n", "8", "-d", "0", "-b", "2"]
