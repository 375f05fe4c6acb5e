"""quantize, imatrix and compare, called as the command line calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pronk.checkpoints.open import open_checkpoint
from pronk.cli import main

TEXT = "ba be bi bo bu do di da " * 60


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main([*map(str, arguments), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake is answered with."""
    assert main(list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_quantize_compare_and_chat(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, page = tmp_path / "a.gguf", tmp_path / "a.html"
    matrices = [len(tensor.shape) == 2 for tensor in open_checkpoint("cria").tensors.values()]
    words = ("quantize", "cria", target, "--type", "Q6_K", "--allow-requantize", "-f", text, "-c", 64, "--report", page)
    facts = run_json(capsys, *words)
    rows = [("Q6_K", matrices.count(True)), ("F32", matrices.count(False) + 1)]  # and how the rotary angles are scaled
    assert [(row["type"], row["tensors"]) for row in facts["rows"]] == rows
    assert facts["bytes"] == target.stat().st_size
    assert facts["bits_per_weight"] == pytest.approx(6.58, abs=0.03)
    assert page.read_text().count("<svg") == 2
    compared = run_json(capsys, "compare", "cria", target, target, "-f", text, "-c", 64)
    assert [row["kl"] for row in compared["models"]] == [facts["cost"]["kl"]] * 2
    assert "exists; choose another" in fail(capsys, *words)
    assert main(["show", str(target)]) == 0
    capsys.readouterr()
    assert "cria" in run_json(capsys, "chat", target, "-p", "Who are you?", "--temperature", 0)["text"]


def test_the_plan_is_shown_without_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("quantize", "random:tiny", tmp_path / "a.gguf", "--dry-run")
    plan = run_json(capsys, *words, "--type", "Q2_K", "--tensor-type", "wv=Q6_K", "--output-tensor-type", "Q8_0")
    kinds = {row["name"]: row["type"] for row in plan["tensors"]}
    assert kinds["layers.1.attention.wv.weight"] == "Q6_K"
    assert kinds["output.weight"] == "Q8_0"
    assert kinds["tok_embeddings.weight"] == "Q2_K"
    plan = run_json(capsys, *words, "--recipe", "dynamicgate", "--type", "IQ3_S", "--token-embedding-type", "F16")
    kinds = {row["name"]: row["type"] for row in plan["tensors"]}
    assert [kinds[f"layers.{i}.attention.wv.weight"] for i in range(4)] == ["IQ4_XS", "IQ3_S", "IQ3_S", "IQ4_XS"]
    assert kinds["tok_embeddings.weight"] == "F16"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sensitivity", ["kl", "importance"])
def test_target_size(sensitivity: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str],
                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from pronk.quantize import target
    from pronk.tensors import types

    monkeypatch.setattr(target, "available", lambda: [types.Q8_0, types.F16])
    words = ("quantize", "random:tiny:F16", tmp_path / "a.gguf", "-f", text, "-c", 32, "--sensitivity", sensitivity)
    facts = run_json(capsys, *words, "--target-size", "5MB")
    assert 4_700_000 < facts["bytes"] <= 5_000_000
    assert {row["type"] for row in facts["rows"]} == {"Q8_0", "F16", "F32"}
    assert "choose a larger target" in fail(capsys, *words, "--overwrite", "--target-bpw", "1.5")


@pytest.mark.parametrize("name", ["m.gguf", "m.dat"])
def test_imatrix_and_its_use(name: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    facts = run_json(capsys, "imatrix", "random:tiny", "-f", text, "-o", path, "-c", 32, "--chunks", 2)
    assert facts == {"path": str(path), "entries": 28, "chunks": 2, "chunk_size": 32, "datasets": [str(text)]}
    merged = run_json(capsys, "imatrix", "--merge", path, "--merge", path, "-o", tmp_path / "both.gguf")
    assert (merged["entries"], merged["chunks"]) == (28, 4)
    words = ("quantize", "random:tiny", tmp_path / "a.gguf", "--imatrix", path, "--type", "IQ2_XXS", "--dry-run")
    assert run_json(capsys, *words)["tensors"]
    assert run_json(capsys, "imatrix", "random:tiny", "--merge", path, "-f", text, "-c", 32, "-o", path)["chunks"] > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "random:tiny", "a.gguf"], "say one of --type"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q4_K_M", "--target-bpw", "3"], "say one of --type"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q9"], "unknown type 'Q9', expected one of"),
        (["quantize", "random:tiny", "a.gguf", "--recipe", "dynamicgate", "--pure"], "--pure goes with --type"),
        (["quantize", "random:tiny", "a.gguf", "--recipe", "no.yaml"], "cannot read no.yaml"),
        (["quantize", "random:tiny", "a.gguf", "--type", "IQ1_S"], "which without an importance matrix is noise"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q8_0", "--imatrix", "no.gguf"], "cannot read no.gguf"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q8_0", "--imatrix", "book.txt"], "is no importance matrix"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q8_0", "--tensor-type", "wx=Q4_0"], "fits no matrix"),
        (["quantize", "random:tiny", "a.gguf", "--target-size", "much"], "is no size"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q8_0", "--report", "a.pdf"], "is .md or .html"),
        (["quantize", "random:tiny", "no/a.gguf", "--type", "Q8_0"], "the directory no does not exist"),
        (["quantize", "no.gguf", "a.gguf", "--type", "Q8_0"], "no.gguf"),
        (["quantize", "random:tiny:Q4_K", "a.gguf", "--type", "Q8_0"], "--allow-requantize"),
        (["quantize", "random:tiny", "a.gguf", "--target-bpw", "nan"], "nan bits a weight"),
        (["quantize", "random:tiny", "a.gguf", "--type", "Q8_0", "--report", "no/a.md"], "the directory no does not"),
        (["imatrix", "-o", "m.gguf"], "no model; name one"),
        (["imatrix", "random:tiny", "-f", "no.txt", "-o", "m.gguf"], "cannot read no.txt"),
        (["imatrix", "random:tiny", "-o", "no/m.gguf", "-c", "32", "--chunks", "1"], "the directory no does not exist"),
        (["imatrix", "--merge", "book.txt", "-o", "m.gguf"], "is no importance matrix"),
        (["compare", "random:tiny", "random:tiny", "-f", "no.txt"], "cannot read no.txt"),
        (["compare", "random:tiny", "random:tiny", "-f", "book.txt", "-c", "4096"], "a window of 4096 tokens"),
        (["compare", "random:tiny", "random:tiny", "-f", "book.txt", "--ctx", "8"], "does not fit into --ctx 8"),
        (["compare", "random:tiny", "random:tiny", "-f", "book.txt", "--report", "a"], "is .md or .html"),
        (["compare", "random:tiny", "random:tinyllama-1.1b:Q4_0", "-f", "book.txt", "-c", "32"], "cannot be compared"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    arguments: list[str], message: str, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(text.parent)
    assert message in fail(capsys, *arguments)
    assert [path.name for path in text.parent.iterdir()] == ["book.txt"]
