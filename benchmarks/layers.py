"""Speed of the layer kernels: attention (decoding in GB/s of keys and values, prefill in GFLOP/s) and sampling.

    python benchmarks/layers.py [--json FILE]

Heads as in Llama 3.2 1B: 32 query heads, 8 key/value heads of width 64, float16 pages. The best of several runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pronk.model.batch import make_batch
from pronk.native import layers, runtime, sampling

HEADS, KV_HEADS, WIDTH, BLOCK = 32, 8, 64, 32


def best(run: Callable[[], object], seconds: float = 0.5) -> float:
    """Seconds of the fastest call within the time."""
    run()
    fastest, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def attention(tokens: int, cached: int) -> float:
    """Seconds for one layer's attention of `tokens` new tokens after `cached` ones."""
    rng = np.random.default_rng(0)
    count = -(-(tokens + cached) // BLOCK)
    pages = rng.standard_normal((2, count, KV_HEADS, BLOCK, WIDTH), np.float32).astype(np.float16)
    batch = make_batch([([0] * tokens, cached, [int(i) for i in rng.permutation(count)])], BLOCK)
    q = rng.standard_normal((tokens, HEADS * WIDTH), np.float32)
    k, v = rng.standard_normal((2, tokens, KV_HEADS * WIDTH), np.float32)
    angles = np.ones((tokens, WIDTH // 2), np.float32)

    def run() -> object:
        return layers.attention(
            q,
            k,
            v,
            angles,
            angles,
            batch.positions,
            batch.slots,
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            pages[0],
            pages[1],
        )

    return best(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []

    def report(test: str, value: float, unit: str) -> None:
        rows.append({"test": test, "value": value, "unit": unit, "isa": runtime.isa(), "threads": runtime.threads()})
        print(f"{test:32} {value:10.1f} {unit}")

    print(f"{runtime.isa()}, {runtime.threads()} threads")
    for context in (32, 2048, 16384):
        seconds = attention(1, context - 1)
        report(f"decode, context {context}", seconds * 1e6, "us")
        report(f"decode, context {context}", 4 * context * KV_HEADS * WIDTH / seconds / 1e9, "GB/s")
    for tokens in (512, 2048):
        seconds = attention(tokens, 0)
        report(f"prefill {tokens}", seconds * 1e3, "ms")
        report(f"prefill {tokens}", 2 * tokens * tokens * HEADS * WIDTH / seconds / 1e9, "GFLOP/s")

    logits = 3 * np.random.default_rng(0).standard_normal(128256, np.float32)
    for name, filters in [
        ("greedy", {"temperature": 0.0}),
        ("temperature", {"temperature": 0.8}),
        ("top_p 0.9", {"temperature": 0.6, "top_p": 0.9, "temperature_first": True}),
        ("top_k 40, top_p 0.95, min_p 0.05", {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}),
        ("typical_p 0.9", {"typical_p": 0.9}),
    ]:
        seconds = best(lambda filters=filters: sampling.sample(logits, uniform=0.5, **filters), 0.2)
        report(name, seconds * 1e6, "us")
    report("top 20 log probabilities", best(lambda: sampling.top_log_probabilities(logits, 20), 0.2) * 1e6, "us")
    x, gain = np.ones((1, 2048), np.float32), np.ones(2048, np.float32)
    report("rms_norm of 2048", best(lambda: layers.rms_norm(x, gain, 1e-5), 0.1) * 1e6, "us")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
