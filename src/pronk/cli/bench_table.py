"""The forms that pronk bench prints its rows in.

A row appears as soon as it is measured; only JSON is one object, at the end.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from pronk.cli.progress_bar import human_bytes

Row = dict[str, Any]
# For some fields, the values that rows will have: columns are as wide as the longest.
Plan = Mapping[str, Sequence[str]]

_MARKDOWN = {
    "model": "model",
    "type": "type",
    "bytes": "size",
    "parameters": "params",
    "backend": "backend",
    "isa": "isa",
    "threads": "threads",
    "kv_type": "kv",
    "test": "test",
    "median": "tokens/s",
    "stddev": "std. dev.",
    "limit": "limit",  # this and the next with --roofline
    "share": "share",
}
_NUMBERS = frozenset(("bytes", "parameters", "threads", "median", "stddev", "share"))  # to the right
_WIDTHS = {"type": 7, "bytes": 8, "parameters": 8, "backend": 7, "isa": 8, "median": 10, "stddev": 9, "limit": 9}


@dataclass
class Table:
    """Rows on `out` in one of FORMATS."""

    form: str
    plan: Plan
    out: TextIO
    _rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if self.form in _LINES:
            head, line = _LINES[self.form]
            lines = [*(head(row, self.plan) if len(self._rows) == 1 else ()), line(row, self.plan)]
            print(*lines, sep="\n", file=self.out, flush=True)

    def close(self, facts: Mapping[str, Any]) -> None:
        """`facts` are what holds for all rows; only JSON has a place for them."""
        if self.form == "json":
            print(json.dumps({**facts, "rows": self._rows}, ensure_ascii=False), file=self.out)


def _no_head(row: Row, plan: Plan) -> list[str]:
    return []


def _text(row: Row, plan: Plan) -> str:
    """What tells the rows apart, and their speed."""
    names = [name for name in plan if name == "test" or len(plan[name]) > 1]
    cells = [f"{row[name]!s:<{max(map(len, plan[name]))}}" for name in names[:-1]]
    line = f"{row['test']:<{max(16, *map(len, plan['test']))}} {row['median']:10.2f} tokens/s"
    spread = f"   ({row['min']:.2f} to {row['max']:.2f})"
    return "  ".join([*cells, line + spread + (f"   {row['share']:.0%} of {row['limit']}" if "share" in row else "")])


def _json_line(row: Row, plan: Plan) -> str:
    return json.dumps(row, ensure_ascii=False)


def _csv_head(row: Row, plan: Plan) -> list[str]:
    return [_csv(row)]


def _csv_line(row: Row, plan: Plan) -> str:
    return _csv({**row, "samples": " ".join(map(str, row["samples"]))}.values())


def _csv(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _markdown_head(row: Row, plan: Plan) -> list[str]:
    names = {name: title for name, title in _MARKDOWN.items() if name in row}
    rules = {name: "-" * (_width(name, plan) - 1) + (":" if name in _NUMBERS else "-") for name in names}
    return [_markdown(names, plan), _markdown(rules, plan)]


def _markdown_line(row: Row, plan: Plan) -> str:
    return _markdown({name: _cell(name, row[name]) for name in _MARKDOWN if name in row}, plan)


def _markdown(cells: Mapping[str, str], plan: Plan) -> str:
    padded = (f"{text:{'>' if name in _NUMBERS else '<'}{_width(name, plan)}}" for name, text in cells.items())
    return f"| {' | '.join(padded)} |"


def _width(name: str, plan: Plan) -> int:
    return max(len(_MARKDOWN[name]), _WIDTHS.get(name, 0), *map(len, plan.get(name, [""])))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "bytes":
        return human_bytes(value)
    if name == "parameters":
        return f"{value / 1e9:.2f} B" if value >= 1e9 else f"{value / 1e6:.2f} M"
    if name == "share":
        return f"{value:.0%}"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")


_LINES: dict[str, tuple[Callable[[Row, Plan], list[str]], Callable[[Row, Plan], str]]] = {
    "text": (_no_head, _text),
    "md": (_markdown_head, _markdown_line),
    "csv": (_csv_head, _csv_line),
    "jsonl": (_no_head, _json_line),
}
FORMATS = (*_LINES, "json")
