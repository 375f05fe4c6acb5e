"""A comparison's figures: medians and spread, the peers' best setting, shares of the machine's ceilings, tables.

No engine runs here and no file is read or written.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pronk.model.speed import Workload

OURS = "pronk"
REFERENCE = "float reference"
PERPLEXITY_BAR = 1e-3  # what a type's arithmetic may change of the float reference's perplexity

Unit = Literal["tokens/s", "seconds", "perplexity"]


def flags(workload: Workload) -> list[str]:
    """What every engine's bench is asked with."""
    sizes = {"-p": workload.prompt, "-n": workload.decode, "-d": workload.depth, "-b": workload.sequences}
    return [word for flag, size in sizes.items() for word in (flag, str(size))]


@dataclass(frozen=True)
class Measured:
    """One engine's values, round by round, and its processes' peak memory; `failure` says why it has none."""

    values: tuple[float, ...] = ()
    peak_bytes: tuple[int, ...] = ()
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The range as a part of the median."""
        return (max(self.values) - min(self.values)) / self.median


@dataclass(frozen=True)
class Row:
    """One test of one model in every engine. `share` of `ceiling` is ours, where the test has one."""

    row: str
    model: str
    type: str
    test: str
    unit: Unit
    engines: Mapping[str, Measured]
    share: float | None = None
    ceiling: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.row, self.model, self.type, self.test

    @property
    def best_peer(self) -> str | None:
        """The peers' best setting; None where all of them failed."""
        peers = {name: m.median for name, m in self.engines.items() if name not in (OURS, REFERENCE) and m.values}
        better = min if self.unit == "seconds" else max
        return better(peers, key=lambda name: peers[name]) if peers else None

    @property
    def ratio(self) -> float | None:
        """Above 1 ours is better, whatever the unit. None without both sides."""
        if self.best_peer is None or not self.engines[OURS].values:
            return None
        ratio = self.engines[OURS].median / self.engines[self.best_peer].median
        return 1 / ratio if self.unit == "seconds" else ratio

    def facts(self) -> dict[str, Any]:
        """For JSON; `row_of` reads it again."""
        facts = asdict(self)
        if self.unit != "perplexity":
            facts |= {"best_peer": self.best_peer, "ratio": self.ratio}
        return facts


def row_of(facts: Mapping[str, Any]) -> Row:
    own = {name: value for name, value in facts.items() if name not in ("best_peer", "ratio")}
    engines = {
        name: Measured(tuple(m["values"]), tuple(m["peak_bytes"]), m["failure"]) for name, m in own["engines"].items()
    }
    return replace(Row(**own), engines=engines)


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """A test measured again takes the place of its old row."""
    rows = {row.key: row for row in old}
    return list((rows | {row.key: row for row in new}).values())


# --- tables ---


def tables(rows: Iterable[Row]) -> str:
    """Markdown: speeds, then the first token, then perplexity, each where there is one."""
    rows = list(rows)
    parts = []
    speeds = [row for row in rows if row.unit == "tokens/s"]
    if speeds:
        head = ["model", "type", "test", "pronk, tokens/s", "spread", "best peer", "its tokens/s", "spread", "ratio"]
        parts.append(table([*head, "share of the ceiling"], [cells for row in speeds for cells in speed_cells(row)]))
    first = [row for row in rows if row.unit == "seconds"]
    if first:
        head = ["model", "type", "engine", "seconds, whole process", "spread", "peak memory", "pronk's ratio"]
        parts.append(table(head, [cells for row in first for cells in first_token_cells(row)]))
    scored = [row for row in rows if row.unit == "perplexity"]
    if scored:
        head = ["model", "type", REFERENCE, "pronk's arithmetic", "llama.cpp's", f"within {PERPLEXITY_BAR:.1%}"]
        parts.append(table(head, [perplexity_cells(row) for row in scored]))
    return "\n".join(parts)


def table(head: list[str], lines: Iterable[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


def speed_cells(row: Row) -> list[list[str]]:
    """The comparison, and a line for each engine that failed."""
    subject = [row.model, row.type, row.test]
    best, ours = row.best_peer, row.engines[OURS]
    lines = []
    if ours.values or best is not None:
        lines.append([*subject, *_speed(ours), *([best, *_speed(row.engines[best])] if best else ["none", "", ""])])
        lines[0] += [f"**{row.ratio:.2f}**" if row.ratio else "", f"{row.share:.0%} of {row.ceiling}" * bool(row.share)]
    failed = {name: m.failure for name, m in row.engines.items() if m.failure}
    return lines + [[*subject, "", "", name, f"failed: {reason}", "", "", ""] for name, reason in failed.items()]


def _speed(measured: Measured) -> list[str]:
    return [f"{measured.median:.1f}", f"{measured.spread:.0%}"] if measured.values else ["failed", ""]


def first_token_cells(row: Row) -> list[list[str]]:
    ours = row.engines[OURS]
    lines = []
    for name, measured in row.engines.items():
        subject = [row.model, row.type, name]
        if not measured.values:
            lines.append([*subject, f"failed: {measured.failure}", "", "", ""])
            continue
        ratio = f"{measured.median / ours.median:.2f}" if ours.values and name != OURS else ""
        peak = f"{statistics.median(measured.peak_bytes) / 1e9:.2f} GB"
        lines.append([*subject, f"{measured.median:.2f}", f"{measured.spread:.0%}", peak, ratio])
    return lines


def perplexity_cells(row: Row) -> list[str]:
    """Differences of each engine from the reference, as parts of it."""
    cells, kept = [], False
    reference = row.engines[REFERENCE]
    for name, measured in row.engines.items():
        if not measured.values:
            cells.append(f"failed: {measured.failure}")
        elif name == REFERENCE:
            cells.append(f"{measured.median:.4f}")
        elif reference.values:
            difference = measured.median / reference.median - 1
            cells.append(f"{difference:+.3%}")
            kept = abs(difference) <= PERPLEXITY_BAR if name == OURS else kept
        else:
            cells.append("")
    cells += [""] * (3 - len(cells))  # llama.cpp is not installed
    return [row.model, row.type, *cells, "yes" if kept else "no"]
