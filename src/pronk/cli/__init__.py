"""`pronk VERB ...`. Each verb is a module here with HELP, add_arguments(parser) and run(args) -> exit status.

The table below is all that `pronk --help` reads: no verb is imported until it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

VERBS = {
    "chat": "talk to a model",
    "complete": "continue a text",
    "tokenize": "text to token ids, or back with --decode",
    "show": "what a model is: format, config, tensor types, memory",
    "score": "log probability of each token of a text",
    "perplexity": "how well a model predicts a file",
    "bench": "tokens per second, prefill and decode",
    "convert": "any format to any other",
    "pull": "fetch a model from a hub, or with Meta's signed URL",
    "list": "models on this machine",
    "rm": "remove a pulled model",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. 0 for success, 2 for a user's mistake (said in one line), 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments[0] if arguments else None)
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help()
        return 0
    from pronk.errors import PronkError

    try:
        status: int = _module(options.verb).run(options)
    except PronkError as error:
        print(f"pronk: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left (`pronk ... | head`): not an error, but Python would say so while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """Every verb by name, and the options of the one that was asked for."""
    parser = argparse.ArgumentParser(prog="pronk", description="One package for the whole life of a Llama model.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, summary in VERBS.items():
        sub = verbs.add_parser(name, help=summary, description=summary)
        if name == chosen:
            _module(name).add_arguments(sub)
    return parser


def _module(verb: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"pronk.cli.{verb}")


def _version() -> str:
    import pronk

    return f"pronk {pronk.__version__}"
