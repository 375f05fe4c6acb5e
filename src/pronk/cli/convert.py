"""pronk convert: any format to any other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pronk.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="a model: a file or directory of any format, hf:..., a pulled name"
    )
    parser.add_argument("destination", metavar="DST", type=Path, help="a file for gguf, a directory for hf and meta")
    parser.add_argument("--to", required=True, choices=("gguf", "hf", "meta"), help="the format to write")
    parser.add_argument(
        "--dtype", choices=("f32", "f16", "bf16"),
        help="of all matrices; default: what they have, but hf and meta hold quantized ones as bf16",
    )  # fmt: skip
    parser.add_argument("--shards", type=options.positive, default=1, help="files that Meta's format is cut into")
    parser.add_argument("--overwrite", action="store_true", help="replace DST where it exists")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.checkpoints.convert import check_options, convert
    from pronk.checkpoints.open import open_checkpoint
    from pronk.cli.progress_bar import byte_bar, human_bytes

    check_options(args.to, args.dtype, args.shards)
    source = open_checkpoint(options.local(args.source))
    with byte_bar() as report:
        done = convert(
            source, args.destination, args.to, dtype=args.dtype, shards=args.shards, overwrite=args.overwrite,
            progress=(lambda n, total: report(str(args.destination), n, total)) if report else None,
        )  # fmt: skip
    if args.json:
        options.print_json(
            {"path": str(done.path), "format": done.format, "types": done.dtype.split(", "), "bytes": done.nbytes}
        )
    else:
        print(f"wrote {done.path}: {done.format}, {done.dtype}, {human_bytes(done.nbytes)}", file=sys.stderr)
    return 0
