"""pronk and llama.cpp on the same GGUF files, the same cores, in one run: prefill, decode, time to the first token.

Each setting of llama.cpp (weights repacked or not, flash attention or not) runs in a process of its own, and so does
pronk; they take turns, round by round, so that a drift of the machine hits all of them. The figure is the ratio of
medians to llama.cpp's best setting. Let nothing else run meanwhile. Files are random weights of real shapes (up to 5 GB
on disk).

usage: cpu_vs_llama_cpp.py [--types F16,Q8_0,Q4_K_M] [--rounds 3] [--first-token] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pronk
from pronk.native import runtime

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("PRONK_BENCH_DIR", HERE / ".cache"))
PEER = HERE / "peers" / "llama_cpp_bench.py"
SETTINGS = {
    "llama.cpp": ["--repack", "--flash"],
    "llama.cpp, no repack": ["--no-repack", "--flash"],
    "llama.cpp, no flash": ["--repack", "--no-flash"],
    "llama.cpp, neither": ["--no-repack", "--no-flash"],
}


def run_json(command: list[str]) -> dict[str, object]:
    result: dict[str, object] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def model_file(shape: str, kind: str) -> Path:
    """A GGUF of random weights, written once."""
    path = CACHE / f"{shape}-{kind}.gguf"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"writing {path.name}", file=sys.stderr)
        command = [sys.executable, "-m", "pronk", "convert", f"random:{shape}:{kind}", str(path), "--to", "gguf"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def speeds(path: Path, prompt: int, decode: int, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """{engine: {test: median tokens a second}}; the engines take turns."""
    common = ["-p", str(prompt), "-n", str(decode), "-r", "1", "--threads", str(threads)]
    engines = {"pronk": [sys.executable, "-m", "pronk", "bench", str(path), *common, "--json"]}
    for name, flags in SETTINGS.items():
        engines[name] = [sys.executable, str(PEER), str(path), *common, *flags]
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
    for _ in range(rounds):
        for name, command in engines.items():
            for row in run_json(command)["rows"]:  # type: ignore[attr-defined]
                samples[name].setdefault(row["test"], []).append(row["median"])
    return {
        name: {test: statistics.median(values) for test, values in tests.items()} for name, tests in samples.items()
    }


def speed_rows(kinds: list[str], args: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for kind in kinds:
        measured = speeds(model_file(args.shape, kind), args.p, args.n, args.rounds, args.threads)
        for test in measured["pronk"]:
            peers = {name: tests[test] for name, tests in measured.items() if name != "pronk"}
            best = max(peers, key=lambda name: peers[name])
            ratio = measured["pronk"][test] / peers[best]
            row = {"model": f"{args.shape} {kind}", "test": test, "pronk": measured["pronk"][test]}
            rows.append(row | {"best peer": best, "peer": peers[best], "ratio": ratio, "all": peers})
            figures = f"pronk {row['pronk']:8.1f}  peer {peers[best]:8.1f} ({best})  x{ratio:.2f}"
            print(f"{args.shape} {kind:8} {test:7} {figures}")
    return rows


def first_token_rows(args: argparse.Namespace) -> list[dict[str, object]]:
    """Seconds of a whole process that opens an 8B model (file in the page cache) and makes a token; peak memory."""
    path = model_file("llama-3-8b", "Q4_K_M")
    one_token = ["-p", "Once upon a time there was", "-n", "1", "--temperature", "0", "--ctx", "64"]
    engines = {"pronk": [sys.executable, "-m", "pronk", "complete", str(path), *one_token]}
    for name, flags in SETTINGS.items():
        engines[name] = [sys.executable, str(PEER), str(path), "--first-token", *flags]
    samples: dict[str, list[tuple[float, int]]] = {name: [] for name in engines}
    whole_process([*engines["pronk"], "--threads", str(args.threads)])  # the file is in the page cache from here on
    for _ in range(args.rounds):
        for name, command in engines.items():
            samples[name].append(whole_process([*command, "--threads", str(args.threads)]))
    size = path.stat().st_size
    rows: list[dict[str, object]] = []
    for name, values in samples.items():
        seconds = statistics.median(s for s, _ in values)
        peak = statistics.median(b for _, b in values)
        rows.append({"engine": name, "seconds": seconds, "peak bytes": peak, "file bytes": size})
        print(f"8B Q4_K_M first token: {name:22} {seconds:6.2f} s, peak {peak / 1e9:.2f} GB (file {size / 1e9:.2f} GB)")
    return rows


def whole_process(command: list[str]) -> tuple[float, int]:
    """Wall seconds and peak resident bytes, mapped file pages counted, from start to exit."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} exited with {status}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--types", default="F16,Q8_0,Q4_K_M")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--first-token", action="store_true", help="only the 8B first-token test")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "cpu_vs_llama_cpp.json")
    args = parser.parse_args()
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {runtime.isa()}, {runtime.usable_cores()} cores",
        "versions": {"pronk": pronk.__version__, "llama-cpp-python": version("llama-cpp-python")},
        "threads": args.threads,
    }
    if args.json.exists():
        result = json.loads(args.json.read_text()) | result
    if args.first_token:
        result["first token"] = first_token_rows(args)
    else:
        result["speed"] = speed_rows(args.types.split(","), args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
