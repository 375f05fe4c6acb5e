"""pronk compare: what quantizing cost, as divergence from the original model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pronk.cli import options
from pronk.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="the original model")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="models made of it")
    parser.add_argument("-f", "--file", required=True, type=Path, help="a text in UTF-8")
    parser.add_argument("-c", "--window", type=options.positive, default=512, help="tokens of a window; default: 512")
    parser.add_argument(
        "--chunks", type=options.positive, metavar="N", help="windows to read; default: all of the text"
    )
    parser.add_argument(
        "--report", action="append", type=Path, default=[], metavar="FILE",
        help="a page with plots, .md or .html; may be given several times",
    )  # fmt: skip
    options.add_runtime(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.backends import make_backend
    from pronk.checkpoints.open import open_checkpoint
    from pronk.cli.progress_bar import count_bar
    from pronk.quantize import report, texts
    from pronk.quantize.compare import compare

    for path in args.report:
        report.check_path(path)
    if args.ctx and args.window > args.ctx:
        raise RequestError(f"a window of {args.window} tokens does not fit into --ctx {args.ctx}; choose a smaller -c")
    text, lora = options.read_text(args.file), options.adapter(args)
    base, *models = (open_checkpoint(options.local(spec)) for spec in (args.base, *args.models))
    windows = texts.windows(base, text, args.window, args.chunks)
    for spec, model in zip(args.models, models, strict=True):
        if texts.windows(model, text, args.window, args.chunks) != windows:
            raise RequestError(f"{spec} and {args.base} read the text as different tokens; they cannot be compared")
    with count_bar("comparing") as bar:
        compared = compare(
            base, models, make_backend(args.backend, threads=args.threads), windows, labels=args.models,
            kv_type=args.kv_type, lora=lora, progress=lambda done, total, kl: bar(done, total, f"{kl:.6f}"),
        )  # fmt: skip
    for path in args.report:
        report.write(path, args.base, str(args.file), compared)
    rows = [one.facts() for one in compared]
    if args.json:
        options.print_json({"base": args.base, "file": str(args.file), "window": args.window, "models": rows})
    else:
        for row in rows:
            _print(row)
    return 0


def _print(row: dict[str, Any]) -> None:
    kl, shift = row["kl"], row["shift"]
    lines = {
        "size": f"{row['bytes'] / 1e6:.1f} MB, {row['bits_per_weight']:.2f} bits a weight",
        "perplexity": f"{row['perplexity']:.4f}, {row['perplexity_ratio']:.4f} +/- "
        f"{row['perplexity_ratio_stderr']:.4f} times the original's",
        "KL divergence": f"mean {kl['mean']:.6f} +/- {kl['stderr']:.6f}, median {kl['p50']:.6f}, 90 % {kl['p90']:.6f},"
        f" 99 % {kl['p99']:.6f}, largest {kl['max']:.4f}",
        "equal top-1": f"{100 * row['top1']:.2f} +/- {100 * row['top1_stderr']:.2f} %",
        "shift": f"of the text's token: rms {100 * shift['rms']:.3f} %, mean {100 * shift['mean']:.3f} %,"
        f" largest {100 * shift['largest']:.2f} %",
    }
    print(f"{row['model']}, {row['tokens']} tokens")
    for name, value in lines.items():
        print(f"  {name:<14} {value}")
