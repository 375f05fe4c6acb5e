"""Speed of the layer kernels: sampling and norm. Attention has a script of its own.

    python benchmarks/layers.py [--json FILE]

The best of several runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pronk.native import layers, runtime, sampling


def best(run: Callable[[], object], seconds: float = 0.5) -> float:
    """Seconds of the fastest call within the time."""
    run()
    fastest, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        run()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []

    def report(test: str, value: float, unit: str) -> None:
        rows.append({"test": test, "value": value, "unit": unit, "isa": runtime.isa(), "threads": runtime.threads()})
        print(f"{test:32} {value:10.1f} {unit}")

    print(f"{runtime.isa()}, {runtime.threads()} threads")
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
