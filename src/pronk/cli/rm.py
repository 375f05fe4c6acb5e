"""pronk rm: remove pulled models."""

from __future__ import annotations

import argparse
import sys

from pronk.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="as `pronk list` shows it")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.checkpoints import registry
    from pronk.cli.progress_bar import human_bytes

    removed = []
    for name in args.names:
        model = registry.find(name)
        nbytes = model.nbytes if model else 0
        removed.append({"name": registry.remove(name).name, "bytes": nbytes})
        if not args.json:
            print(f"removed {name}, {human_bytes(nbytes)}", file=sys.stderr)
    if args.json:
        options.print_json({"removed": removed})
    return 0
