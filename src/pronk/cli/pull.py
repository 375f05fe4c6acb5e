"""pronk pull: fetch a model from a hub, or with Meta's signed URL."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pronk.cli import options
from pronk.errors import DownloadError

if TYPE_CHECKING:
    from pronk.cli.progress_bar import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="hf:org/name[:file-or-quant], or the address from Meta's e-mail, in quotes"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="with Meta's address: which model, such as llama-2-7b")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.cli.progress_bar import byte_bar

    with byte_bar() as report:
        path, name = _pull(args.source, args.name, report)
    if args.json:
        options.print_json({"name": name, "path": str(path)})
    else:
        print(f"{name} is at {path}", file=sys.stderr)
    return 0


def _pull(source: str, name: str | None, report: Report | None) -> tuple[Path, str]:
    if source.lower().startswith(("http://", "https://")):
        from pronk.checkpoints.fetch import Fetcher
        from pronk.checkpoints.meta_url import MODELS, pull_meta

        if name is None:
            raise DownloadError(f"say which model to fetch after the address, one of {', '.join(MODELS)}")
        return pull_meta(source, name, fetcher=Fetcher(progress=report)), name.lower()
    if name is not None:
        raise DownloadError(f"a name ({name}) goes with Meta's address only; {source!r} is none")
    from pronk.checkpoints.hub import pull_hub

    model = pull_hub(source[3:] if source.lower().startswith("hf:") else source, progress=report)
    return model.path, model.name
