"""What the tables of benchmarks/cpu_vs_peers.py say, from figures that are given."""

from __future__ import annotations

import json

import pytest

from benchmarks.peers.comparison import (
    OURS,
    REFERENCE,
    Measured,
    Row,
    Unit,
    flags,
    merged,
    row_of,
    tables,
)
from pronk.model.speed import Workload

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


def test_every_engine_is_asked_alike() -> None:
    assert flags(Workload(decode=8, sequences=2)) == ["-p", "0", "-n", "8", "-d", "0", "-b", "2"]
    assert flags(Workload(prompt=512, depth=9)) == ["-p", "512", "-n", "0", "-d", "9", "-b", "1"]
