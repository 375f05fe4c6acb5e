"""Speed of attention by cache type and context: decoding in GB/s of keys and values read, prompts in GFLOP/s.

usage: python benchmarks/attention.py [--types f16,q8_0] [--contexts 512,8192] [--heads 32,8,64] [--batch 1] [--json F]

Heads as in Llama 3.2 1B: 32 query heads on 8 key/value heads of width 64. Decoding goes through as many layers as hold
--bytes of keys and values, so that each call reads memory and not a cache. The best of several runs: on a shared
machine the others measure the neighbours.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pronk.backends.cpu import Cache, CpuBackend
from pronk.config import KV_BYTES, ModelConfig
from pronk.model.batch import make_batch
from pronk.native import layers, runtime

BLOCK = 32


def filled(config: ModelConfig, pages: int, kv_type: str) -> Cache:
    """A cache of ordinary numbers: subnormal ones are slow."""
    cache, rng = CpuBackend().cache(config, pages, BLOCK, kv_type), np.random.default_rng(0)
    for array in (*cache.keys, *cache.values):
        array[:] = page_like(array[0], rng)
    return cache


def page_like(page: NDArray[np.generic], rng: np.random.Generator) -> NDArray[np.generic]:
    if page.dtype != np.uint8:
        return rng.standard_normal(page.shape).astype(page.dtype)
    numbers = rng.integers(-127, 128, page.shape, np.int8).view(np.uint8)
    scales = page.shape[-1] // 17  # of q8_0, after the numbers; two bytes each, here 2^-7
    numbers[..., -scales::2], numbers[..., 1 - scales :: 2] = 0x00, 0x20
    return numbers


def seconds(config: ModelConfig, cache: Cache, tokens: int, context: int, sequences: int, least: float) -> float:
    """Of one layer's attention of `tokens` new tokens in each sequence, which then hold `context`."""
    rng = np.random.default_rng(0)
    count = -(-context // BLOCK)
    tables = rng.permutation(count * sequences).reshape(sequences, count).tolist()
    batch = make_batch([([0] * tokens, context - tokens, table) for table in tables], BLOCK)
    rows = tokens * sequences
    q = rng.standard_normal((rows, config.n_heads * config.head_dim), np.float32)
    k, v = rng.standard_normal((2, rows, config.n_kv_heads * config.head_dim), np.float32)
    angles = np.ones((rows, config.head_dim // 2), np.float32)

    def round_of_layers() -> float:
        start = time.perf_counter()
        for keys, values in zip(cache.keys, cache.values, strict=True):
            layers.attention(
                q, k, v, angles, angles, batch.positions, batch.slots, batch.query_starts, batch.context_lens,
                batch.block_tables, keys, values,
            )  # fmt: skip
        return (time.perf_counter() - start) / len(cache.keys)

    round_of_layers()
    fastest, end = math.inf, time.perf_counter() + least
    while time.perf_counter() < end:
        fastest = min(fastest, round_of_layers())
    return fastest


def model(heads: int, kv_heads: int, width: int, n_layers: int) -> ModelConfig:
    return ModelConfig(heads * width, n_layers, heads, kv_heads, width, 1, 1, 1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="f16,q8_0,f32")
    parser.add_argument("--contexts", default="128,512,2048,8192,32768")
    parser.add_argument("--prompts", default="512,2048", help="tokens of prompts")
    parser.add_argument("--heads", default="32,8,64", help="query heads, key/value heads, width")
    parser.add_argument("--batch", type=int, default=1, help="sequences that decode together")
    parser.add_argument("--bytes", type=int, default=256 << 20, help="of keys and values")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shape = [int(part) for part in options.heads.split(",")]
    one = model(*shape, n_layers=1)
    rows: list[dict[str, object]] = []

    def report(kv_type: str, test: str, time_: float, value: float, unit: str) -> None:
        rows.append({"kv_type": kv_type, "test": test, "seconds": time_, "value": value, "unit": unit})
        print(f"{kv_type:6} {test:24} {time_ * 1e6:10.0f} us {value:8.1f} {unit}", flush=True)

    print(f"{runtime.isa()}, {runtime.threads()} threads, heads {options.heads}, {options.batch} sequences")
    for kv_type in options.types.split(","):
        for context in map(int, options.contexts.split(",")):
            pages = options.batch * -(-context // BLOCK)
            size = int(2 * context * options.batch * one.n_kv_heads * one.head_dim * KV_BYTES[kv_type])
            config = model(*shape, n_layers=max(options.bytes // size, 1))
            time_ = seconds(config, filled(config, pages, kv_type), 1, context, options.batch, options.seconds)
            report(kv_type, f"decode, context {context}", time_, size / time_ / 1e9, "GB/s")
        for tokens in map(int, filter(None, options.prompts.split(","))):
            time_ = seconds(one, filled(one, -(-tokens // BLOCK), kv_type), tokens, tokens, 1, options.seconds)
            work = 2 * tokens * tokens * one.n_heads * one.head_dim
            report(kv_type, f"prompt of {tokens}", time_, work / time_ / 1e9, "GFLOP/s")
    if options.json:
        context = {"isa": runtime.isa(), "threads": runtime.threads(), "heads": options.heads, "batch": options.batch}
        options.json.write_text(json.dumps({**context, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
