"""pronk list: the models on this machine."""

from __future__ import annotations

import argparse
import sys

from pronk.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.checkpoints import registry
    from pronk.cli.progress_bar import human_bytes

    models = registry.models()
    if args.json:
        rows = [{"name": m.name, "source": m.source, "path": str(m.path), "bytes": m.nbytes} for m in models]
        options.print_json({"home": str(registry.home()), "models": rows})
        return 0
    if not models:
        print(f"no models in {registry.home()}; fetch one with: pronk pull hf:org/name", file=sys.stderr)
    width = max((len(m.name) for m in models), default=0)
    for model in models:
        print(f"{model.name:<{width}}  {human_bytes(model.nbytes):>9}  {model.path}")
    return 0
