"""pronk imatrix: what a model's matrices are multiplied with, for quantizing it well."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pronk.cli import options
from pronk.errors import RequestError

if TYPE_CHECKING:
    from pronk.quantize.importance import ImportanceMatrix


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="any model; without one, only --merge")
    parser.add_argument("-f", "--file", type=Path, help="a text in UTF-8; default: one of ours")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("-c", "--window", type=options.positive, default=512, help="tokens of a window; default: 512")
    parser.add_argument(
        "--chunks", type=options.positive, metavar="N", help="windows to read; default: all of the text"
    )
    parser.add_argument("--process-output", action="store_true", help="the output matrix too")
    parser.add_argument(
        "--merge", action="append", type=Path, default=[], metavar="FILE",
        help="an importance matrix to add; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("gguf", "dat"), help="dat is llama.cpp's older form; default: by the file's name"
    )
    options.add_runtime(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.quantize import importance

    if not args.model and (args.file or not args.merge):
        raise RequestError("no model; name one, or only --merge files that there are")
    if not args.output.resolve().parent.is_dir():
        raise RequestError(f"the directory {args.output.parent} does not exist; make it first")
    matrices = [importance.read(path) for path in args.merge]
    if args.model:
        matrices.append(_collect(args, matrices))
    matrix = importance.merge(matrices)
    importance.write(matrix, args.output, binary=(args.format or args.output.suffix[1:]) == "dat")
    if args.json:
        options.print_json(
            {"path": str(args.output), "entries": len(matrix.entries), "chunks": matrix.chunks,
             "chunk_size": matrix.chunk_size, "datasets": list(matrix.datasets)}
        )  # fmt: skip
    else:
        print(f"{args.output}: {len(matrix.entries)} matrices, {matrix.chunks} windows")
    return 0


def _collect(args: argparse.Namespace, others: list[ImportanceMatrix]) -> ImportanceMatrix:
    from pronk.backends import make_backend
    from pronk.checkpoints.open import open_checkpoint
    from pronk.cli.progress_bar import count_bar
    from pronk.quantize import collect, texts

    text = options.read_text(args.file) if args.file else texts.built_in()
    source = open_checkpoint(options.local(args.model))
    for path, other in zip(args.merge, others, strict=True):
        other.check(source.config, str(path))
    size = min(args.window, args.ctx or args.window, source.config.context_length)
    windows = texts.windows(source, text, size, args.chunks)
    with count_bar("importance") as bar:
        return collect.collect(
            source, make_backend(args.backend, threads=args.threads), windows, output=args.process_output,
            dataset=str(args.file or texts.BUILT_IN), kv_type=args.kv_type, lora=options.adapter(args),
            progress=lambda done, total: bar(done, total, ""),
        )  # fmt: skip
