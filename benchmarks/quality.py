"""What quantizing costs: mixes by pronk and by llama.cpp, DynamicGate against plain types, a byte budget against mixes.

usage: python benchmarks/quality.py [--model build/cria/cria-F32.gguf] [--rows mixes,dynamicgate,target] [--types LIST]
                                    [--matrix] [--file TEXT --calibration TEXT] [--json]

Figures are KL divergence from MODEL and perplexity over MODEL's, on the held-out text. Without --file the texts are
cria's: stories and answers of the held-out split to measure on, of the training split for the importance matrix.
--matrix gives it to the mixes as well; the other rows always have it. llama.cpp quantizes the same file with the same
matrix, and pronk's kernels run both results.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the recipe is no part of the package

from pronk.backends import make_backend
from pronk.checkpoints import names
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint
from pronk.errors import CheckpointError
from pronk.quantize import recipes, target, texts
from pronk.quantize.collect import collect
from pronk.quantize.compare import compare
from pronk.quantize.importance import ImportanceMatrix
from pronk.quantize.quantizer import quantize
from recipes.cria.conversation import Split
from recipes.cria.skills import questions, stories

MIXES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS",
    "IQ2_XXS", "IQ1_M", "IQ1_S",
)  # fmt: skip
NEED_MATRIX = ("IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
GATED = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "Q2_K", "Q3_K")
WINDOW = 256


@dataclass(frozen=True)
class Cost:
    """One file: bits a weight, perplexity over the original's, and the mean KL divergence with its standard error."""

    recipe: str
    by: str
    bytes: int
    bits: float
    perplexity_ratio: float
    kl: float
    kl_stderr: float


@dataclass(frozen=True)
class Bench:
    source: Checkpoint
    windows: Sequence[Sequence[int]]  # to measure on
    calibration: Sequence[Sequence[int]]
    matrix: ImportanceMatrix
    folder: Path

    def cost(self, recipe: str, by: str, path: Path) -> Cost:
        one = compare(self.source, [open_checkpoint(str(path))], make_backend("cpu"), self.windows)[0].facts()
        path.unlink()
        return Cost(
            recipe, by, one["bytes"], one["bits_per_weight"], one["perplexity_ratio"], one["kl"]["mean"],
            one["kl"]["stderr"],
        )  # fmt: skip

    def ours(self, name: str, recipe: recipes.Recipe, matrix: ImportanceMatrix | None) -> Cost:
        path = self.folder / "ours.gguf"
        quantize(
            self.source, path, recipes.plan(recipe, self.source.config, weighted=matrix is not None), importance=matrix
        )
        return self.cost(name, "pronk", path)

    def theirs(self, name: str, matrix: ImportanceMatrix | None) -> Cost:
        path = self.folder / "theirs.gguf"
        llama_cpp_quantize(self.source, path, name, matrix)
        return self.cost(name, "llama.cpp", path)

    def budgeted(self, size: int) -> Cost:
        """Types chosen for a file whose tensors have at most as many bytes."""
        budget = target.budget_of_bits(self.source, 8 * size / self.source.config.parameter_count())
        choices = target.options(self.source, self.matrix)
        bits = 8 * budget / self.source.config.parameter_count()
        gains = target.measured_gains(
            self.source, choices, bits, self.matrix, make_backend("cpu"), self.calibration[:8]
        )
        path = self.folder / "target.gguf"
        plan = target.plan(self.source, target.choose(choices, gains, budget), "target")
        quantize(self.source, path, plan, importance=self.matrix)
        return self.cost("target", "pronk", path)


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level: int, text: bytes, user: object) -> None:
    """A line a tensor would drown the table."""


def llama_cpp_quantize(source: Checkpoint, path: Path, mix: str, matrix: ImportanceMatrix | None) -> None:
    import llama_cpp.llama_cpp as peer

    peer.llama_log_set(_silent, None)
    params = peer.llama_model_quantize_default_params()
    params.ftype = getattr(peer, f"LLAMA_FTYPE_MOSTLY_{mix}")
    params.nthread = 2
    names_of = {names.to_gguf(name): name for name in source.tensors}
    weights = [(name, values) for name in names_of if matrix and (values := matrix.weights(names_of[name])) is not None]
    table = (peer.llama_model_imatrix_data * (len(weights) + 1))()  # ends with an empty name
    for row, (name, values) in zip(table, weights, strict=False):
        row.name, row.size = name.encode(), len(values)
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if weights:
        params.imatrix = ctypes.cast(table, ctypes.POINTER(peer.llama_model_imatrix_data))
    if peer.llama_model_quantize(str(source.path).encode(), str(path).encode(), ctypes.byref(params)):
        raise SystemExit(f"llama.cpp did not quantize {source.path} to {mix}")


def mixes(bench: Bench, wanted: Sequence[str], always: bool) -> Iterator[Cost]:
    for name in wanted:
        matrix = bench.matrix if always or name in NEED_MATRIX else None
        yield bench.ours(name, recipes.named(name), matrix)
        yield bench.theirs(name, matrix)


def gated(bench: Bench, wanted: Sequence[str]) -> Iterator[Cost]:
    for name in wanted:
        yield bench.ours(name, recipes.named(name), bench.matrix)
        yield bench.ours(f"dynamicgate {name}", recipes.dynamicgate(name), bench.matrix)


def targets(bench: Bench, wanted: Sequence[str]) -> Iterator[Cost]:
    for name in wanted:
        mix = bench.ours(name, recipes.named(name), bench.matrix)
        yield mix
        try:
            yield bench.budgeted(mix.bytes)
        except CheckpointError as error:
            print(f"{name}: {error}", file=sys.stderr)


def cria_text(split: Split, seed: int, count: int = 150) -> str:
    """Stories and answers, `count` of each in each language."""
    rng = random.Random(seed)
    made = [
        skill.exchange(rng, language, split).messages[-1].content
        for skill in (stories, questions)
        for language in ("en", "zh")
        for _ in range(count)
    ]
    rng.shuffle(made)
    return "\n\n".join(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="build/cria/cria-F32.gguf", help="a GGUF file of floats")
    parser.add_argument("--rows", default="mixes,dynamicgate,target")
    parser.add_argument("--types", help="mixes, separated by commas; default: all")
    parser.add_argument("--matrix", action="store_true", help="the importance matrix for all mixes")
    parser.add_argument("--file", type=Path, help="the text to measure on")
    parser.add_argument("--calibration", type=Path, help="the text for the importance matrix")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    source = open_checkpoint(args.model)
    text = args.file.read_text(encoding="utf-8") if args.file else cria_text("held_out", 7)
    calibration = args.calibration.read_text(encoding="utf-8") if args.calibration else cria_text("train", 8)
    windows, calibrating = (texts.windows(source, one, WINDOW) for one in (text, calibration))
    matrix = collect(source, make_backend("cpu"), calibrating, output=False)
    named = args.types.split(",") if args.types else None
    kinds: dict[str, Callable[[Bench], Iterator[Cost]]] = {
        "mixes": lambda bench: mixes(bench, named or MIXES, args.matrix),
        "dynamicgate": lambda bench: gated(bench, named or GATED),
        "target": lambda bench: targets(bench, named or MIXES),
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(source, windows, calibrating, matrix, Path(folder))
        for kind in args.rows.split(","):
            if not args.json:
                print(f"\n{kind}\n\n| types | by | bits | perplexity | KL |\n|---|---|---|---|---|")
            for cost in kinds[kind](bench):
                print(json.dumps({"rows": kind, **asdict(cost)}) if args.json else row(cost), flush=True)


def row(cost: Cost) -> str:
    ratio, kl = f"{100 * (cost.perplexity_ratio - 1):+.2f} %", f"{cost.kl:.5f} ± {cost.kl_stderr:.5f}"
    return f"| {cost.recipe} | {cost.by} | {cost.bits:.3f} | {ratio} | {kl} |"


if __name__ == "__main__":
    main()
