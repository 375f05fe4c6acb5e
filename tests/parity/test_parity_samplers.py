"""llama.cpp's own samplers and ours leave the same tokens of a row, with the same logits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pronk
from pronk.checkpoints.open import open_tokenizer
from pronk.engine.samplers_text import TokenTexts
from support import llama_cpp_samplers
from support.sampler_chain import start

if find_spec("llama_cpp") is None:  # not imported here: it opens files at import and never closes them
    pytest.skip("llama-cpp-python is not installed", allow_module_level=True)

CRIA = Path(pronk.__file__).parent / "models" / "cria.gguf"
BREAKERS = ["\n", ":", "ll", ". "]

# What a case asks of llama.cpp, and of our reference, which the kernel is held against elsewhere.
CASES: list[tuple[list[tuple[str, list[Any]]], tuple[str, ...], dict[str, Any]]] = [
    ([("top_n_sigma", [1.0])], ("top_n_sigma",), {"top_n_sigma": 1.0}),
    ([("top_n_sigma", [0.3])], ("top_n_sigma",), {"top_n_sigma": 0.3}),
    ([("typical", [0.8, 0])], ("typ_p",), {"typical_p": 0.8}),
    ([("min_p", [0.05, 0]), ("temp", [0.7])], ("min_p", "temperature"), {"min_p": 0.05, "temperature": 0.7}),
    ([("xtc", [1.0, 0.05, 0, 1])], ("xtc",), {"xtc_probability": 1.0, "xtc_threshold": 0.05}),
    ([("xtc", [1.0, 0.6, 0, 1])], ("xtc",), {"xtc_probability": 1.0, "xtc_threshold": 0.6}),
    (
        [("top_k", [20]), ("top_p", [0.9, 0]), ("xtc", [1.0, 0.1, 0, 1]), ("temp", [1.3])],
        ("top_k", "top_p", "xtc", "temperature"),
        {"top_k": 20, "top_p": 0.9, "xtc_probability": 1.0, "xtc_threshold": 0.1, "temperature": 1.3},
    ),
    (
        [("top_k", [30]), ("temp_ext", [0.9, 0.5, 1.5])],
        ("top_k", "temperature"),
        {"top_k": 30, "temperature": 0.9, "dynatemp_range": 0.5, "dynatemp_exponent": 1.5},
    ),
    (
        [("temp_ext", [0.4, 0.6, 1.0])],
        ("temperature",),
        {"temperature": 0.4, "dynatemp_range": 0.6},
    ),
]


def test_filters_and_temperatures_leave_what_llama_cpp_leaves() -> None:
    rows = [(np.random.default_rng(seed).normal(size=200) * 2.5).astype(np.float32) for seed in range(4)]
    asked = [{"logits": row.tolist(), "chain": chain} for chain, _, _ in CASES for row in rows]
    found = llama_cpp_samplers.apply(asked, CRIA)
    wanted = [start(row, **options).run(steps) for _, steps, options in CASES for row in rows]
    for theirs, ours in zip(found, wanted, strict=True):
        if ours.margin < 1e-4:
            continue
        assert sorted(theirs) == ours.ids.tolist()
        assert [theirs[i] for i in ours.ids] == pytest.approx(ours.z.tolist(), rel=1e-4, abs=1e-4)


TEXTS = [
    "the cat and the cat and the",
    "one: two three one: two",
    "hello hello hello hell",
    "a b a b a b\na b a b",
    "He fell. He fell. He",
    "nothing twice",
]
NUMBERS = [(0.8, 1.75, 2, 99), (2.0, 3.0, 1, 6), (1.0, 1.2, 0, 99)]  # multiplier, base, allowed length, range


def test_dry_takes_off_what_llama_cpp_takes_off() -> None:
    """With breakers that are one token, part of one, or several."""
    tokenizer = open_tokenizer("cria")
    heads, starts, tails = TokenTexts(tokenizer).breakers(tuple(BREAKERS))
    breakers = [(int(h), tuple(tails[starts[i] : starts[i + 1]].tolist())) for i, h in enumerate(heads)]
    row = np.random.default_rng(1).normal(size=tokenizer.vocab_size).astype(np.float32)
    wanted = [(tokenizer.encode(text, bos=False), numbers) for text in TEXTS for numbers in NUMBERS]
    asked = [
        {"logits": row.tolist(), "chain": [("dry", [*numbers, BREAKERS])], "history": history}
        for history, numbers in wanted
    ]
    penalised = 0
    for (history, (multiplier, base, allowed, last)), theirs in zip(
        wanted, llama_cpp_samplers.apply(asked, CRIA), strict=True
    ):
        ours = start(
            row, dry_multiplier=multiplier, dry_base=base, dry_allowed_length=allowed, dry_history=history[-last:],
            breakers=breakers,
        ).run(("dry",))  # fmt: skip
        changed = {i for i in range(len(row)) if theirs[i] != row[i]}
        penalised += len(changed)
        assert changed == {int(i) for i in ours.ids if ours.z[i] != row[i]}
        assert [theirs[i] for i in range(len(row))] == pytest.approx(ours.z.tolist(), rel=1e-5, abs=1e-5)
    assert penalised > 20
