"""Makes cria: corpus, tokenizer, pretraining, fine-tuning, export. `make cria` runs it.

    python -m recipes.cria [--work DIRECTORY] [--output FILE.gguf] [--smoke] [--no-compile] [--processes N]

Each step's result lies in the work directory and is not made again, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from recipes.cria import corpus as corpora
from recipes.cria import plan as plans
from recipes.cria import tokenizer, words
from recipes.cria.plan import Plan

_SHIPPED = Path(__file__).parents[2] / "src/pronk/models/cria.gguf"


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    plan = plans.SMOKE if options.smoke else plans.FULL
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    _check_plan(plan, work)
    tokenizer_file = _tokenizer(plan, work)
    _corpus(plan, work, tokenizer_file, "held_back", options.processes)
    for stage in plan.stages:
        _corpus(plan, work, tokenizer_file, stage.name, options.processes)

    from recipes.cria import curves, export, together, training  # PyTorch is loaded once there is something to train

    workers = 1 if training.has_gpu() else options.processes
    together.run(workers, training.train, plan, work, options.compile and not options.smoke)
    network = training.trained(plan, work)
    export.write(network, tokenizer_file, work / "cria-F32.gguf", work / "cria.gguf")
    curves.draw(work / "log.jsonl", work / "curves.svg")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / "cria.gguf", options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes.cria", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/cria"), help="where the steps' results lie")
    parser.add_argument("--output", type=Path, default=_SHIPPED, help="where the model goes")
    parser.add_argument("--smoke", action="store_true", help="try every step in seconds; the model knows nothing")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=shutil.which("c++") is not None,
        help="compile the network with torch.compile: a fifth faster, needs a C++ compiler",
    )  # fmt: skip
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that make the corpus and train, one a core",
    )
    return parser.parse_args(arguments)


def _check_plan(plan: Plan, work: Path) -> None:
    """Steps of another plan must not be taken for this one's."""
    path, wanted = work / "plan.json", json.dumps(asdict(plan), indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        sys.exit(f"{work} holds a run of another plan ({path}); remove it, or choose another directory with --work")
    path.write_text(wanted, encoding="utf-8")


def _tokenizer(plan: Plan, work: Path) -> bytes:
    path = work / "tokenizer.model"
    _once(path, lambda part: part.write_bytes(
        tokenizer.train(
            corpora.texts(plan), plan.model.vocab_size - plans.SPECIAL_TOKENS, words.chinese_characters()
        )
    ))  # fmt: skip
    return path.read_bytes()


def _corpus(plan: Plan, work: Path, tokenizer_file: bytes, name: str, processes: int) -> None:
    path = work / f"{name}.npz"
    stages = {stage.name: stage.corpus for stage in plan.stages}
    chosen = stages.get(name) or corpora.held_back_plan(plan)
    _once(path, lambda part: corpora.make(plan, chosen, name, tokenizer_file, processes).save(part))


def _once(path: Path, make: Callable[[Path], object]) -> None:
    """A file that is there is whole: it is made under another name first."""
    if path.exists():
        return
    print(f"making {path}", flush=True)
    part = path.with_name(f"part-{path.name}")
    make(part)
    part.replace(path)


if __name__ == "__main__":
    main()
