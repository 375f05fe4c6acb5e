"""pronk bench: tokens per second, by llama-bench's tests; with --roofline, as a share of what the machine can do."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from pronk.cli import options
from pronk.cli.bench_table import FORMATS, Row, Table
from pronk.cli.progress_bar import count_bar

if TYPE_CHECKING:
    from pronk.checkpoints.checkpoint import Checkpoint
    from pronk.checkpoints.lora_reader import LoraSpec
    from pronk.model.llama import LlamaModel
    from pronk.model.ops import Backend
    from pronk.model.speed import Speed, Workload
    from pronk.native.peaks import Peaks

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "-p, -n, -d, -b and --threads take several numbers, as lists (512,2048) or ranges (1-4, 512-2048+512,"
        " 128-1024*2); --kv-type and MODEL take several too. Each combination is a row."
    )
    parser.add_argument(
        "models", nargs="*", default=[options.DEFAULT_MODEL], metavar="MODEL",
        help="files or directories of any format, hf:org/name[:file-or-quant], pulled names, or random:SHAPE[:TYPE]",
    )  # fmt: skip
    _add_numbers(parser, "-p", options.natural, "prompt tokens (pp); default: 512, 0 leaves it out")
    _add_numbers(parser, "-n", options.natural, "decoded tokens (tg); default: 128, 0 leaves it out")
    parser.add_argument(
        "-pg", type=_pair, action="append", default=[], metavar="PROMPT,DECODE",
        help="a prompt and then decoded tokens, as one test; may be given several times",
    )  # fmt: skip
    _add_numbers(parser, "-d", options.natural, "tokens in the cache beforehand; default: 0")
    _add_numbers(parser, "-b", options.positive, "sequences at once; default: 1")
    parser.add_argument("-r", type=options.positive, default=5, help="repetitions; default: 5")
    parser.add_argument(
        "--roofline",
        action="store_true",
        help="measure the machine's limits too, and say what share of them is reached",
    )
    options.add_runtime(parser, lists=True)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("-o", "--output", choices=FORMATS, default="text", help="default: text")
    options.add_json(formats)


def _add_numbers(parser: argparse.ArgumentParser, name: str, one: Any, help: str) -> None:
    parser.add_argument(name, type=options.several(one), action="extend", metavar="N", help=help)


def _pair(text: str) -> tuple[int, int]:
    try:
        prompt, decode = (options.positive(number) for number in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is no PROMPT,DECODE; write two numbers such as 512,128") from None
    return prompt, decode


def run(args: argparse.Namespace) -> int:
    tests, kv_types, threads = _workloads(args), _unique(args.kv_type or ["f16"]), _unique(args.threads or [])
    _check_machine(args, threads)
    checkpoints = _open(args, tests, kv_types)
    peaks = _measure_peaks(threads) if args.roofline else {}
    plan = {
        "model": list(checkpoints),
        "threads": [str(count) for count in threads] or [""],
        "kv_type": kv_types,
        "test": [test.name for test in tests],
    }
    form = "json" if args.json else args.output
    table, passed, total = Table(form, plan, sys.stdout), False, math.prod(len(values) for values in plan.values())
    with _progress(form) as report:
        for done, row in enumerate(_rows(args, checkpoints, tests, kv_types, threads, peaks), 1):
            table.add(row)
            report(done, total, row["test"])
            passed = passed or (row.get("limit") == "bandwidth" and row["share"] > 1)
    if passed:
        print("above 100 %: the weights stay in the processor's cache and are not read from memory", file=sys.stderr)
    facts: dict[str, Any] = {"model": args.models[0] if len(checkpoints) == 1 else None, "backend": args.backend}
    if peaks:
        facts["peaks"] = [{"threads": count, **asdict(found)} for count, found in peaks.items()]
    table.close(facts)
    return 0


def _progress(form: str) -> AbstractContextManager[Callable[[int, int, str], None]]:
    """A bar, where the rows are not seen as they come."""
    if form == "json" or not sys.stdout.isatty():
        return count_bar("measuring")
    return nullcontext(lambda done, total, note: None)


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


# What is wrong is said before anything is measured.


def _workloads(args: argparse.Namespace) -> list[Workload]:
    """Every test, those of one depth and number of sequences together."""
    from pronk.errors import RequestError
    from pronk.model.speed import Workload

    prompts, decodes = ([512] if args.p is None else args.p), ([128] if args.n is None else args.n)
    pairs = [(p, 0) for p in prompts if p] + [(0, n) for n in decodes if n] + args.pg
    if not pairs:
        raise RequestError("-p 0 and -n 0 leave nothing to measure; give one of them a number, or -pg two")
    return _unique(
        Workload(prompt, decode, depth, sequences)
        for sequences in args.b or [1]
        for depth in args.d or [0]
        for prompt, decode in pairs
    )


def _check_machine(args: argparse.Namespace, threads: list[int]) -> None:
    from pronk.errors import BackendError
    from pronk.native import runtime

    for count in threads:
        runtime.check_threads(count)
    if args.roofline and args.backend != "cpu":
        raise BackendError(f"--roofline is of the cpu backend, and --backend is {args.backend}; leave one of them out")


def _open(args: argparse.Namespace, tests: list[Workload], kv_types: list[str]) -> dict[str, Checkpoint]:
    """By the names that the user gave."""
    from pronk.checkpoints.open import open_checkpoint
    from pronk.errors import RequestError

    checkpoints = {spec: open_checkpoint(options.local(spec)) for spec in _unique(args.models)}
    for spec, checkpoint in checkpoints.items():
        try:
            for kv_type in kv_types:
                checkpoint.config.check_kv_type(kv_type)
            for test in tests:
                test.check(checkpoint.config, args.ctx)
        except RequestError as error:
            raise RequestError(f"{spec}: {error}") from None
    return checkpoints


def _measure_peaks(threads: list[int]) -> dict[int, Peaks]:
    """What the machine does at most, with each number of threads."""
    from pronk.native import peaks, runtime

    found = {}
    for count in threads or [runtime.threads()]:
        runtime.set_threads(count)
        found[count] = peak = peaks.measure()
        print(
            f"{count} threads at most: {peak.bandwidth / 1e9:.1f} GB/s read, {peak.int8 / 1e9:.0f} Gop/s int8,"
            f" {peak.float32 / 1e9:.0f} Gop/s float32",
            file=sys.stderr,
        )
    return found


def _rows(
    args: argparse.Namespace, checkpoints: dict[str, Checkpoint], tests: list[Workload], kv_types: list[str],
    threads: list[int], peaks: dict[int, Peaks],
) -> Iterator[Row]:  # fmt: skip
    """Of each combination, as soon as it is measured."""
    from pronk.backends import make_backend
    from pronk.model.roofline import roofline
    from pronk.model.speed import measure

    lora = options.adapter(args)
    for spec, checkpoint in checkpoints.items():
        model = None
        counts: list[int] | list[None] = threads or [None]
        for asked in counts:
            backend = make_backend(args.backend, threads=asked)
            model = model or _model(checkpoint, backend, lora)  # threads are the process's
            isa, count = _runtime(args.backend, asked)
            print(f"{spec}, {isa or args.backend}" + (f", {count} threads" if count else ""), file=sys.stderr)
            for kv_type in kv_types:
                facts = {"backend": args.backend, "isa": isa, "threads": count, "kv_type": kv_type}
                for speed in measure(model, tests, repeats=args.r, context=args.ctx, kv_type=kv_type):
                    row = {"model": spec, **_of_model(checkpoint), **facts, **_of_speed(speed)}
                    if peaks and count:
                        best = roofline(checkpoint.config, checkpoint.tensors, speed.workload, kv_type, peaks[count])
                        row |= {**asdict(best), "share": best.share(speed.median)}
                    yield row


def _model(checkpoint: Checkpoint, backend: Backend[Any], lora: LoraSpec | None) -> LlamaModel:
    from pronk.model.llama import load_model
    from pronk.model.lora import applied

    model = load_model(checkpoint.config, checkpoint.tensors, backend)
    return applied(model, lora) if lora else model


def _runtime(backend: str, threads: int | None) -> tuple[str | None, int | None]:
    """Instruction set and threads, where they are ours to know."""
    if backend != "cpu":
        return None, threads
    from pronk.native import runtime

    return runtime.isa(), runtime.threads()


def _of_model(checkpoint: Checkpoint) -> Row:
    from pronk.checkpoints.mixes import told_by

    return {
        "type": told_by(checkpoint.tensors.values()).name,
        "bytes": checkpoint.nbytes,
        "parameters": checkpoint.config.parameter_count(),
    }


def _of_speed(speed: Speed) -> Row:
    return {
        **asdict(speed.workload),
        "test": speed.workload.name,
        "tokens_per_second": speed.median,
        "median": speed.median,
        "mean": speed.mean,
        "stddev": speed.deviation,
        "min": min(speed.samples),
        "max": max(speed.samples),
        "samples": list(speed.samples),
    }
