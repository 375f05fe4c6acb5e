"""pronk complete: continue a text, streaming as it comes, or as one JSON object."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pronk.cli import options
from pronk.errors import RequestError

if TYPE_CHECKING:
    from pronk.api import Llama
    from pronk.engine.logprobs import TokenLogprob


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("-p", "--prompt", help="default: standard input")
    parser.add_argument("--echo", action="store_true", help="print the prompt in front")
    parser.add_argument("--logprobs", type=options.natural, metavar="K", help="with --json: K alternatives a token")
    options.add_sampling(parser)
    options.add_runtime(parser)
    options.add_speculation(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    prompt = options.read_prompt(args)
    if prompt is None:
        raise RequestError("there is no prompt; give one with -p or on standard input")
    if args.logprobs is not None and not args.json:
        raise RequestError("--logprobs goes with --json")
    sampling = options.sampling_options(args)
    with options.load_model(args) as llama:
        if args.json:
            result = llama.complete(prompt, echo=args.echo, logprobs=args.logprobs, **sampling)
            answer = {
                "text": result.text,
                "token_ids": list(result.token_ids),
                "finish_reason": result.finish_reason,
                "usage": asdict(result.usage),
                "timings": asdict(result.timings),
            }
            if args.logprobs is not None:
                answer["logprobs"] = [logprob_json(llama, token) for token in result.logprobs]
            options.print_json(answer)
            return 0
        options.write_stream(llama.complete(prompt, echo=args.echo, stream=True, **sampling))
        sys.stdout.write("\n")
    return 0


def logprob_json(llama: Llama, token: TokenLogprob) -> dict[str, Any]:
    """A token, its log probability (null for a prompt's first), and the alternatives that were asked for."""
    text = llama.tokenizer.token_text
    row: dict[str, Any] = {"id": token.id, "token": text(token.id), "logprob": token.logprob}
    if token.top:
        row["top"] = [{"id": i, "token": text(i), "logprob": value} for i, value in token.top]
    return row
