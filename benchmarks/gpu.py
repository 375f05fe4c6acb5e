"""pronk's torch backend and transformers on one device, the same random weights: prefill and decode, tokens a second.

Both hold the weights in one dtype and decode greedily, one token at a time, with a key/value cache; they take turns,
round by round. usage: gpu.py [--device cuda] [--shape llama-3.2-1b] [--dtype bfloat16] [-p 512] [-n 128] [-b 1]
[--rounds 3] [--json FILE]. `--device cpu --shape tiny --dtype float32` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import pronk
from pronk.backends import make_backend
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_checkpoint
from pronk.model.llama import load_model
from pronk.model.speed import Workload, measure

Speeds = dict[str, float]


def ours(directory: Path, args: argparse.Namespace) -> Callable[[], Speeds]:
    checkpoint = open_checkpoint(directory)
    backend = make_backend("torch" if args.device == "cpu" else args.device, dtype=args.dtype)
    model = load_model(checkpoint.config, checkpoint.tensors, backend)

    def run() -> Speeds:
        tests = [Workload(prompt=args.p, sequences=args.b), Workload(decode=args.n, sequences=args.b)]
        prefill, decode = measure(model, tests, repeats=1)
        return {"prefill": prefill.median, "decode": decode.median}

    return run


def theirs(directory: Path, args: argparse.Namespace) -> Callable[[], Speeds]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, args.dtype)).to(args.device).eval()

    def wait() -> float:
        if args.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    @torch.inference_mode()
    def once(count: int) -> Speeds:
        ids = torch.randint(model.config.vocab_size, (args.b, args.p), device=args.device)
        start = wait()
        out = model(ids, use_cache=True, logits_to_keep=1)
        middle = wait()
        for _ in range(count):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        end = wait()
        return {"prefill": args.b * args.p / (middle - start), "decode": args.b * count / (end - middle)}

    def run() -> Speeds:
        once(2)
        return once(args.n)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("-b", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        convert(open_checkpoint(f"random:{args.shape}:BF16"), directory, "hf")
        engines = {"pronk": ours(directory, args), "transformers": theirs(directory, args)}
        samples = [{name: run() for name, run in engines.items()} for _ in range(args.rounds)]
    result: dict[str, object] = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
        "versions": {"pronk": pronk.__version__, "torch": version("torch"), "transformers": version("transformers")},
        "model": f"random:{args.shape}, {args.dtype}, {args.b} x ({args.p} + {args.n})",
    }
    for test in ("prefill", "decode"):
        medians = {name: statistics.median(sample[name][test] for sample in samples) for name in engines}
        result[test] = {**medians, "ratio": medians["pronk"] / medians["transformers"]}
        print(f"{test:8} pronk {medians['pronk']:10.1f}  transformers {medians['transformers']:10.1f} tokens/s")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
