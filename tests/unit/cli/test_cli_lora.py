"""--lora, for every verb that runs a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pronk.checkpoints.open import open_checkpoint
from pronk.cli import main
from support.adapters import random_pairs, write_peft

VERBS = {
    "chat": ["cria", "-p", "Hello", "-n", "6", "--temperature", "0"],
    "complete": ["cria", "-p", "Once upon a time", "-n", "6", "--temperature", "0"],
    "score": ["cria", "-p", "Once upon a time"],
    "perplexity": ["cria", "-f", "text.txt", "-c", "16"],
    "compare": ["cria", "cria", "-f", "text.txt", "-c", "16"],
}
SAID = {"chat": "text", "complete": "text", "score": "logprob", "perplexity": "perplexity"}


@pytest.fixture
def poet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time there was a llama. " * 12, encoding="utf-8")
    return str(write_peft(tmp_path / "poet", random_pairs(open_checkpoint("cria").config, seed=1, size=0.5)))


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    answer: dict = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize("verb", VERBS)
def test_the_adapter_is_in_all_that_a_verb_computes(verb: str, poet: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain, changed, off = (
        result(capsys, verb, *VERBS[verb], *more)
        for more in ((), ("--lora", f"it={poet}"), ("--lora", f"{poet}:0"))
    )  # fmt: skip
    if verb == "compare":  # base and model alike
        (plain,), (changed,), (off,) = (answer["models"] for answer in (plain, changed, off))
        assert changed["kl"]["mean"] == plain["kl"]["mean"]
        assert changed["perplexity"] > plain["perplexity"] == off["perplexity"]
        return
    assert changed[SAID[verb]] != plain[SAID[verb]]
    assert off[SAID[verb]] == plain[SAID[verb]]


def test_bench_and_imatrix_run_with_one(poet: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result(capsys, "bench", "cria", "-p", "8", "-n", "2", "-r", "1", "--lora", poet)["rows"]
    assert [row["test"] for row in rows] == ["pp8", "tg2"]
    assert main(["imatrix", "cria", "-f", "text.txt", "-c", "16", "-o", "with.dat", "--lora", poet]) == 0
    assert main(["imatrix", "cria", "-f", "text.txt", "-c", "16", "-o", "without.dat"]) == 0
    assert Path("with.dat").read_bytes() != Path("without.dat").read_bytes()


@pytest.mark.parametrize("verb", ["complete", "bench"])
def test_a_mistake_is_one_line(verb: str, poet: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--lora", "nowhere"], "there is no adapter at nowhere"),
        (["--lora", poet, "--lora", poet], "--lora is there 2 times, expected one adapter"),
        (["--lora", ""], "names no adapter"),
    ):
        assert main([verb, "cria", "-p", "8", *arguments]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error
