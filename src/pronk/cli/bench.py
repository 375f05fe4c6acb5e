"""pronk bench: tokens per second, by llama-bench's tests."""

from __future__ import annotations

import argparse
import sys

from pronk.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument(
        "-p", type=options.natural, default=512, help="prompt tokens (pp); default: 512, 0 leaves it out"
    )
    parser.add_argument(
        "-n", type=options.natural, default=128, help="decoded tokens (tg); default: 128, 0 leaves it out"
    )
    parser.add_argument("-d", type=options.natural, default=0, help="tokens in the cache beforehand; default: 0")
    parser.add_argument("-b", type=options.positive, default=1, help="sequences at once; default: 1")
    parser.add_argument("-r", type=options.positive, default=5, help="repetitions; default: 5")
    options.add_runtime(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.backends import make_backend
    from pronk.checkpoints.open import open_checkpoint
    from pronk.model.llama import load_model
    from pronk.model.speed import measure

    checkpoint = open_checkpoint(options.local(args.model))
    model = load_model(checkpoint.config, checkpoint.tensors, make_backend(args.backend, threads=args.threads))
    speeds = measure(
        model, prompt=args.p, decode=args.n, depth=args.d, sequences=args.b, repeats=args.r, context=args.ctx,
        kv_type=args.kv_type,
    )  # fmt: skip
    rows = [
        {
            "test": speed.test,
            "tokens_per_second": speed.median,
            "median": speed.median,
            "min": min(speed.samples),
            "max": max(speed.samples),
        }
        for speed in speeds
    ]
    if args.json:
        options.print_json({"model": args.model, "backend": args.backend, "rows": rows})
        return 0
    print(f"{args.model}, {_runtime(args)}", file=sys.stderr)
    for row in rows:
        print(f"{row['test']:<16} {row['median']:10.2f} tokens/s   ({row['min']:.2f} to {row['max']:.2f})")
    return 0


def _runtime(args: argparse.Namespace) -> str:
    if args.backend != "cpu":
        return str(args.backend)
    from pronk.native import runtime

    return f"{runtime.isa()}, {runtime.threads()} threads"
