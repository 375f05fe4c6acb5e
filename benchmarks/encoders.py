"""pronk's encoders against llama.cpp's: weighted squared error and processor time, as ratios, for each type.

Values are normal, heavy-tailed (Student's t, 4 degrees of freedom), and real weights: the built-in model's, decoded,
and a checkpoint of floats, where given. Below 1 pronk's are better. The error's weights are the importances that both
encoders are given (or 1 without any); one thread each.

usage: encoders.py [--types Q4_K,IQ2_XXS] [--rows 64] [--floats FILE.bin]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import pronk
from pronk.checkpoints.open import open_checkpoint
from pronk.native import runtime
from pronk.tensors import types
from pronk.tensors.codec import decode, encode
from pronk.tensors.types import TensorType
from support import llama_cpp_encoder

COLUMNS = 1024
QUANTIZED = [t for t in types.ALL if t in types.COMPUTABLE and t.block > 1]


def sources(rows: int, floats: Path | None) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    yield "normal", rng.normal(0, 0.02, (rows, COLUMNS)).astype(np.float32)
    yield "heavy", (rng.standard_t(4, (rows, COLUMNS)) * 0.02).astype(np.float32)
    if floats is not None:
        values = np.fromfile(floats, np.float32, rows * COLUMNS, offset=1 << 18)
        yield "floats", values[: values.size // COLUMNS * COLUMNS].reshape(-1, COLUMNS)
    built_in = Path(pronk.__file__).parent / "models" / "cria.gguf"
    if built_in.exists():
        tensors = open_checkpoint(str(built_in)).tensors
        down = tensors["layers.1.feed_forward.w2.weight"]
        values = decode(down.load(), down.type)[: rows * COLUMNS]
        yield "cria", values.reshape(-1, COLUMNS)


def importances() -> NDArray[np.float32]:
    """As uneven as activations are."""
    rng = np.random.default_rng(1)
    return (rng.standard_normal(COLUMNS) ** 2 * np.exp(rng.standard_normal(COLUMNS)) + 0.01).astype(np.float32)


def measured(
    encoder: Callable[..., NDArray[np.uint8]],
    values: NDArray[np.float32],
    kind: TensorType,
    importance: NDArray[np.float32] | None,
) -> tuple[float, float]:
    """(weighted squared error, seconds)."""
    encoder(values[:1], kind, importance)  # tables are made at the first use
    start = time.process_time()
    data = encoder(values, kind, importance)
    seconds = time.process_time() - start
    miss = values.astype(np.float64) - decode(data, kind).reshape(values.shape)
    return float((miss**2 * (1.0 if importance is None else importance)).sum()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(t.name for t in QUANTIZED))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--floats", type=Path, help="a file of float32 weights")
    args = parser.parse_args()
    if not llama_cpp_encoder.available():
        sys.exit("llama-cpp-python is not installed")
    runtime.set_threads(1)
    print("| type | values | error | with importances | time | with importances |\n|---|---|---|---|---|---|")
    for name in args.types.split(","):
        kind = types.by_name(name)
        for label, values in sources(args.rows, args.floats):
            cells: list[list[str]] = [[], []]
            for importance in (None, importances()):
                if importance is None and name in llama_cpp_encoder.NEEDS_IMPORTANCE:
                    cells[0].append("")
                    cells[1].append("")
                    continue
                ours = measured(encode, values, kind, importance)
                theirs = measured(llama_cpp_encoder.encode, values, kind, importance)
                for column, (a, b) in zip(cells, zip(ours, theirs, strict=True), strict=True):
                    column.append(f"{a / b:.3f}" if b > 0 else "")
            print("|", " | ".join([name, label, *cells[0], *cells[1]]), "|", flush=True)


if __name__ == "__main__":
    main()
