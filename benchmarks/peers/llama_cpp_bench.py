"""llama.cpp's speed on one GGUF, by llama-bench's method, through llama-cpp-python. Prints one JSON object.

usage: llama_cpp_bench.py FILE [-p 512] [-n 128] [-d 0] [-r 3] [--threads 2] [--repack|--no-repack] [--flash|--no-flash]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import llama_cpp.llama_cpp as lib
import numpy as np


class Context:
    """A loaded model and one context; decode() runs a batch of one sequence."""

    def __init__(self, path: str, *, threads: int, context: int, repack: bool, flash: bool) -> None:
        lib.llama_log_set(_quiet, None)
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.use_extra_bufts = repack
        self.model = lib.llama_model_load_from_file(path.encode(), model_params)
        params = lib.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        params.no_perf = True
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp does not open {path}")
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def clear(self) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def decode(self, ids: list[int]) -> None:
        tokens = (lib.llama_token * len(ids))(*ids)
        status = lib.llama_decode(self.context, lib.llama_batch_get_one(tokens, len(ids)))
        if status:
            raise SystemExit(f"llama_decode returned {status}")
        lib.llama_synchronize(self.context)


@lib.llama_log_callback
def _quiet(level: int, text: bytes, user_data: object) -> None:
    pass


def measure(context: Context, prompt: int, decode: int, depth: int, repeats: int) -> list[dict[str, object]]:
    """llama-bench's tests: pp (a prompt at once) and tg (tokens one by one), each after `depth` tokens."""
    random = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return random.integers(0, context.vocabulary, count).tolist()

    def prefill(count: int) -> None:
        for start in range(0, count, 512):
            context.decode(ids(min(512, count - start)))

    def run(count: int, step: int) -> float:
        context.clear()
        prefill(depth)
        start = time.perf_counter()
        for done in range(0, count, step):
            context.decode(ids(min(step, count - done)))
        return count / (time.perf_counter() - start)

    rows: list[dict[str, object]] = []
    for name, count, step in ((f"pp{prompt}", prompt, 512), (f"tg{decode}", decode, 1)):
        if not count:
            continue
        run(min(count, 32), step)
        speeds = [run(count, step) for _ in range(repeats)]
        label = name + (f" @ d{depth}" if depth else "")
        median = statistics.median(speeds)
        rows.append(
            {"test": label, "tokens_per_second": median, "median": median, "min": min(speeds), "max": max(speeds)}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("-d", type=int, default=0)
    parser.add_argument("-r", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--flash", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--first-token", action="store_true", help="open, decode eight tokens, exit")
    args = parser.parse_args()
    context = Context(
        args.file,
        threads=args.threads,
        context=64 if args.first_token else args.d + max(args.p, args.n) + 32,
        repack=args.repack,
        flash=args.flash,
    )
    if args.first_token:
        context.decode([1, 2, 3, 4, 5, 6, 7, 8])
        return
    print(json.dumps({"rows": measure(context, args.p, args.n, args.d, args.r)}))


if __name__ == "__main__":
    main()
