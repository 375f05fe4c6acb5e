"""Options that several verbs share, and the way from them to a running model."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pronk.config import KV_BYTES

if TYPE_CHECKING:
    from pronk.api import ChatStream, CompletionStream, Llama
    from pronk.checkpoints.lora_reader import LoraSpec
    from pronk.engine.grammar import Grammar

DEFAULT_MODEL = "cria"

_KV_TYPE = "keys and values; default: f16"


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL",
        help="a file or directory of any format, hf:org/name[:file-or-quant], a pulled name, or random:SHAPE[:TYPE]",
    )  # fmt: skip


def add_runtime(parser: argparse.ArgumentParser, *, lists: bool = False) -> None:
    """What goes with every verb that runs a model. lists: of threads and of types of keys and values, None where not
    given."""
    group = parser.add_argument_group("running the model")
    group.add_argument("--backend", choices=("cpu", "torch", "cuda", "mps"), default="cpu", help="default: cpu")
    threads = "default: the physical cores this process may use"
    if lists:
        group.add_argument("--threads", type=several(positive), action="extend", metavar="N", help=threads)
    else:
        group.add_argument("--threads", type=positive, help=threads)
    group.add_argument("--ctx", type=positive, help="tokens of context")
    if lists:
        group.add_argument("--kv-type", type=_kv_types, action="extend", metavar="TYPE", help=_KV_TYPE)
    else:
        add_kv_type(group)
    group.add_argument(
        "--lora", action="append", default=[], metavar="[NAME=]PATH[:SCALE]",
        help="a LoRA adapter, a PEFT directory or a GGUF file; SCALE multiplies its own; default: none",
    )  # fmt: skip


def add_kv_type(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--kv-type", choices=tuple(KV_BYTES), default="f16", help=_KV_TYPE)


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """For verbs that make text."""
    group = parser.add_argument_group("guessing ahead: the same text, sooner")
    group.add_argument("--draft", metavar="MODEL", help="a smaller model that guesses tokens; this one checks them")
    group.add_argument("--lookup", action="store_true", help="guess what followed the same words earlier in the text")
    group.add_argument("--draft-tokens", type=positive, metavar="N", help="guessed at once, at most; default: 8")


def _kv_types(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in KV_BYTES:
            raise argparse.ArgumentTypeError(f"{name!r} is no type of keys and values, expected {', '.join(KV_BYTES)}")
    return names


def add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "-n", "--max-tokens", type=positive, help="default: until the model stops or the context is full"
    )
    group.add_argument("--temperature", type=float, help="0 is greedy and exactly reproducible")
    group.add_argument("--top-p", type=float)
    group.add_argument("--top-k", type=int)
    group.add_argument("--min-p", type=float)
    group.add_argument("--repetition-penalty", type=float)
    group.add_argument("--seed", type=int)
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="may be given several times")
    group.add_argument("--min-tokens", type=natural, help="no stop token comes before")
    group.add_argument("--bad-word", action="append", default=[], metavar="TEXT", help="never comes up; several times")
    _add_samplers(parser.add_argument_group("more samplers, all off unless asked for"))
    _add_structure(parser.add_argument_group("structured output"))


def _add_samplers(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--samplers", metavar="NAMES", help="which run, in this order, with commas between")
    group.add_argument("--typical-p", type=float, help="1 is off")
    group.add_argument("--top-n-sigma", type=float, help="keep logits so many standard deviations below the largest")
    group.add_argument("--presence-penalty", type=float)
    group.add_argument("--frequency-penalty", type=float)
    group.add_argument("--dry-multiplier", type=float, help="don't repeat yourself: 0.8 is usual")
    group.add_argument("--dry-base", type=float, help="default: 1.75")
    group.add_argument("--dry-allowed-length", type=int, help="default: 2 tokens may be repeated")
    group.add_argument("--dry-range", type=int, help="tokens looked back at; default: all")
    group.add_argument("--dry-breaker", action="append", metavar="TEXT", help="no repeat reaches across; several times")
    group.add_argument("--xtc-probability", type=float, help="exclude top choices: how often")
    group.add_argument("--xtc-threshold", type=float, help="default: 0.1, above 0.5 is off")
    group.add_argument("--dynatemp-range", type=float, help="the temperature moves by so much with the entropy")
    group.add_argument("--dynatemp-exponent", type=float, help="default: 1")
    group.add_argument("--mirostat", type=int, choices=(0, 2), help="2 aims at a surprise, instead of all cuts")
    group.add_argument("--mirostat-tau", type=float, help="that surprise, in bits a token; default: 5")
    group.add_argument("--mirostat-eta", type=float, help="how fast it is learned; default: 0.1")


def _add_structure(group: argparse._ArgumentGroup) -> None:
    one = group.add_mutually_exclusive_group()
    one.add_argument("--json-schema", metavar="FILE|TEXT", help="the answer is JSON of this schema")
    one.add_argument("--regex", metavar="TEXT", help="the whole answer matches this regular expression")
    one.add_argument("--grammar", type=Path, metavar="FILE", help="the answer follows this Lark grammar")


def add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def natural(text: str) -> int:
    """A whole number from 0 on."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def positive(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


_MOST_NUMBERS = 1000
_RANGE = re.compile(r"(\d+)-(\d+)(?:([+*])(\d+))?")


def several(one: Callable[[str], int]) -> Callable[[str], list[int]]:
    """A type of option that takes numbers as llama-bench does: `512`, `512,2048`, or a range such as `1-4`,
    `512-2048+512` or `128-1024*2`. Goes with action="extend", so that the option may be given several times too."""

    def numbers(text: str) -> list[int]:
        return [one(number) for part in text.split(",") for number in _expanded(part)]

    return numbers


def _expanded(text: str) -> Iterator[str]:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        yield text
        return
    number, last, by = int(match[1]), int(match[2]), int(match[4] or 1)
    if number > last:
        raise argparse.ArgumentTypeError(f"range {text!r} ends before it starts; write {last}-{number}")
    if match[3] == "*" and (by < 2 or number < 1):
        raise argparse.ArgumentTypeError(f"range {text!r} never ends; start at 1 or more and multiply by 2 or more")
    if by < 1:
        raise argparse.ArgumentTypeError(f"range {text!r} never ends; add 1 or more")
    if match[3] != "*" and (last - number) // by >= _MOST_NUMBERS:
        raise argparse.ArgumentTypeError(f"range {text!r} has more than {_MOST_NUMBERS} numbers; add more at a time")
    while number <= last:
        yield str(number)
        number = number * by if match[3] == "*" else number + by


def read_text(path: Path) -> str:
    """A text in UTF-8. Raises RequestError."""
    from pronk.errors import RequestError

    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def local(spec: str) -> str | Path:
    """What to open: the spec as it is, or the files of a model on a hub, fetched with a progress bar where need be."""
    if not spec.lower().startswith("hf:") or Path(spec).exists():
        return spec
    from pronk.checkpoints.download import resolve
    from pronk.cli.progress_bar import byte_bar

    with byte_bar() as report:
        return resolve(spec, progress=report)


def load_model(args: argparse.Namespace, *, several_adapters: bool = False, **more: Any) -> Llama:
    """several_adapters: the verb's requests can choose among them; without, one at most, for all of them."""
    from pronk.api import load

    if not several_adapters:
        _check_adapters(args)
    model = local(args.model)
    return load(
        model,
        backend=args.backend,
        threads=args.threads,
        context=args.ctx,
        kv_type=args.kv_type,
        lora=args.lora,
        **(speculation_options(args) | more),
    )


def adapter(args: argparse.Namespace) -> LoraSpec | None:
    """For verbs that run a model without `load_model`."""
    from pronk.checkpoints.lora_reader import parse_spec

    _check_adapters(args)
    return parse_spec(args.lora[0]) if args.lora else None


def _check_adapters(args: argparse.Namespace) -> None:
    from pronk.errors import RequestError

    if len(args.lora) > 1:
        raise RequestError(f"--lora is there {len(args.lora)} times, expected one adapter; leave out the others")


def speculation_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `pronk.load` is told for the options of `add_speculation`; nothing for a verb without them."""
    if not hasattr(args, "draft_tokens"):
        return {}
    chosen: dict[str, Any] = {"lookup": args.lookup}
    if args.draft is not None:
        chosen["draft"] = local(args.draft)
    if args.draft_tokens is not None:
        if args.draft is None and not args.lookup:
            from pronk.errors import RequestError

            raise RequestError("--draft-tokens goes with --draft or --lookup")
        chosen["draft_tokens"] = args.draft_tokens
    return chosen


_SAMPLING = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "min_tokens", "typical_p",
    "top_n_sigma", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_range", "xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau",
    "mirostat_eta",
)  # fmt: skip


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """Only what was asked for: the model's own defaults hold for the rest. Raises RequestError."""
    chosen = {name: getattr(args, name) for name in _SAMPLING if getattr(args, name) is not None}
    if args.stop:
        chosen["stop"] = tuple(args.stop)
    if args.bad_word:
        chosen["bad_words"] = tuple(args.bad_word)
    if args.dry_breaker is not None:
        chosen["dry_breakers"] = tuple(args.dry_breaker)
    if args.samplers is not None:
        chosen["samplers"] = tuple(name for name in args.samplers.split(",") if name)
    if args.json_schema is not None or args.regex is not None or args.grammar is not None:
        chosen["grammar"] = _grammar(args)
    return chosen


def _grammar(args: argparse.Namespace) -> Grammar:
    from pronk.engine.grammar import Grammar

    if args.grammar is not None:
        return Grammar.lark(read_text(args.grammar))
    if args.regex is not None:
        return Grammar.regex(args.regex)
    inline = args.json_schema.lstrip().startswith("{")
    return Grammar.json_schema(args.json_schema if inline else read_text(Path(args.json_schema)))


def read_prompt(args: argparse.Namespace) -> str | None:
    """-p, else standard input (without its last line's end) when it is no terminal, else None."""
    if args.prompt is not None:
        return str(args.prompt)
    if not sys.stdin.isatty():
        return sys.stdin.read().removesuffix("\n")
    return None


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def write_stream(stream: ChatStream | CompletionStream) -> None:
    """Text on standard output as it comes."""
    for piece in stream:
        sys.stdout.write(piece.text)
        sys.stdout.flush()
