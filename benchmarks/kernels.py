"""Matrix products by tensor type: GB/s of weights read by one row, Gop/s of many rows, and the rows between.

Beside each stands its share of what this machine does at most with the same threads, which is measured first: bytes
read from memory a second, and products of int8 (of float32 for float types) on data in the L1 cache.

usage: python benchmarks/kernels.py [--types Q4_K,F16] [--rows 1,4,512] [--shape 8192x2048] [--threads N] [--json]

Weights of about --bytes in all are cycled through, so that a product of one row reads memory and not a cache. Each
figure is the best of several runs: on a shared machine the others measure the neighbours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pronk.native import peaks, runtime
from pronk.native.matmul import Matrix, linear
from pronk.native.peaks import Peaks
from pronk.tensors import types
from pronk.tensors.types import TensorType


@dataclass(frozen=True)
class Result:
    type: str
    rows: int
    milliseconds: float
    gigabytes_per_second: float
    gigaops_per_second: float
    share_of_bandwidth: float
    share_of_products: float  # of int8, or of float32 for float types


def make_matrices(kind: TensorType, out: int, cols: int, total_bytes: int) -> list[Matrix]:
    """Quantized blocks of random bytes; float types get ordinary numbers, since subnormal ones are slow."""
    size = kind.nbytes((out, cols))
    count = max(1, total_bytes // size)
    rng = np.random.default_rng(0)
    if kind.block > 1:
        words = rng.integers(0, 1 << 16, count * size // 2, dtype=np.uint16)
        data = (words & 0xBFFF).view(np.uint8)  # no infinity in the place of a scale
        if kind is types.MXFP4:
            data.reshape(-1, kind.bytes)[:, 0] = 127  # its scales are powers of two, most of them subnormal or huge
    else:
        data = np.tile(_ordinary_floats(kind, rng.standard_normal(out * cols, dtype=np.float32)), count)
    return [Matrix(data[i * size : (i + 1) * size], kind.id, out, cols) for i in range(count)]


def _ordinary_floats(kind: TensorType, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    if kind is types.F16:
        return values.astype(np.float16).view(np.uint8)
    if kind is types.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return values.view(np.uint8)


def measure(kind: TensorType, rows: int, out: int, cols: int, total_bytes: int, seconds: float, most: Peaks) -> Result:
    few = rows <= 16
    # One thread's own time does not count what the neighbours take; of several threads only the wall knows.
    clock = time.thread_time if runtime.threads() == 1 else time.perf_counter
    matrices = make_matrices(kind, out, cols, total_bytes if few else 0)
    x = np.random.default_rng(1).standard_normal((rows, cols), dtype=np.float32)
    linear(x, matrices[:1])
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = clock()
        for matrix in matrices:
            linear(x, [matrix])
        best = min(best, (clock() - start) / len(matrices))
    bandwidth, products = kind.nbytes((out, cols)) / best, 2 * rows * out * cols / best
    return Result(
        type=kind.name,
        rows=rows,
        milliseconds=best * 1e3,
        gigabytes_per_second=bandwidth / 1e9,
        gigaops_per_second=products / 1e9,
        share_of_bandwidth=bandwidth / most.bandwidth,
        share_of_products=products / (most.int8 if kind.block > 1 else most.float32),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    computable = [t for t in types.ALL if t in types.COMPUTABLE]
    parser.add_argument("--types", default=",".join(t.name for t in computable))
    parser.add_argument("--rows", default="1,4,16,512")
    parser.add_argument("--shape", default="8192x2048", help="outputs x inputs")
    parser.add_argument("--bytes", type=float, default=1e9, help="weights to cycle through, for few rows")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--threads", type=int, default=runtime.threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runtime.set_threads(args.threads)
    out, cols = (int(n) for n in args.shape.split("x"))
    results = []
    print(f"{runtime.isa()}, {runtime.threads()} threads, weights ({out}, {cols})", file=sys.stderr)
    most = peaks.measure(seconds=args.seconds)
    print(
        f"at most {most.bandwidth / 1e9:.1f} GB/s read, {most.int8 / 1e9:.0f} Gop/s int8,"
        f" {most.float32 / 1e9:.0f} Gop/s float32",
        file=sys.stderr,
    )
    print(f"{'type':7} {'rows':>5} {'ms':>9} {'GB/s':>7} {'share':>5} {'Gop/s':>7} {'share':>5}", file=sys.stderr)
    for name in args.types.split(","):
        for rows in args.rows.split(","):
            r = measure(types.by_name(name), int(rows), out, cols, int(args.bytes), args.seconds, most)
            results.append(r)
            print(
                f"{r.type:7} {r.rows:5} {r.milliseconds:9.3f} {r.gigabytes_per_second:7.1f} {r.share_of_bandwidth:5.0%}"
                f" {r.gigaops_per_second:7.1f} {r.share_of_products:5.0%}",
                file=sys.stderr,
            )
    if args.json:
        facts = {"isa": runtime.isa(), "threads": runtime.threads(), "shape": [out, cols], "peaks": asdict(most)}
        print(json.dumps({**facts, "results": [asdict(r) for r in results]}))


if __name__ == "__main__":
    main()
