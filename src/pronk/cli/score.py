"""pronk score: the log probability of each token of a text."""

from __future__ import annotations

import argparse

from pronk.cli import options
from pronk.cli.complete import logprob_json
from pronk.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("-p", "--prompt", help="default: standard input")
    parser.add_argument(
        "--logprobs", type=options.natural, default=0, metavar="K", help="with --json: K alternatives a token"
    )
    options.add_runtime(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    prompt = options.read_prompt(args)
    if not prompt:
        raise RequestError("there is no text; give one with -p or on standard input")
    with options.load_model(args) as llama:
        tokens = [logprob_json(llama, token) for token in llama.score(prompt, top=args.logprobs)]
    total = sum(token["logprob"] for token in tokens if token["logprob"] is not None)
    if args.json:
        options.print_json({"tokens": tokens, "logprob": total})
        return 0
    for token in tokens:
        value = "" if token["logprob"] is None else f"{token['logprob']:.4f}"
        print(f"{value:>9}  {token['token']!r}")
    print(f"{total:9.4f}  in all")
    return 0
