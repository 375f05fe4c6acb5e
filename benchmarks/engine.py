"""What the engine's features gain or cost, beside the engine without them, in turns in one process.

Rows:
- lookup, repeats: an answer that is a text of its prompt, word for word (a grammar sees to that), with guesses from the
  prompt and without: the most that lookup gives.
- lookup, strange: an answer that nothing foretells (drawn from random weights): what looking for nothing costs.
- adapters: four answers at once, of the model as it is, and each with a LoRA adapter of its own (rank 16, all weights).
- masks: milliseconds to find which tokens may come next, at the model's vocabulary, along random answers.

usage: engine.py [--rows lookup,adapters,masks] [--model random:llama-3.2-1b:Q4_K_M] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers.load import percentile, table
from safetensors.numpy import save_file

import pronk
from pronk.api import Llama
from pronk.checkpoints.names import to_hf
from pronk.engine.grammar import Grammar, GrammarCompiler
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams

ANSWER = 128  # tokens
ALONE = [chr(i) for i in range(1, 32) if chr(i) not in "\t\n\r"]  # in no vocabulary a part of a longer token
ROWS = ("lookup", "adapters", "masks")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 5},
        "born": {"type": "string", "format": "date"},
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
GRAMMARS = {
    "JSON object": Grammar.json_object(),
    "JSON schema": Grammar.json_schema(SCHEMA),
    "regular expression": Grammar.regex(r"([A-Z][a-z]+ ){1,9}(\d{1,3}\.){3}\d{1,3}"),
    "choice of 500": Grammar.choice([f"number {i:03d} of the list" for i in range(500)]),
    "Lark": Grammar.lark('start: item ("," item)*\nitem: /[a-z]+/ "=" (NUMBER | "[" start "]")\nNUMBER: /-?\\d+/'),
}


def speed(llama: Llama, requests: Sequence[Request]) -> tuple[float, list[Any]]:
    """(tokens a second of decoding, results)."""
    results = llama.run(requests).results
    slowest = max(result.timings.decode_seconds for result in results)
    return sum(result.usage.completion_tokens - 1 for result in results) / slowest, results


def in_turns(rounds: int, sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()  # warm up
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def prompt_of(llama: Llama, count: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(256, min(llama.tokenizer.vocab_size, 8000)) for _ in range(count))


def lookup_rows(args: argparse.Namespace) -> dict[str, Any]:
    rows = {}
    with pronk.load(args.model, context=1024, lookup=True) as guessing, pronk.load(args.model, context=1024) as plain:
        text = "".join(random.Random(1).choices(ALONE, k=ANSWER))
        ids = tuple(plain.tokenizer.encode(text, bos=True))
        strange = SamplingParams(temperature=1, top_p=1, seed=1, max_tokens=ANSWER, ignore_eos=True)
        wanted = {
            "repeats": Request(ids, SamplingParams(temperature=0, max_tokens=ANSWER, grammar=Grammar.choice([text]))),
            "strange": Request(ids, strange),
        }
        for name, request in wanted.items():
            drafted: list[int] = []

            def side(llama: Llama, request: Request = request, drafted: list[int] = drafted) -> float:
                figure, results = speed(llama, [Request(request.prompt, request.params)])
                drafted[:] = [results[0].timings.drafted_tokens, results[0].timings.accepted_tokens]
                return figure

            figures = in_turns(args.rounds, {"without": lambda: side(plain), "with": lambda: side(guessing)})
            rows[f"lookup, {name}"] = {"figures": figures, "drafted, accepted": list(drafted)}
    return rows


def adapters_row(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory, pronk.load(args.model, context=1024) as llama:
        names = [llama.load_adapter(write_adapter(llama, Path(directory) / f"a{i}", seed=i)) for i in range(4)]
        params = SamplingParams(temperature=0, max_tokens=ANSWER // 2, ignore_eos=True)

        def side(adapters: Sequence[str | None]) -> float:
            prompts = [prompt_of(llama, 32, i) for i in range(4)]
            return speed(llama, [Request(p, params, adapter=a) for p, a in zip(prompts, adapters, strict=True)])[0]

        return {
            "adapters": {
                "figures": in_turns(args.rounds, {"without": lambda: side([None] * 4), "with": lambda: side(names)})
            }
        }


def write_adapter(llama: Llama, folder: Path, seed: int, rank: int = 16) -> Path:
    """A PEFT directory with random pairs on every weight of the layers."""
    folder.mkdir()
    rng, tensors = np.random.default_rng(seed), {}
    for name, (out, *width) in llama.config.tensor_shapes().items():
        if name.startswith("layers.") and width:
            module = f"base_model.model.{to_hf(name).removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = rng.normal(size=(rank, *width)).astype(np.float32) / 100
            tensors[f"{module}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32) / 100
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({name.rsplit(".", 3)[1] for name in tensors})
    facts = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def masks_row(args: argparse.Namespace) -> dict[str, Any]:
    with pronk.load(args.model, context=256) as llama:
        stops = llama.tokenizer.stop_ids
        compiler = GrammarCompiler(llama.tokenizer, stops)
        rows = {}
        for name, grammar in GRAMMARS.items():
            start = time.perf_counter()
            compiler.check(grammar)
            compiled = time.perf_counter() - start
            times = [t for seed in range(20) for t in _walk(compiler, grammar, stops, random.Random(seed))]
            rows[name] = {
                "masks": len(times),
                "compiled in (ms)": round(compiled * 1e3, 1),
                "median (ms)": round(statistics.median(times) * 1e3, 3),
                "p99 (ms)": round(percentile(times, 99) * 1e3, 3),
            }
        return {"masks": {"vocabulary": llama.tokenizer.vocab_size, **rows}}


def _walk(compiler: GrammarCompiler, grammar: Grammar, stops: Any, rng: random.Random) -> list[float]:
    """The seconds of each mask along one answer of random tokens that the grammar allows."""
    matcher, answer, times = compiler.matcher(grammar, stops), [], []
    while len(answer) < ANSWER and not matcher.complete(answer):
        start = time.perf_counter()
        mask = matcher.allowed(answer)
        times.append(time.perf_counter() - start)
        (words,) = mask.nonzero()
        word = int(rng.choice(words))
        token = 32 * word + rng.choice([bit for bit in range(32) if int(mask[word]) >> bit & 1])
        if token in stops:
            break
        answer.append(token)
    return times


def lines(row: str, facts: dict[str, Any]) -> list[list[str]]:
    if "figures" in facts:
        without, with_ = (statistics.median(facts["figures"][side]) for side in ("without", "with"))
        known = f"{facts['drafted, accepted']}" if "drafted, accepted" in facts else ""
        return [[row, f"{without:.1f}", f"{with_:.1f}", f"**{with_ / without:.2f}**", known]]
    return [[f"masks, {name}", *map(str, one.values())] for name, one in facts.items() if isinstance(one, dict)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--model", default="random:llama-3.2-1b:Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "engine.json")
    args = parser.parse_args()
    pronk.native.runtime.set_threads(args.threads)
    made: dict[str, Any] = {}
    for name in args.rows.split(","):
        if name not in ROWS:
            parser.error(f"unknown row {name!r}, expected some of {', '.join(ROWS)}")
        made |= {"lookup": lookup_rows, "adapters": adapters_row, "masks": masks_row}[name](args)
        print(f"{name} done", file=sys.stderr)
    args.json.write_text(json.dumps({"model": args.model, "threads": args.threads, "rows": made}, indent=1) + "\n")
    head = ["row", "without, tokens/s", "with", "ratio", "guessed, right"]
    print(table(head, [line for row, facts in made.items() if "figures" in facts for line in lines(row, facts)]))
    head = ["row", "masks", "compiled in (ms)", "median (ms)", "p99 (ms)"]
    print(table(head, [line for row, facts in made.items() if "figures" not in facts for line in lines(row, facts)]))


if __name__ == "__main__":
    main()
