"""pronk tokenize: text to token ids, or ids back to text."""

from __future__ import annotations

import argparse
import sys

from pronk.cli import options
from pronk.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="*", metavar="[MODEL] TEXT", help="with --decode: [MODEL] IDS")
    parser.add_argument("--decode", action="store_true", help="the arguments are ids, separated by spaces or commas")
    parser.add_argument("--no-bos", action="store_true", help="leave out the begin-of-text token")
    parser.add_argument("--special", action="store_true", help="read <|eot_id|> and the like in TEXT as control tokens")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.checkpoints.open import open_tokenizer

    model, text = _split(args.arguments)
    tokenizer = open_tokenizer(options.local(model))
    if args.decode:
        ids = _parse_ids(text)
        decoded = tokenizer.decode(ids)
        if args.json:
            options.print_json({"text": decoded, "ids": ids, "tokens": [tokenizer.token_text(i) for i in ids]})
        else:
            print(decoded)
        return 0
    ids = tokenizer.encode(text, bos=not args.no_bos, special=args.special)
    tokens = [tokenizer.token_text(i) for i in ids]
    if args.json:
        options.print_json({"ids": ids, "tokens": tokens})
    else:
        width = max((len(str(i)) for i in ids), default=1)
        for token_id, token in zip(ids, tokens, strict=True):
            print(f"{token_id:>{width}}  {token!r}")
    return 0


def _split(arguments: list[str]) -> tuple[str, str]:
    """One argument is the text; of two, the first is the model. Without any, the text comes from standard input."""
    if not arguments:
        return options.DEFAULT_MODEL, sys.stdin.read()
    if len(arguments) == 1:
        return options.DEFAULT_MODEL, arguments[0]
    return arguments[0], " ".join(arguments[1:])


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise RequestError(f"--decode takes ids such as '1 15043 3186', found {text!r}") from None
