"""pronk perplexity: how well a model predicts a file, by llama.cpp's method."""

from __future__ import annotations

import argparse
from pathlib import Path

from pronk.cli import options
from pronk.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("-f", "--file", required=True, type=Path, help="a text in UTF-8")
    parser.add_argument("-c", "--window", type=options.positive, default=512, help="tokens of a window; default: 512")
    options.add_runtime(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.cli.progress_bar import count_bar

    if args.ctx and args.window > args.ctx:
        raise RequestError(f"a window of {args.window} tokens does not fit into --ctx {args.ctx}; choose a smaller -c")
    text = options.read_text(args.file)
    with options.load_model(args) as llama, count_bar("perplexity") as bar:
        result = llama.perplexity(
            text, args.window, progress=lambda done, total, so_far: bar(done, total, f"{so_far.perplexity:.4f}")
        )
    if args.json:
        options.print_json({"perplexity": result.perplexity, "stderr": result.stderr, "tokens": result.tokens})
    else:
        print(f"perplexity {result}, {result.tokens} tokens scored")
    return 0
