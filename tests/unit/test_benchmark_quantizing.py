"""What benchmarks/quality.py and quantizing.py build on: other orders of the channels, and runs of the scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.models import reordered
from pronk.backends import make_backend
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.random import random_checkpoint
from pronk.quantize.compare import compare
from support import llama_cpp_encoder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
needs_peer = pytest.mark.skipif(not llama_cpp_encoder.available(), reason="llama-cpp-python is not installed")


def test_another_order_of_the_channels_is_the_same_function() -> None:
    source = random_checkpoint("tiny", "F32")
    other = reordered(source, 1)
    for name in ("tok_embeddings.weight", "layers.1.feed_forward.w2.weight", "layers.1.attention.wq.weight"):
        assert not np.array_equal(other.tensors[name].array(), source.tensors[name].array())
    window = list(np.random.default_rng(0).integers(0, source.config.vocab_size, 64))
    facts = compare(source, [other], make_backend("cpu"), [window])[0].facts()
    assert facts["kl"]["mean"] < 1e-6
    assert facts["perplexity_ratio"] == pytest.approx(1, abs=1e-3)


@needs_peer
def test_times_of_both(tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    command = [sys.executable, str(BENCHMARKS / "quantizing.py"), "--quick", "--types", "Q4_K_M", "--json", str(out)]
    environment = {**os.environ, "PRONK_BENCH_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text(encoding="utf-8"))["rows"][0]
    assert row["type"] == "Q4_K_M"
    assert len(row["pronk"]) == len(row["llama.cpp"]) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gguf", ".json", ".md"]


@needs_peer
def test_costs_of_both_and_of_a_size(tmp_path: Path) -> None:
    texts = [tmp_path / "measured.txt", tmp_path / "read.txt"]
    for path in texts:
        path.write_text("A llama and a fox went to the sea, and it was cold. " * 60, encoding="utf-8")
    model = tmp_path / "cria.gguf"
    cria = open_checkpoint("cria")
    convert(reordered(cria, 0), model, "gguf")
    command = [sys.executable, str(BENCHMARKS / "quality.py"), "--model", str(model), "--types", "Q3_K_M", "--json"]
    command += ["--rows", "mixes,target", "--orders", "2", "--file", str(texts[0]), "--calibration", str(texts[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["rows"], row["order"], row["recipe"], row["by"]) for row in rows] == [
        (kind, order, recipe, by)
        for order in (0, 1)
        for kind, recipe, by in (
            ("mixes", "Q3_K_M", "pronk"),
            ("mixes", "Q3_K_M", "llama.cpp"),
            ("target", "target", "pronk"),
            ("target", "Q3_K_M", "pronk"),
        )
    ]
    assert all(0 < row["kl"] < 1 for row in rows)
    assert rows[0]["bits"] == pytest.approx(rows[1]["bits"])
    assert rows[2]["bits"] <= rows[3]["bits"]
