"""`pronk VERB ...`. Each verb is a module here with add_arguments(parser) and run(args) -> exit status.

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
    "serve": "models over HTTP: OpenAI's API, TGI's, a chat page",
    "tokenize": "text to token ids, or back with --decode",
    "show": "what a model is: format, config, tensor types, memory",
    "score": "log probability of each token of a text",
    "perplexity": "how well a model predicts a file",
    "compare": "what quantizing cost: divergence from the original model",
    "bench": "tokens per second, prefill and decode",
    "convert": "any format to any other",
    "quantize": "any format to a smaller GGUF",
    "imatrix": "what a model's matrices are multiplied with, for quantizing it well",
    "pull": "fetch a model from a hub, or with Meta's signed URL",
    "list": "models on this machine",
    "rm": "remove a pulled model",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. 0 for success, 2 for a user's mistake (said in one line), 130 after Ctrl-C."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a verb's module here, once it is imported
    if not arguments or arguments[0] not in VERBS:
        return _no_verb(arguments)
    verb = _module(arguments[0])
    parser = argparse.ArgumentParser(prog=f"pronk {arguments[0]}", description=VERBS[arguments[0]])
    verb.add_arguments(parser)
    # Intermixed, so that `tokenize MODEL --decode IDS` is read as it is written.
    options = parser.parse_intermixed_args(arguments[1:])
    from pronk.errors import PronkError

    try:
        status: int = verb.run(options)
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


def _no_verb(arguments: list[str]) -> int:
    """--help, --version, or a verb that there is not."""
    width = max(map(len, VERBS))
    table = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="pronk",
        usage="pronk VERB ...",
        description=f"One package for the whole life of a Llama model.\n\nverbs:\n{table}",
        epilog="pronk VERB --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("verb", nargs="?", choices=VERBS, metavar="VERB", help=argparse.SUPPRESS)
    parser.parse_args(arguments)
    parser.print_help()
    return 0


def _module(verb: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"pronk.cli.{verb}")


def _version() -> str:
    import pronk

    return f"pronk {pronk.__version__}"
