"""pronk and its peers on the same GGUF files and the same cores, in one run.

The peers are llama.cpp (weights repacked or not, flash attention or not) and, where openvino-genai is installed,
OpenVINO (paged attention or plain). Every engine and setting runs in a process of its own; they take turns, round by
round, so that a drift of the machine hits all of them. The figure is the ratio of medians to the peers' best setting.
Let nothing else run meanwhile.

Rows: prefill, decode, depth (decoding after many tokens), batch (several sequences at once, all their tokens counted),
first-token (8B Q4_K_M, file in the page cache: seconds and peak memory of a whole process), perplexity (the built-in
model in each type, against the float arithmetic of the same decoded weights). Every row is saved as it is done, in the
JSON file and in a table beside it; a test that the file has already is replaced.

Files are random weights of real shapes, made once, in benchmarks/.cache or PRONK_BENCH_DIR: all types of the 1B model
take 23 GB, the 8B one 5 GB.

usage: cpu_vs_peers.py [--rows prefill,decode] [--types Q8_0,Q4_K_M] [--rounds 3] [--threads N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the recipe is no part of the package

from peers.comparison import OURS, REFERENCE, Measured, Row, flags, merged, row_of, tables
from peers.models import model_file

import pronk
from pronk.checkpoints.open import open_checkpoint
from pronk.model.roofline import roofline
from pronk.model.speed import Workload
from pronk.native import peaks, runtime
from recipes.cria.corpus import prose

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("PRONK_BENCH_DIR", HERE / ".cache"))
PYTHON = sys.executable
PRONK = [PYTHON, "-m", "pronk"]
LONGEST = 1800.0  # seconds that an engine may take for one test
SCORER = HERE.parent / "tests" / "support" / "llama_cpp_peer.py"

TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K_M", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0", "MXFP4",
)  # fmt: skip
FEW_TYPES = ("F16", "Q8_0", "Q4_K_M")  # where what is measured is not the type


@dataclass(frozen=True)
class Speed:
    """A row of speeds: its tests, and the types it is measured for unless others are asked for."""

    workloads: tuple[Workload, ...]
    types: tuple[str, ...]


SPEEDS = {
    "prefill": Speed((Workload(prompt=512), Workload(prompt=2048)), TYPES),
    "decode": Speed((Workload(decode=128),), TYPES),
    "depth": Speed((Workload(decode=32, depth=2048), Workload(decode=32, depth=16384)), FEW_TYPES),
    "batch": Speed(tuple(Workload(decode=32, sequences=n) for n in (2, 4, 8, 16)), FEW_TYPES),
}
QUICK_SPEEDS = {
    "prefill": Speed((Workload(prompt=32), Workload(prompt=64)), FEW_TYPES),
    "decode": Speed((Workload(decode=8),), FEW_TYPES),
    "depth": Speed((Workload(decode=4, depth=128),), FEW_TYPES),
    "batch": Speed((Workload(decode=4, sequences=2), Workload(decode=4, sequences=16)), FEW_TYPES),
}
ROWS = (*SPEEDS, "first-token", "perplexity")


# --- engines ---


@dataclass(frozen=True)
class Peer:
    """`settings`: the options of its script that are tried, by the name that the table gives them."""

    package: str
    script: Path
    settings: Mapping[str, list[str]]

    @property
    def installed(self) -> bool:
        return find_spec(self.package.replace("-", "_").removesuffix("_python")) is not None


LLAMA_CPP = Peer(
    "llama-cpp-python",
    HERE / "peers" / "llama_cpp_bench.py",
    {
        "llama.cpp": [],
        "llama.cpp, no repack": ["--no-repack"],
        "llama.cpp, no flash": ["--no-flash"],
        "llama.cpp, neither": ["--no-repack", "--no-flash"],
    },
)
OPENVINO = Peer("openvino-genai", HERE / "peers" / "openvino_bench.py", {"OpenVINO": [], "OpenVINO, SDPA": ["--sdpa"]})
PEERS = (LLAMA_CPP, OPENVINO)


def commands(ours: list[str], peers: list[str]) -> dict[str, list[str]]:
    """{engine: its command}, pronk first: `ours` after pronk's own name, `peers` after each script's."""
    found = {OURS: [*PRONK, *ours]}
    for peer in PEERS:
        if peer.installed:
            for name, options in peer.settings.items():
                found[name] = [PYTHON, str(peer.script), *peers, *options]
    return found


class EngineFailed(Exception):
    """The process's last words."""


@dataclass(frozen=True)
class Finished:
    output: str
    seconds: float
    peak_bytes: int  # resident, mapped file pages counted


def run(command: list[str]) -> Finished:
    """A process from start to exit; one that hangs is ended. Raises EngineFailed."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        patience = threading.Timer(LONGEST, process.kill)
        patience.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            patience.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            errors.seek(0)
            raise EngineFailed(last_words(errors.read(), process.returncode))
        return Finished(output.read(), seconds, usage.ru_maxrss * 1024)


def last_words(errors: str, code: int) -> str:
    """The last line that was said, in a table's cell; and the signal, where one ended the process."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = (lines[-1] if lines else "")[:160].replace("|", "/")
    ended = signal.Signals(-code).name if code < 0 else ""
    return ", ".join(filter(None, (ended, said))) or f"exit status {code}"


def take_turns(engines: Mapping[str, list[str]], rounds: int, *, whole: bool) -> dict[str, Measured]:
    """Each engine once a round; one that failed is not asked again. Values are the processes' own tokens a second, or
    with `whole` the seconds of the whole process."""
    values: dict[str, list[float]] = {name: [] for name in engines}
    memory: dict[str, list[int]] = {name: [] for name in engines}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        for name, command in engines.items():
            if name in failures:
                continue
            try:
                done = run(command)
            except EngineFailed as error:
                failures[name] = str(error)
                continue
            values[name].append(done.seconds if whole else json.loads(done.output)["rows"][0]["median"])
            memory[name].append(done.peak_bytes)
    return {
        name: Measured(failure=failures[name])
        if name in failures
        else Measured(tuple(values[name]), tuple(memory[name]))
        for name in engines
    }


# --- files ---


def made(path: Path, *command: str) -> Path:
    """`path`, by a verb of pronk's unless it is there. pronk leaves no half files."""
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"making {path.name}", file=sys.stderr)
        run([*PRONK, *command])
    return path


def random_file(model: str, kind: str) -> Path:
    return model_file(f"random:{model.removeprefix('random:')}:{kind}", CACHE)


def built_in_file(kind: str) -> Path:
    """The built-in model with every matrix in one type. The least bits need an importance matrix, so all get one."""
    importance = CACHE / "cria-imatrix.gguf"
    made(importance, "imatrix", "cria", "--process-output", "-o", str(importance))
    path = CACHE / f"cria-{kind}.gguf"
    options = ["--type", kind, "--pure", "--allow-requantize", "--imatrix", str(importance)]
    return made(path, "quantize", "cria", str(path), *options)


def held_out_file(count: int) -> Path:
    """What the built-in model is to write: on texts that it cannot predict the types' errors would not show."""
    path = CACHE / f"held-out-{count}.txt"
    CACHE.mkdir(parents=True, exist_ok=True)
    path.write_text(prose("held_out", 7, count), encoding="utf-8")
    return path


# --- rows ---


def speed_rows(name: str, speed: Speed, args: argparse.Namespace) -> Iterator[Row]:
    own_file = not args.model.startswith("random:")
    for kind in [""] if own_file else args.types or speed.types:
        path = Path(args.model) if own_file else random_file(args.model, kind)
        label = path.stem if own_file else args.model.removeprefix("random:")
        checkpoint = open_checkpoint(path)
        for workload in speed.workloads:
            common = [str(path), *flags(workload), "-r", "1", "--threads", str(args.threads)]
            engines = take_turns(commands(["bench", *common, "--json"], common), args.rounds, whole=False)
            share, ceiling = None, ""
            if engines[OURS].values:
                best = roofline(checkpoint.config, checkpoint.tensors, workload, "f16", args.peaks)
                share, ceiling = best.share(engines[OURS].median), best.limit
            yield Row(name, label, kind, workload.name, "tokens/s", engines, share, ceiling)


def first_token_row(args: argparse.Namespace) -> Row:
    path = random_file(args.large_model, "Q4_K_M")
    threads = ["--threads", str(args.threads)]
    prompt = ["-p", "Once upon a time there was", "-n", "1", "--temperature", "0", "--ctx", "64"]
    engines = commands(["complete", str(path), *prompt, *threads], [str(path), "--first-token", *threads])
    take_turns({OURS: engines[OURS]}, 1, whole=True)  # the file is in the page cache from here on
    measured = take_turns(engines, args.rounds, whole=True)
    return Row("first-token", args.large_model.removeprefix("random:"), "Q4_K_M", "first token", "seconds", measured)


def perplexity_row(kind: str, text: Path, args: argparse.Namespace) -> Row:
    """Once each: nothing here varies. The reference computes and keeps everything in float32."""
    path = built_in_file(kind)
    decoded = path.with_stem(f"{path.stem}-decoded")
    made(decoded, "convert", str(path), str(decoded), "--to", "gguf", "--dtype", "f32")
    common = ["-f", str(text), "-c", str(args.window), "--threads", str(args.threads), "--json"]
    engines = {
        REFERENCE: [*PRONK, "perplexity", str(decoded), *common, "--kv-type", "f32"],
        OURS: [*PRONK, "perplexity", str(path), *common],
    }
    if LLAMA_CPP.installed:
        engines["llama.cpp"] = [PYTHON, str(SCORER), "score", str(path), str(text), str(args.window)]
    measured = {name: scored(command) for name, command in engines.items()}
    return Row("perplexity", "cria", kind, f"windows of {args.window}", "perplexity", measured)


def scored(command: list[str]) -> Measured:
    try:
        done = run(command)
    except EngineFailed as error:
        return Measured(failure=str(error))
    facts = json.loads(done.output.splitlines()[-1])
    value = facts["perplexity"] if "perplexity" in facts else math.exp(sum(facts["scores"]) / len(facts["scores"]))
    return Measured((value,), (done.peak_bytes,))


def all_rows(args: argparse.Namespace) -> Iterator[Row]:
    speeds = QUICK_SPEEDS if args.quick else SPEEDS
    for name in args.rows:
        if name in speeds:
            yield from speed_rows(name, speeds[name], args)
        elif name == "first-token":
            yield first_token_row(args)
        else:
            text = args.text or held_out_file(count=5 if args.quick else 50)
            for kind in args.types or (FEW_TYPES if args.quick else TYPES):
                yield perplexity_row(kind, text, args)


# --- results ---


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """What all rows of a file share."""
    installed = {peer.package: version(peer.package) for peer in PEERS if peer.installed}
    return {
        "machine": f"{platform.machine()}, {runtime.isa()}, {runtime.usable_cores()} cores",
        "versions": {"pronk": pronk.__version__, **installed},
        "threads": args.threads,
    }


def read_rows(path: Path, shared: dict[str, Any]) -> list[Row]:
    """Rows of an earlier run. Exits where they were measured in other circumstances."""
    if not path.exists():
        return []
    facts = json.loads(path.read_text(encoding="utf-8"))
    for name, value in shared.items():
        if facts[name] != value:
            raise SystemExit(f"{path} holds rows with {name} {facts[name]}, here it is {value}; choose another --json")
    return [row_of(row) for row in facts["rows"]]


def write_rows(path: Path, shared: dict[str, Any], most: peaks.Peaks, rows: list[Row]) -> None:
    """`most`: what the machine did at most when the last of the rows were measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {**shared, "peaks": asdict(most), "rows": [row.facts() for row in rows]}
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{name} {number}" for name, number in shared["versions"].items())
    reached = f"{most.bandwidth / 1e9:.1f} GB/s, {most.int8 / 1e9:.0f} Gop/s int8, {most.float32 / 1e9:.0f} float32"
    head = f"{shared['machine']}, {shared['threads']} threads, at most {reached}; {versions}.\n"
    path.with_suffix(".md").write_text(f"{head}{left_out()}\n{tables(rows)}", encoding="utf-8")


def left_out() -> str:
    missing = [peer.package for peer in PEERS if not peer.installed]
    return f"Left out, not installed: {', '.join(missing)}.\n" if missing else ""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="default: all of them")
    parser.add_argument("--types", default="", help="default: all, but for depth and batch " + ", ".join(FEW_TYPES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", help="random:SHAPE, or a GGUF as it is; default: random:llama-3.2-1b")
    parser.add_argument("--large-model", help="random:SHAPE, for first-token; default: random:llama-3-8b")
    parser.add_argument("--text", type=Path, help="for perplexity; default: what cria is to write")
    parser.add_argument("--window", type=int, default=512, help="tokens, for perplexity; default: 512")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/cpu_vs_peers.json")
    parser.add_argument(
        "--quick", action="store_true", help="tiny models, one round: tries the script, measures nothing"
    )
    args = parser.parse_args()
    args.rows, args.types = args.rows.split(","), list(filter(None, args.types.split(",")))
    for name in args.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name!r}, expected some of {', '.join(ROWS)}")
    args.model = args.model or ("random:tiny" if args.quick else "random:llama-3.2-1b")
    args.large_model = args.large_model or ("random:tiny" if args.quick else "random:llama-3-8b")
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.json = args.json or (CACHE / "quick.json" if args.quick else HERE / "results" / "cpu_vs_peers.json")
    return args


def main() -> None:
    args = parse()
    runtime.set_threads(args.threads)
    args.peaks = peaks.measure()
    shared = circumstances(args)
    before = [] if args.quick else read_rows(args.json, shared)
    rows: list[Row] = []
    for row in all_rows(args):
        rows.append(row)
        write_rows(args.json, shared, args.peaks, merged(before, rows))
        print(tables([row]), file=sys.stderr)
    print(f"{left_out()}{tables(rows)}", end="")


if __name__ == "__main__":
    main()
