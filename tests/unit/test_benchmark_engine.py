"""benchmarks/engine.py on the built-in model: it runs, and its figures are of what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine.py"


def test_the_rows_on_the_built_in_model(tmp_path: Path) -> None:
    out = tmp_path / "engine.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", "cria", "--rounds", "1", "--json", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ["lookup, repeats", "lookup, strange", "adapters", "masks"]
    drafted, accepted = rows["lookup, repeats"]["drafted, accepted"]
    assert 0 < accepted <= drafted
    for row in ("lookup, repeats", "lookup, strange", "adapters"):
        for figures in rows[row]["figures"].values():
            assert len(figures) == 1
            assert figures[0] > 0
            assert f"| {row} |" in done.stdout
    assert rows["masks"]["JSON schema"]["masks"] > 20
    assert "| masks, Lark |" in done.stdout
