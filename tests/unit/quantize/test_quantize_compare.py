"""Comparing: zero for a model with itself, the definitions otherwise; reports that stand alone."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pronk
from pronk.backends import make_backend
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.random import random_checkpoint
from pronk.errors import RequestError
from pronk.model.llama import load_model
from pronk.model.perplexity import PAGE, perplexity
from pronk.quantize import compare, report, texts
from pronk.tensors import codec, types
from pronk.tensors.lazy import LazyTensor

TEXT = "ba be bi bo bu do di da " * 40


def compared(*types: str):
    base = random_checkpoint("tiny", "F16")
    models = [random_checkpoint("tiny", type) for type in types]
    windows = texts.windows(base, TEXT, 64, 3)
    return compare.compare(base, models, make_backend("cpu"), windows, labels=types)


def test_a_model_does_not_differ_from_itself() -> None:
    (same,) = compared("F16")
    assert same.kl.max() == 0.0
    assert same.agrees.all()
    assert not same.shift.any()
    assert (same.perplexity_ratio, same.perplexity_ratio_stderr) == (1.0, 0.0)
    assert same.tokens == 3 * 31


def rounded(source: Checkpoint, type: str) -> Checkpoint:
    """All matrices in this type."""
    kind = types.by_name(type)
    tensors = {
        name: LazyTensor(name, tensor.shape, kind, functools.partial(codec.encode, tensor.array(), kind))
        if len(tensor.shape) == 2
        else tensor
        for name, tensor in source.tensors.items()
    }
    return replace(source, tensors=tensors)


def test_fewer_bits_of_a_trained_model_are_a_larger_difference() -> None:
    """On what it says itself, where it is sure; the factors are in fact near ten."""
    base = open_checkpoint("cria")
    with pronk.load("cria") as cria:
        said = cria.complete("Once upon a time,", n=3, seed=1, max_tokens=120, echo=True)
    windows = texts.windows(base, "\n".join(c.text for c in said), 64, 4)
    models = [base, *(rounded(base, type) for type in ("Q6_K", "Q4_0", "Q2_K"))]
    same, six, four, two = compare.compare(base, models, make_backend("cpu"), windows)
    assert same.kl.max() == 0.0
    assert 0 < 3 * six.kl.mean() < four.kl.mean() < two.kl.mean() / 3
    assert six.agrees.mean() > max(0.9, two.agrees.mean())


def test_perplexity_is_that_of_the_perplexity_verb() -> None:
    (other,) = compared("Q8_0")
    base = random_checkpoint("tiny", "Q8_0")
    model = load_model(base.config, base.tensors, make_backend("cpu"))
    ids = [t for w in texts.windows(base, TEXT, 64, 3) for t in w]
    found = perplexity(model, ids, 64, bos_id=base.load_tokenizer().bos_id)
    assert other.perplexity == pytest.approx(found.perplexity, rel=1e-6)
    assert PAGE == 32


def test_rows_are_compared_by_the_definitions() -> None:
    dice = np.random.default_rng(0)
    a, b = (dice.normal(size=(150, 40)).astype(np.float32) for _ in range(2))
    at = dice.integers(0, 40, 150)
    rows = compare.compare_rows(a, b, at)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(rows.kl, (p * np.log(p / q)).sum(1), rtol=1e-9)
    np.testing.assert_allclose(rows.shift, (q - p)[np.arange(150), at], atol=1e-12)
    np.testing.assert_allclose(rows.nll, -np.log(q[np.arange(150), at]))
    assert np.array_equal(rows.agrees, a.argmax(1) == b.argmax(1))


def test_facts_are_in_order() -> None:
    facts = compared("Q8_0")[0].facts()
    kl = facts["kl"]
    marks = [kl[f"p{p:g}"] for p in compare.PERCENTILES]
    assert kl["max"] >= marks[0]
    assert marks == sorted(marks, reverse=True)
    assert kl["min"] <= marks[-1]
    assert facts["shift"]["largest"] >= facts["shift"]["rms"] > 0
    assert 0 <= facts["top1"] <= 1


def test_other_vocabularies_cannot_be_compared() -> None:
    base = random_checkpoint("tiny")
    other = random_checkpoint("tinyllama-1.1b", "Q4_0")
    with pytest.raises(RequestError, match=r"has 32000 tokens and random:tiny:BF16 512"):
        compare.compare(base, [other], make_backend("cpu"), [[1, 2, 3, 4]])


def test_reports_have_a_row_a_model_and_plots_that_are_xml(tmp_path: Path) -> None:
    found = compared("Q8_0", "F16")
    for ending in ("md", "html"):
        path = tmp_path / f"r.{ending}"
        report.write(path, "base <b>|", "a text", found)
        text = path.read_text(encoding="utf-8")
        assert "<b>" not in text
        assert "Q8_0" in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        plots = [part.partition("</svg>")[0] for part in text.split("<svg")[1:]]
        assert len(plots) == 2
        for plot in plots:
            ElementTree.fromstring(f"<svg{plot}</svg>")
    with pytest.raises(RequestError, match=r"a report is \.md or \.html"):
        report.write(tmp_path / "r.pdf", "base", "a text", found)
