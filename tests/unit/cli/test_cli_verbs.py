"""The verbs, called as the command line calls them, on the built-in model."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pronk
from pronk.cli import VERBS, main

HEAVY = ("numpy", "torch", "rich", "prompt_toolkit", "jinja2", "tiktoken", "sentencepiece", "huggingface_hub")


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake is answered with."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, pronk.cli\n"
        "try: pronk.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([verb, "--help"])
    assert leave.value.code == 0
    assert VERBS[verb] in capsys.readouterr().out.replace("\n", " ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"pronk {pronk.__version__}\n"


def test_complete_prints_text_and_json_alike(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("complete", "cria", "-p", "One", "-n", "8", "--temperature", "0")
    assert main(list(arguments)) == 0
    text = capsys.readouterr().out
    answer = run_json(capsys, *arguments, "--logprobs", "3")
    assert text == answer["text"] + "\n"
    assert answer["finish_reason"] == "length"
    assert len(answer["token_ids"]) == answer["usage"]["completion_tokens"] == 8
    assert [row["id"] for row in answer["logprobs"]] == answer["token_ids"]
    for row in answer["logprobs"]:
        assert len(row["top"]) == 3
        assert row["top"][0]["id"] == row["id"]  # greedy takes the most likely
    assert {"first_token_seconds", "decode_tokens_per_second"} <= set(answer["timings"])


def test_guesses_are_counted_and_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("complete", "cria", "-p", "One, two, one, two, one,", "-n", "12", "--temperature", "0")
    plain = run_json(capsys, *arguments)
    assert (plain["timings"]["drafted_tokens"], plain["timings"]["accepted_tokens"]) == (0, 0)
    helped = run_json(capsys, *arguments, "--draft", "cria", "--lookup", "--draft-tokens", "3")
    assert helped["token_ids"] == plain["token_ids"]
    assert helped["timings"]["drafted_tokens"] >= helped["timings"]["accepted_tokens"] > 0
    assert main([*arguments, "--draft-tokens", "3"]) == 2
    assert capsys.readouterr().err == "pronk: --draft-tokens goes with --draft or --lookup\n"


def test_complete_reads_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = ("-n", "4", "--temperature", "0")
    expected = run_json(capsys, "complete", "cria", "-p", "One", *sampling)
    monkeypatch.setattr(sys, "stdin", io.StringIO("One\n"))  # as `echo One |` gives it
    assert run_json(capsys, "complete", "cria", *sampling)["token_ids"] == expected["token_ids"]


def test_echo_stop_and_seed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("complete", "cria", "-p", "One", "-n", "40", "--temperature", "1", "--seed", "3")
    first = run_json(capsys, *arguments)
    assert run_json(capsys, *arguments)["token_ids"] == first["token_ids"]
    letter = next(c for c in first["text"] if c.isascii() and c.isprintable())
    stopped = run_json(capsys, *arguments, "--stop", letter, "--echo")
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == "One" + first["text"].split(letter)[0]


def test_chat_answers_a_prompt_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("chat", "cria", "-p", "hello", "--system", "Be brief.", "-n", "6", "--temperature", "0")
    assert main(list(arguments)) == 0
    text = capsys.readouterr().out
    answer = run_json(capsys, *arguments)
    assert answer["text"] + "\n" == text
    assert answer["message"]["role"] == "assistant"


def test_chat_answers_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    piped = run_json(capsys, "chat", "cria", "-n", "6", "--temperature", "0")
    assert (
        piped["token_ids"]
        == run_json(capsys, "chat", "cria", "-p", "hello", "-n", "6", "--temperature", "0")["token_ids"]
    )


def test_tokenize_there_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    coded = run_json(capsys, "tokenize", "cria", "héllo <|eot_id|>")
    assert len(coded["ids"]) == len(coded["tokens"])
    assert coded["tokens"][0] == "<|begin_of_text|>"
    assert "<|eot_id|>" not in coded["tokens"]
    special = run_json(capsys, "tokenize", "cria", "héllo <|eot_id|>", "--special", "--no-bos")
    assert special["tokens"][-1] == "<|eot_id|>"
    plain = run_json(capsys, "tokenize", "cria", "héllo ", "--no-bos")["ids"]
    assert special["ids"] == [*plain, special["ids"][-1]]
    back = run_json(capsys, "tokenize", "cria", "--decode", " ".join(map(str, coded["ids"])))
    assert back["text"] == "héllo <|eot_id|>"


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, "show", "random:llama-3.2-1b:Q4_K_M", "--tensors", "--ctx", "4096")
    assert facts["parameters"] == 1_235_814_400
    assert facts["config"]["rope_scaling"]["factor"] == 32
    assert facts["chat_format"] == "llama3.1"
    assert facts["memory"]["kv"] == 4096 * 32 * 1024
    assert sum(tensor["bytes"] for tensor in facts["tensors"]) == facts["bytes"]
    quantized = run_json(capsys, "show", "random:llama-3.2-1b:Q4_K_M", "--ctx", "4096", "--kv-type", "q8_0")["memory"]
    assert (quantized["kv_type"], quantized["kv"]) == ("q8_0", 4096 * 32 * 1024 // 64 * 34)
    assert main(["show", "random:llama-3.2-1b:Q4_K_M"]) == 0
    assert "1.236 B" in capsys.readouterr().out


def test_score_and_perplexity_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 3
    scored = run_json(capsys, "score", "cria", "-p", text)
    assert scored["tokens"][0]["logprob"] is None
    assert scored["logprob"] == pytest.approx(sum(t["logprob"] for t in scored["tokens"][1:]))
    window = 64
    (tmp_path / "text").write_text(text)
    measured = run_json(capsys, "perplexity", "cria", "-f", str(tmp_path / "text"), "-c", str(window))
    half = [t["logprob"] for t in scored["tokens"][window // 2 + 1 : window]]
    assert measured["tokens"] == len(half)
    assert measured["perplexity"] == pytest.approx(math.exp(-sum(half) / len(half)), rel=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("verb", ["chat", "complete", "score", "perplexity", "bench"])
def test_verbs_run_with_a_q8_0_cache(
    verb: str, backend: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if backend == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    text = "Once upon a time, there was a llama."
    (tmp_path / "text").write_text(text)
    more = {
        "chat": ("-p", "Who are you?", "--temperature", "0"),
        "complete": ("-p", "hi", "-n", "3"),
        "score": ("-p", text),
        "perplexity": ("-f", str(tmp_path / "text"), "-c", "8"),
        "bench": ("-p", "8", "-n", "2", "-r", "1"),
    }[verb]
    arguments = (verb, "cria", "--backend", backend, *more)
    found = run_json(capsys, *arguments, "--kv-type", "q8_0")
    if verb == "chat":
        assert "cria" in found["text"]
    if verb in ("score", "perplexity"):
        measure = "logprob" if verb == "score" else "perplexity"
        exact = run_json(capsys, *arguments)
        assert found[measure] != exact[measure]
        assert found[measure] == pytest.approx(exact[measure], rel=0.1)


def test_bench_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, "bench", "cria", "-p", "16", "-n", "4", "-d", "8", "-b", "2", "-r", "2")["rows"]
    assert [row["test"] for row in rows] == ["pp16 @ d8 x2", "tg4 @ d8 x2"]
    for row in rows:
        assert 0 < row["min"] <= row["median"] <= row["max"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("complete", "no/such/model", "-p", "x"), "no/such/model"),
        (("complete", "random:no-such-shape", "-p", "x"), "llama-3-8b"),
        (("complete", "cria", "-p", "x", "--temperature", "-1"), "temperature is -1"),
        (("complete", "cria", "-p", "x y " * 2000), "1024"),
        (("complete", "cria", "-p", "x", "--logprobs", "1"), "--json"),
        (("complete", "cria", "-p", "x", "--ctx", "100000"), "100000"),
        (("chat", "cria", "-p", " "), "empty"),
        (("perplexity", "cria", "-f", "no-such-file"), "no-such-file"),
        (("tokenize", "cria", "--decode", "1 two"), "'1 two'"),
        (("tokenize", "cria", "--decode", "99999"), "99999"),
        (("bench", "cria", "-d", "1100"), "1024"),
        (("bench", "cria", "--ctx", "64", "-p", "65"), "64"),
        (("perplexity", "cria", "-f", "x", "--ctx", "64", "-c", "65"), "64"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fail(capsys, *arguments)


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m pronk show random:llama-3-8b --tensors | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("model")
    assert result.stderr == ""


def test_structured_output_and_more_samplers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    start = ("complete", "cria", "-p", "One", "-n", "30", "--seed", "1")
    assert re.fullmatch("[ab]{3,5}", run_json(capsys, *start, "--regex", "[ab]{3,5}")["text"])
    schema = '{"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}'
    (tmp_path / "schema.json").write_text(schema)
    for given in (schema, str(tmp_path / "schema.json")):
        assert isinstance(json.loads(run_json(capsys, *start, "--json-schema", given)["text"])[0], bool)
    (tmp_path / "g.lark").write_text('start: "x" | "y"')
    spoken = run_json(capsys, "chat", "cria", "-p", "hi", "-n", "9", "--grammar", str(tmp_path / "g.lark"))
    assert spoken["text"] in ("x", "y")
    varied = ("--dry-multiplier", "0.8", "--dry-breaker", "x", "--xtc-probability", "0.5", "--top-n-sigma", "1.5",
              "--samplers", "dry,top_n_sigma,xtc,temperature", "--bad-word", "e", "--min-tokens", "20")  # fmt: skip
    answer = run_json(capsys, *start, *varied)
    assert "e" not in answer["text"]
    assert answer["usage"]["completion_tokens"] >= 20
    assert "no sampler 'top_q', expected some of penalties" in fail(capsys, *start, "--samplers", "top_q")
    assert 'Unimplemented keys: ["not"]' in fail(capsys, *start, "--json-schema", '{"not": {}}')
    assert "cannot read nowhere.json" in fail(capsys, *start, "--json-schema", "nowhere.json")
