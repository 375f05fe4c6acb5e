"""pronk quantize: any format to a smaller GGUF."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pronk.cli import options
from pronk.errors import RequestError

if TYPE_CHECKING:
    from pronk.checkpoints.checkpoint import Checkpoint
    from pronk.quantize.importance import ImportanceMatrix
    from pronk.quantize.quantizer import Quantized
    from pronk.quantize.recipes import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="a model: a file or directory of any format, hf:..., a pulled name"
    )
    parser.add_argument("destination", metavar="DST", type=Path, help="the GGUF file to write")
    kind = parser.add_argument_group("which tensor gets which type")
    kind.add_argument("--type", help="a mix such as Q4_K_M, or a type")
    kind.add_argument("--recipe", help="dynamicgate (with --type: its low-bit type), or a recipe in YAML")
    kind.add_argument("--pure", action="store_true", help="the mix's main type for every matrix")
    kind.add_argument(
        "--tensor-type", action="append", default=[], metavar="PATTERN=TYPE",
        help="for tensors of that name, such as attn_v=Q6_K; may be given several times",
    )  # fmt: skip
    kind.add_argument("--token-embedding-type", metavar="TYPE", help="for the embeddings")
    kind.add_argument("--output-tensor-type", metavar="TYPE", help="for the output")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="an importance matrix")
    parser.add_argument("--allow-requantize", action="store_true", help="quantize what is quantized already")
    parser.add_argument("--overwrite", action="store_true", help="replace DST where it exists")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    parser.add_argument("--threads", type=options.positive, help="default: the physical cores this process may use")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.checkpoints.open import open_checkpoint
    from pronk.native import runtime

    _check(args)
    if args.threads:
        runtime.set_threads(args.threads)
    importance = _importance(args)
    source = open_checkpoint(options.local(args.source))
    if importance:
        importance.check(source.config, str(args.imatrix))
    plan = _plan(args, source, importance)
    if args.dry_run:
        return _say_plan(args, source, plan)
    done = _quantize(args, source, plan, importance)
    if args.json:
        options.print_json(_facts(done))
    else:
        _print(done)
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.type and not args.recipe:
        raise RequestError("no type; say --type Q4_K_M or another, or --recipe")
    if args.pure and args.recipe:
        raise RequestError("--pure goes with --type; a recipe says its types itself")


def _importance(args: argparse.Namespace) -> ImportanceMatrix | None:
    if args.imatrix is None:
        return None
    from pronk.quantize.importance import read

    return read(args.imatrix)


def _plan(args: argparse.Namespace, source: Checkpoint, importance: ImportanceMatrix | None) -> Plan:
    from pronk.quantize import recipes
    from pronk.tensors import types

    path = Path(args.recipe) if args.recipe else None
    if path and (path.suffix in (".yaml", ".yml") or path.exists()):
        if args.type:
            raise RequestError(f"--recipe {path} says its base itself; leave --type out")
        recipe = recipes.read(path)
    else:
        recipe = recipes.named(args.recipe or args.type, pure=args.pure, base=args.type if args.recipe else None)
    rules = [recipes.override(text) for text in args.tensor_type]
    if args.token_embedding_type:
        rules.append(recipes.Rule("tok_embeddings", types.by_name(args.token_embedding_type)))
    if args.output_tensor_type:
        table = "tok_embeddings" if source.config.tied_output else "output"
        rules.append(recipes.Rule(table, types.by_name(args.output_tensor_type)))
    return recipes.plan(recipes.with_overrides(recipe, tuple(rules)), source.config, weighted=importance is not None)


def _quantize(
    args: argparse.Namespace, source: Checkpoint, plan: Plan, importance: ImportanceMatrix | None
) -> Quantized:
    from pronk.cli.progress_bar import byte_bar
    from pronk.quantize.quantizer import quantize

    with byte_bar() as report:
        return quantize(
            source, args.destination, plan, importance=importance, allow_requantize=args.allow_requantize,
            overwrite=args.overwrite,
            progress=(lambda name, kind, n, total: report(f"{name} {kind}", n, total)) if report else None,
        )  # fmt: skip


def _facts(done: Quantized) -> dict[str, Any]:
    from pronk.quantize.quantizer import table

    return {
        "path": str(done.path),
        "recipe": done.recipe,
        "bytes": done.nbytes,
        "bits_per_weight": done.bits_per_weight,
        "seconds": done.seconds,
        "resumed": done.resumed,
        "rows": table(done.tensors),
        "fallbacks": [
            {"tensor": f.name, "wanted": f.wanted.name, "type": f.type.name, "reason": f.reason} for f in done.fallbacks
        ],
        "unweighted": list(done.unweighted),
    }


def _say_plan(args: argparse.Namespace, source: Checkpoint, plan: Plan) -> int:
    from pronk.cli.progress_bar import human_bytes
    from pronk.quantize.quantizer import typed

    tensors = typed(source, plan).tensors.values()
    size = sum(tensor.nbytes for tensor in tensors)
    if args.json:
        rows = [{"name": tensor.name, "type": tensor.type.name, "bytes": tensor.nbytes} for tensor in tensors]
        options.print_json({"recipe": plan.recipe, "bytes": size, "tensors": rows})
        return 0
    for tensor in tensors:
        print(f"{tensor.name:<44} {tensor.type.name:<8} {human_bytes(tensor.nbytes):>10}")
    print(f"{plan.recipe}: {human_bytes(size)}, {8 * size / source.config.parameter_count():.2f} bits a weight")
    return 0


def _print(done: Quantized) -> None:
    from pronk.cli.progress_bar import human_bytes
    from pronk.quantize.quantizer import table

    if done.resumed:
        print(f"went on after {done.resumed} tensors that an earlier run had made", file=sys.stderr)
    for row in table(done.tensors):
        print(f"{row['type']:<8} {row['tensors']:>5} tensors {human_bytes(row['bytes']):>12}")
    for name in done.unweighted:
        print(f"the importance matrix says nothing of {name}", file=sys.stderr)
    for fallback in done.fallbacks:
        print(f"{fallback.name} is {fallback.type} and not {fallback.wanted}: {fallback.reason}", file=sys.stderr)
    print(
        f"{done.path}: {done.recipe}, {human_bytes(done.nbytes)}, {done.bits_per_weight:.2f} bits a weight,"
        f" {done.seconds:.1f} s"
    )
