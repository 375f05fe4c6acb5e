"""How long quantizing takes: pronk and llama.cpp, the same F16 file, the same importance matrix, in turns.

usage: quantizing.py [--types Q4_K_M,IQ2_XXS] [--rounds 3] [--threads N] [--model random:SHAPE:F16 | FILE] [--quick]

Times are of the whole job, from opened file to written file. The importance matrix is made up (uneven, as activations
are), and given to both for each type. The table goes to benchmarks/results/quantizing.md, the samples beside it. Let
nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from peers.llama_quantize import llama_cpp_quantize
from peers.models import model_file

import pronk
from pronk.checkpoints import names
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint
from pronk.native import runtime
from pronk.quantize import recipes
from pronk.quantize.importance import Entry, ImportanceMatrix
from pronk.quantize.quantizer import quantize

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("PRONK_BENCH_DIR", HERE / ".cache"))


def made_up(source: Checkpoint) -> ImportanceMatrix:
    rng = np.random.default_rng(0)
    entries = {}
    for name, tensor in source.tensors.items():
        if len(tensor.shape) > 1 and name != "tok_embeddings.weight":
            width = tensor.shape[-1]
            entries[names.to_gguf(name)] = Entry(
                rng.standard_normal(width) ** 2 * rng.lognormal(size=width) + 0.01, 1.0
            )
    return ImportanceMatrix(entries, ("made up",), 1, 1)


def seconds(source: Checkpoint, mix: str, matrix: ImportanceMatrix, threads: int, *, ours: bool) -> float:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = Path(folder) / "quantized.gguf"
        start = time.perf_counter()
        if ours:
            plan = recipes.plan(recipes.named(mix), source.config, weighted=True)
            quantize(source, path, plan, importance=matrix)
        else:
            llama_cpp_quantize(source, path, mix, matrix, threads)
        return time.perf_counter() - start


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| type | pronk | llama.cpp | ratio |", "|---|---|---|---|"]
    for row in rows:
        ours, theirs = median(row["pronk"]), median(row["llama.cpp"])  # type: ignore[call-overload]
        lines.append(f"| {row['type']} | {ours:.1f} s | {theirs:.1f} s | **{ours / theirs:.2f}** |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="Q4_K_M,IQ2_XXS")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/quantizing.json")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round: tries the script")
    args = parser.parse_args()
    model = args.model or ("random:tiny:F16" if args.quick else "random:llama-3.2-1b:F16")
    path = args.json or (CACHE / "quick-quantizing.json" if args.quick else HERE / "results" / "quantizing.json")
    source = open_checkpoint(str(model_file(model, CACHE)))
    matrix = made_up(source)
    runtime.set_threads(args.threads)
    rows: list[dict[str, object]] = []
    for mix in args.types.split(","):
        row: dict[str, object] = {"type": mix, "pronk": [], "llama.cpp": []}
        for _ in range(args.rounds or (1 if args.quick else 3)):
            for engine in ("pronk", "llama.cpp"):
                took = seconds(source, mix, matrix, args.threads, ours=engine == "pronk")
                row[engine].append(round(took, 2))  # type: ignore[attr-defined]
        rows.append(row)
        print(table([row]), file=sys.stderr)
    facts = {
        "machine": f"{platform.machine()}, {runtime.isa()}, {runtime.usable_cores()} cores",
        "versions": {"pronk": pronk.__version__, "llama-cpp-python": version("llama-cpp-python")},
        "threads": args.threads,
        "model": source.name or source.path.stem,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(rows), encoding="utf-8")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
