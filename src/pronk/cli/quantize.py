"""pronk quantize: any format to a smaller GGUF."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pronk.cli import options
from pronk.errors import RequestError

_TARGET_WORK = 10**9  # weights times windows that a target reads for each matrix, with 2 to 8 windows

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
    kind.add_argument("--target-size", metavar="SIZE", help="types for a file of at most that size, such as 3.2GB")
    kind.add_argument("--target-bpw", type=float, metavar="BITS", help="types for so many bits a weight, such as 2.6")
    kind.add_argument(
        "--sensitivity", choices=("kl", "importance"), default="kl",
        help="how a target finds what each tensor is worth: by running the model, or by its errors alone; default: kl",
    )  # fmt: skip
    kind.add_argument("--pure", action="store_true", help="the mix's main type for every matrix")
    kind.add_argument(
        "--tensor-type", action="append", default=[], metavar="PATTERN=TYPE",
        help="for tensors of that name, such as attn_v=Q6_K; may be given several times",
    )  # fmt: skip
    kind.add_argument("--token-embedding-type", metavar="TYPE", help="for the embeddings")
    kind.add_argument("--output-tensor-type", metavar="TYPE", help="for the output")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="an importance matrix")
    parser.add_argument("-f", "--file", type=Path, help="a text for kl and for --report; default: one of ours")
    parser.add_argument("-c", "--window", type=options.positive, default=512, help="tokens of a window; default: 512")
    parser.add_argument("--report", type=Path, metavar="FILE", help="at the end, what it cost, as .md or .html")
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
    targeted = args.target_size or args.target_bpw
    plan = _target(args, source, importance) if targeted else _plan(args, source, importance)
    if args.dry_run:
        return _say_plan(args, source, plan)
    done = _quantize(args, source, plan, importance)
    cost = _report(args, source) if args.report else None
    if args.json:
        options.print_json({**_facts(done), **({"cost": cost} if cost else {})})
    else:
        _print(done)
        if cost:
            print(f"{args.report}: mean KL divergence {cost['kl']['mean']:.6f}, {100 * cost['top1']:.2f} % equal top-1")
    return 0


def _check(args: argparse.Namespace) -> None:
    """What can be refused before a model is opened."""
    targets = [args.target_size is not None, args.target_bpw is not None]
    if sum([bool(args.type or args.recipe), *targets]) != 1:
        raise RequestError("say one of --type (or --recipe), --target-size and --target-bpw, such as --type Q4_K_M")
    if args.pure and not (args.type and not args.recipe):
        raise RequestError("--pure goes with --type; a recipe or a target says its types itself")
    if any(targets) and (args.tensor_type or args.token_embedding_type or args.output_tensor_type):
        raise RequestError("a target chooses every tensor's type; types for some of them go with --type or --recipe")
    if args.report:
        from pronk.quantize.report import check_path

        check_path(args.report)


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


def _target(args: argparse.Namespace, source: Checkpoint, importance: ImportanceMatrix | None) -> Plan:
    from pronk.backends import make_backend
    from pronk.cli.progress_bar import count_bar
    from pronk.quantize import target

    if args.target_size:
        budget = target.budget_of_size(source, target.parse_size(args.target_size), importance)
    else:
        budget = target.budget_of_bits(source, args.target_bpw)
    with count_bar("choosing types") as bar:
        choices = target.options(source, importance, lambda what, done, total: bar(done, total, what))
        target.choose(choices, dict.fromkeys(choices, 0.0), budget)  # refuses what is too small before the long part
        if args.sensitivity == "kl":
            windows = _windows(args, source, max(2, min(8, _TARGET_WORK // source.config.parameter_count())))
            bits = 8 * budget / source.config.parameter_count()
            gains = target.measured_gains(
                source, choices, bits, importance, make_backend("cpu"), windows,
                lambda what, done, total: bar(done, total, what),
            )  # fmt: skip
        else:
            gains = target.relative_gains(source, importance)
    name = f"target {args.target_size or f'{args.target_bpw:g} bits a weight'}"
    return target.plan(source, target.choose(choices, gains, budget), name)


def _windows(args: argparse.Namespace, source: Checkpoint, most: int | None = None) -> list[list[int]]:
    from pronk.quantize import texts

    text = options.read_text(args.file) if args.file else texts.built_in()
    return texts.windows(source, text, min(args.window, source.config.context_length), most)


def _report(args: argparse.Namespace, source: Checkpoint) -> dict[str, Any]:
    """Compares what was written with what it was made of, and writes the page."""
    from pronk.backends import make_backend
    from pronk.checkpoints.open import open_checkpoint
    from pronk.cli.progress_bar import count_bar
    from pronk.quantize import report, texts
    from pronk.quantize.compare import compare

    made = open_checkpoint(args.destination)
    with count_bar("comparing") as bar:
        compared = compare(
            source, [made], make_backend("cpu"), _windows(args, source), labels=[args.destination.name],
            progress=lambda done, total, kl: bar(done, total, f"{kl:.6f}"),
        )  # fmt: skip
    report.write(args.report, str(args.source), str(args.file or texts.BUILT_IN), compared)
    return compared[0].facts()


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
