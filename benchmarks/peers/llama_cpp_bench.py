"""llama.cpp's speed on one GGUF, by llama-bench's method, through llama-cpp-python. Prints one JSON object.

usage: llama_cpp_bench.py FILE [-p 512] [-n 128] [-d 0] [-b 1] [-r 3] [--threads 2] [--no-repack] [--no-flash]
"""

from __future__ import annotations

import argparse
import json
import time

import llama_cpp.llama_cpp as lib
import numpy as np
from bench_script import parser, row

CHUNK = 512


class Context:
    """A loaded model and one context of `sequences` conversations, each of at most `length` tokens."""

    def __init__(self, path: str, *, threads: int, length: int, sequences: int, repack: bool, flash: bool) -> None:
        lib.llama_log_set(_quiet, None)
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.use_extra_bufts = repack
        self.model = lib.llama_model_load_from_file(path.encode(), model_params)
        if not self.model:
            raise SystemExit("llama.cpp does not open the file")
        params = lib.llama_context_default_params()
        params.n_ctx = -(-length // 256) * 256 * sequences  # shared out evenly
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = CHUNK
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        params.no_perf = True
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp makes no context for the file")
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self._batch = lib.llama_batch_init(CHUNK, 0, 1)

    def keep(self, depth: int) -> None:
        """Forgets what comes after the first `depth` tokens of every sequence."""
        lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), -1, depth, -1)

    def decode(self, ids: list[list[int]], position: int, sequences: list[int]) -> None:
        """As many tokens for each of `sequences`, the first at `position`; logits of each one's last token."""
        batch, at = self._batch, 0
        for sequence, own in zip(sequences, ids, strict=True):
            for i, token in enumerate(own):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position + i, 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = i == len(own) - 1
                at += 1
        batch.n_tokens = at
        status = lib.llama_decode(self.context, batch)
        if status:
            raise SystemExit(f"llama_decode returned {status}")
        lib.llama_synchronize(self.context)


_quiet = lib.llama_log_callback(lambda level, text, user_data: None)  # kept: the library holds no reference


def measure(
    context: Context, prompt: int, decode: int, depth: int, sequences: int, repeats: int
) -> list[dict[str, object]]:
    """llama-bench's tests: pp (a prompt at once) and tg (tokens one by one, `sequences` together), after `depth`."""
    random = np.random.default_rng(0)
    everyone = list(range(sequences))

    def step(position: int, count: int, which: list[int]) -> None:
        context.decode(random.integers(0, context.vocabulary, (len(which), count)).tolist(), position, which)

    def read_prompts(position: int, count: int) -> None:
        for start in range(0, count, CHUNK):
            for sequence in everyone:
                step(position + start, min(CHUNK, count - start), [sequence])

    def decode_tokens(position: int, count: int) -> None:
        for done in range(count):
            step(position + done, 1, everyone)

    rows: list[dict[str, object]] = []
    read_prompts(0, depth)
    for name, count, work in ((f"pp{prompt}", prompt, read_prompts), (f"tg{decode}", decode, decode_tokens)):
        if not count:
            continue
        speeds = []
        for timed in [False] + [True] * repeats:
            context.keep(depth)
            tokens = count if timed else min(count, 32)
            start = time.perf_counter()
            work(depth, tokens)
            if timed:
                speeds.append(tokens * sequences / (time.perf_counter() - start))
        rows.append(row(name, depth, sequences, speeds))
    return rows


def main() -> None:
    options = parser(first_token="open, decode eight tokens, exit")
    options.add_argument("--repack", action=argparse.BooleanOptionalAction, default=True)
    options.add_argument("--flash", action=argparse.BooleanOptionalAction, default=True)
    args = options.parse_args()
    context = Context(
        args.file,
        threads=args.threads,
        length=64 if args.first_token else args.d + max(args.p, args.n),
        sequences=args.b,
        repack=args.repack,
        flash=args.flash,
    )
    if args.first_token:
        context.decode([[1, 2, 3, 4, 5, 6, 7, 8]], 0, [0])
        return
    print(json.dumps({"rows": measure(context, args.p, args.n, args.d, args.b, args.r)}))


if __name__ == "__main__":
    main()
