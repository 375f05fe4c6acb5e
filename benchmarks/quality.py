"""What quantizing costs: mixes by pronk and by llama.cpp, DynamicGate against plain types, a byte budget against mixes.

usage: python benchmarks/quality.py [--model build/cria/cria-F32.gguf] [--rows mixes,dynamicgate,target] [--types LIST]
                                    [--matrix] [--orders 4] [--texts 150] [--json]
                                    [--file TEXT --calibration TEXT]

Figures are KL divergence from MODEL and perplexity over MODEL's, on the held-out text. Without --file the texts are
cria's: stories and answers of the held-out split to measure on, of the training split for the importance matrix.
--matrix gives it to the mixes as well; the other rows always have it. llama.cpp quantizes the same file with the same
matrix, and pronk's kernels run both results.

How well one file happens to quantize is a draw. --orders quantizes the same function that many times, with the channels
of its residual stream and of its feed-forward layers in other orders, and prints means and how often each was better.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))  # the recipe is no part of the package

from peers.llama_quantize import llama_cpp_quantize
from peers.models import reordered

from pronk.backends import make_backend
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_checkpoint
from pronk.errors import CheckpointError
from pronk.quantize import recipes, target, texts
from pronk.quantize.collect import collect
from pronk.quantize.compare import compare
from pronk.quantize.importance import ImportanceMatrix
from pronk.quantize.quantizer import quantize
from recipes.cria.corpus import prose

MIXES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS",
    "IQ2_XXS", "IQ1_M", "IQ1_S",
)  # fmt: skip
NEED_MATRIX = ("Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
GATED = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "Q2_K", "Q3_K")
WINDOW = 256
AT_ONCE = 8  # models that are compared at once


@dataclass(frozen=True)
class File:
    """One quantized model. `pair`: which it is compared with, and `side`: 0 or 1 in it."""

    pair: str
    side: int
    recipe: str
    by: str
    path: Path


@dataclass(frozen=True)
class Cost:
    """Of one file: bits a weight, perplexity over the original's, and the mean KL divergence."""

    bits: float
    perplexity_ratio: float
    kl: float


@dataclass(frozen=True)
class Bench:
    source: Checkpoint
    calibration: Sequence[Sequence[int]]
    matrix: ImportanceMatrix
    folder: Path

    def ours(self, pair: str, side: int, name: str, recipe: recipes.Recipe, matrix: ImportanceMatrix | None) -> File:
        path = self.folder / f"{pair}-{side}.gguf"
        plan = recipes.plan(recipe, self.source.config, weighted=matrix is not None)
        quantize(self.source, path, plan, importance=matrix)
        return File(pair, side, name, "pronk", path)

    def theirs(self, name: str, matrix: ImportanceMatrix | None) -> File:
        path = self.folder / f"{name}-1.gguf"
        llama_cpp_quantize(self.source, path, name, matrix)
        return File(name, 1, name, "llama.cpp", path)

    def budgeted(self, pair: str, size: int) -> File:
        """Types chosen for a file whose tensors have at most as many bytes."""
        budget = target.budget_of_bits(self.source, 8 * size / self.source.config.parameter_count())
        choices = target.options(self.source, self.matrix)
        bits = 8 * budget / self.source.config.parameter_count()
        gains = target.measured_gains(
            self.source, choices, bits, self.matrix, make_backend("cpu"), self.calibration[:8]
        )
        path = self.folder / f"{pair}-0.gguf"
        plan = target.plan(self.source, target.choose(choices, gains, budget), "target")
        quantize(self.source, path, plan, importance=self.matrix)
        return File(pair, 0, "target", "pronk", path)


def mixes(bench: Bench, wanted: Sequence[str], always: bool) -> Iterator[File]:
    for name in wanted:
        matrix = bench.matrix if always or name in NEED_MATRIX else None
        yield bench.ours(name, 0, name, recipes.named(name), matrix)
        yield bench.theirs(name, matrix)


def gated(bench: Bench, wanted: Sequence[str]) -> Iterator[File]:
    for name in wanted:
        plain = "Q3_K_S" if name == "Q3_K" else name  # Q3_K stands for Q3_K_M, which has more bits in places
        yield bench.ours(name, 0, f"dynamicgate {name}", recipes.dynamicgate(name), bench.matrix)
        yield bench.ours(name, 1, plain, recipes.named(plain), bench.matrix)


def targets(bench: Bench, wanted: Sequence[str]) -> Iterator[File]:
    for name in wanted:
        mix = bench.ours(name, 1, name, recipes.named(name), bench.matrix)
        try:
            yield bench.budgeted(name, open_checkpoint(str(mix.path)).nbytes)
        except CheckpointError as error:
            print(f"{name}: {error}", file=sys.stderr)
        else:
            yield mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="build/cria/cria-F32.gguf", help="a GGUF file of floats")
    parser.add_argument("--rows", default="mixes,dynamicgate,target")
    parser.add_argument("--types", help="mixes, separated by commas; default: all")
    parser.add_argument("--matrix", action="store_true", help="the importance matrix for all mixes")
    parser.add_argument("--orders", type=int, default=1, help="how many orders of the channels; default: 1")
    parser.add_argument("--texts", type=int, default=150, help="of each kind and language, to measure on; default: 150")
    parser.add_argument("--file", type=Path, help="the text to measure on")
    parser.add_argument("--calibration", type=Path, help="the text for the importance matrix")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    original = open_checkpoint(args.model)
    text = args.file.read_text(encoding="utf-8") if args.file else prose("held_out", 7, args.texts)
    calibration = args.calibration.read_text(encoding="utf-8") if args.calibration else prose("train", 8)
    windows, calibrating = (texts.windows(original, one, WINDOW) for one in (text, calibration))
    named = args.types.split(",") if args.types else None
    kinds: dict[str, Callable[[Bench], Iterator[File]]] = {
        "mixes": lambda bench: mixes(bench, named or MIXES, args.matrix),
        "dynamicgate": lambda bench: gated(bench, named or GATED),
        "target": lambda bench: targets(bench, named or MIXES),
    }
    seen: dict[str, dict[tuple[str, int], list[tuple[File, Cost]]]] = {kind: {} for kind in args.rows.split(",")}
    for order in range(args.orders):
        with tempfile.TemporaryDirectory() as folder:
            source = original
            if order:
                convert(reordered(original, order), Path(folder) / "source.gguf", "gguf")
                source = open_checkpoint(str(Path(folder) / "source.gguf"))
            matrix = collect(source, make_backend("cpu"), calibrating, output=False)
            bench = Bench(source, calibrating, matrix, Path(folder))
            for kind, found in seen.items():
                for file, cost in costs(source, kinds[kind](bench), windows):
                    found.setdefault((file.pair, file.side), []).append((file, cost))
                    if args.json:
                        line = {"rows": kind, "order": order, "recipe": file.recipe, "by": file.by, **asdict(cost)}
                        print(json.dumps(line), flush=True)
    for kind, found in seen.items():
        print(f"\n{kind}\n\n{table(found)}", end="", file=sys.stderr if args.json else sys.stdout)


def costs(source: Checkpoint, files: Iterator[File], windows: Sequence[Sequence[int]]) -> Iterator[tuple[File, Cost]]:
    """Several at a time: the original's logits are computed once for all of them."""
    while some := list(islice(files, AT_ONCE)):
        models = [open_checkpoint(str(file.path)) for file in some]
        for file, one in zip(some, compare(source, models, make_backend("cpu"), windows), strict=True):
            facts = one.facts()
            yield file, Cost(facts["bits_per_weight"], facts["perplexity_ratio"], facts["kl"]["mean"])
            file.path.unlink()


def table(found: dict[tuple[str, int], list[tuple[File, Cost]]]) -> str:
    """Means over the orders. In a pair's second line, the first one's KL over its own, and in how many it is less."""
    lines = ["| types | by | bits | perplexity | KL | ratio | better |", "|---|---|---|---|---|---|---|"]
    for (pair, side), known in found.items():
        bits, perplexity, kl = (
            fmean(getattr(c, name) for _, c in known) for name in ("bits", "perplexity_ratio", "kl")
        )
        compared = "| | |"
        if side:
            first = [cost.kl for _, cost in found[pair, 0]]
            better = sum(a < cost.kl for a, (_, cost) in zip(first, known, strict=True))
            compared = f"| {fmean(first) / kl:.3f} | {better} of {len(known)} |"
        file = known[0][0]
        lines.append(
            f"| {file.recipe} | {file.by} | {bits:.3f} | {100 * (perplexity - 1):+.2f} % | {kl:.5f} {compared}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
