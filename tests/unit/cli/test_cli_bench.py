"""pronk bench: its lists, its forms of output, its mistakes, and shares of the machine's limits, never a speed."""

from __future__ import annotations

import csv
import functools
import io
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_checkpoint
from pronk.cli import main
from pronk.native import peaks, runtime

SMALL = ("-p", "8", "-n", "2", "-r", "2")
CRIA = {"model": "cria", "type": "Q8_0", "bytes": 4_465_664, "parameters": 4_196_608, "backend": "cpu"}


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = runtime.threads()
    yield
    runtime.set_threads(threads)


@pytest.fixture
def quick_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "measure", functools.partial(peaks.measure, seconds=0.002, buffer=1 << 20))


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["bench", *arguments]) == 0
    return capsys.readouterr().out


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bench(capsys, *arguments, "-o", "jsonl").splitlines()]


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a mistake is answered with; nothing was measured."""
    try:
        status: object = main(["bench", *arguments])
    except SystemExit as leave:  # what the parser itself refuses
        status = leave.code
    assert status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def named(found: list[dict[str, Any]]) -> list[str]:
    return [row["test"] for row in found]


# --- what is measured ---


def test_every_combination_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(
        capsys, "-p", "4,8", "-n", "1", "-d", "0,3", "-b", "1,2", "--threads", "1,2", "--kv-type", "f16,q8_0", "-r", "1"
    )
    one = ["pp4", "pp8", "tg1", "pp4 @ d3", "pp8 @ d3", "tg1 @ d3"]
    assert named(found) == (one + [f"{test} x2" for test in one]) * 4
    assert [(row["threads"], row["kv_type"]) for row in found[::12]] == [
        (1, "f16"), (1, "q8_0"), (2, "f16"), (2, "q8_0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [
        (("-p", "3", "-p", "5"), [3, 5]),
        (("-p", "1-3"), [1, 2, 3]),
        (("-p", "4-10+3"), [4, 7, 10]),
        (("-p", "2-9*2"), [2, 4, 8]),
        (("-p", "1,4-5,1"), [1, 4, 5]),
        (("-p", "6-6"), [6]),
    ],
)
def test_numbers_are_written_as_for_llama_bench(
    arguments: tuple[str, ...], prompts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [row["prompt"] for row in rows(capsys, *arguments, "-n", "0", "-r", "1")] == prompts


def test_a_prompt_and_decoding_as_one_test(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "-p", "0", "-n", "3", "-pg", "8,2", "-pg", "4,1", "-d", "5", "-r", "1")
    assert named(found) == ["tg3 @ d5", "pp8+tg2 @ d5", "pp4+tg1 @ d5"]
    assert (found[1]["prompt"], found[1]["decode"], found[1]["depth"]) == (8, 2, 5)


def test_several_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    convert(open_checkpoint("cria"), path := tmp_path / "cria-f16.gguf", "gguf", dtype="f16")
    report = json.loads(bench(capsys, "cria", str(path), *SMALL, "--json"))
    assert [(row["model"], row["type"], row["test"]) for row in report["rows"]] == [
        ("cria", "Q8_0", "pp8"), ("cria", "Q8_0", "tg2"), (str(path), "F16", "pp8"), (str(path), "F16", "tg2"),
    ]  # fmt: skip
    assert report["model"] is None
    text = bench(capsys, "cria", str(path), *SMALL)
    assert [line.split()[0] for line in text.splitlines()] == ["cria", "cria", str(path), str(path)]


def test_a_row_says_how_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(
        bench(capsys, "-p", "8", "-n", "0", "-d", "2", "-b", "3", "-r", "4", "--threads", "2", "--json")
    )
    (row,) = report.pop("rows")
    assert report == {"model": "cria", "backend": "cpu"}
    samples = row["samples"]
    assert row == {
        **CRIA, "isa": runtime.isa(), "threads": 2, "kv_type": "f16", "prompt": 8, "decode": 0, "depth": 2,
        "sequences": 3, "test": "pp8 @ d2 x3", "tokens_per_second": row["median"],
        "median": statistics.median(samples), "mean": statistics.fmean(samples), "stddev": statistics.stdev(samples),
        "min": min(samples), "max": max(samples), "samples": samples,
    }  # fmt: skip
    assert len(samples) == 4
    assert min(samples) > 0


# --- the forms ---


def test_csv_parses_back(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(csv.DictReader(io.StringIO(bench(capsys, *SMALL, "-d", "0,4", "-o", "csv"))))
    assert named(found) == ["pp8", "tg2", "pp8 @ d4", "tg2 @ d4"]
    for row in found:
        assert {name: row[name] for name in CRIA} == {name: str(value) for name, value in CRIA.items()}
        samples = [float(sample) for sample in row["samples"].split()]
        assert float(row["stddev"]) == statistics.stdev(samples)
        assert float(row["median"]) == statistics.median(samples)


def test_markdown_parses_back(capsys: pytest.CaptureFixture[str]) -> None:
    head, rule, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in bench(capsys, *SMALL, "--threads", "1", "-o", "md").splitlines()
    )
    assert set("".join(rule)) <= set("-:")
    found = [dict(zip(head, line, strict=True)) for line in lines]
    assert named(found) == ["pp8", "tg2"]
    facts = {"model": "cria", "type": "Q8_0", "size": "4.5 MB", "params": "4.20 M", "backend": "cpu", "threads": "1"}
    for row in found:
        assert facts.items() <= row.items()
        assert float(row["tokens/s"]) > 0
        assert float(row["std. dev."]) >= 0


def test_markdown_lines_are_of_one_length(capsys: pytest.CaptureFixture[str]) -> None:
    text = bench(capsys, "-p", "8", "-n", "1", "-pg", "100,10", "-d", "0,100", "-b", "1,2", "-r", "1", "-o", "md")
    assert len({len(line) for line in text.splitlines()}) == 1


def test_json_is_the_same_by_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (json.loads(bench(capsys, *SMALL, *form)) for form in (("--json",), ("-o", "json")))
    assert first.keys() == second.keys()
    assert [row.keys() for row in first["rows"]] == [row.keys() for row in second["rows"]]


def test_text_names_only_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    plain = bench(capsys, *SMALL)
    assert [line.split()[0] for line in plain.splitlines()] == ["pp8", "tg2"]
    both = bench(capsys, *SMALL, "--kv-type", "f16,q8_0")
    assert [line.split()[:2] for line in both.splitlines()] == [
        ["f16", "pp8"], ["f16", "tg2"], ["q8_0", "pp8"], ["q8_0", "tg2"],
    ]  # fmt: skip


def test_a_row_appears_before_the_next_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pronk.model import speed

    before: list[str] = []
    measured = speed._Bench.run

    def run(self: speed._Bench, test: speed.Workload) -> float:
        before.append(capsys.readouterr().out)
        return measured(self, test)

    monkeypatch.setattr(speed._Bench, "run", run)
    assert main(["bench", "-p", "4", "-n", "1", "-r", "1", "-o", "jsonl"]) == 0
    assert [len(text.splitlines()) for text in before] == [0, 0, 1, 0]  # warm-up and test, twice


# --- the roofline ---


@pytest.mark.usefixtures("quick_peaks")
def test_roofline_says_which_limit_and_what_share(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(bench(capsys, *SMALL, "-pg", "8,2", "--threads", "1,2", "--roofline", "--json"))
    assert [found["threads"] for found in report["peaks"]] == [1, 2]
    for found in report["peaks"]:
        assert min(found["bandwidth"], found["int8"], found["float32"]) > 0
    assert named(report["rows"]) == ["pp8", "tg2", "pp8+tg2"] * 2
    for row in report["rows"]:
        assert row["limit"] in ("bandwidth", "int8", "float32")
        assert row["share"] == pytest.approx(row["median"] / row["most_tokens_per_second"])


@pytest.mark.usefixtures("quick_peaks")
@pytest.mark.parametrize("form", ["text", "md", "csv", "jsonl"])
def test_every_form_has_the_share(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL, "--roofline", "-o", form]) == 0
    captured = capsys.readouterr()
    assert "GB/s read" in captured.err
    if form == "text":
        assert all("% of " in line for line in captured.out.splitlines())
    else:
        assert "share" in captured.out.splitlines()[0]
        assert "limit" in captured.out.splitlines()[0]


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "512,x"), "'x' is not a whole number"),
        (("-n", "4,-1"), "-1 is less than 0"),
        (("-b", "1,0"), "0 is less than 1"),
        (("-d", "9-3"), "range '9-3' ends before it starts; write 3-9"),
        (("-d", "0-8*2"), "range '0-8*2' never ends"),
        (("-d", "1-8+0"), "range '1-8+0' never ends; add 1 or more"),
        (("-d", "1-99999999999"), "more than 1000 numbers"),
        (("-pg", "512"), "'512' is no PROMPT,DECODE; write two numbers such as 512,128"),
        (("-pg", "8,0"), "'8,0' is no PROMPT,DECODE"),
        (("--kv-type", "f16,q3"), "'q3' is no type of keys and values, expected f16, f32, q8_0"),
        (("-o", "xml"), "'xml'"),
        (("-o", "md", "--json"), "not allowed with"),
        (("-p", "0", "-n", "0"), "-p 0 and -n 0 leave nothing to measure; give one of them a number, or -pg two"),
        (("-d", "0,1000"), "cria: pp512 @ d1000 needs 1512 tokens, the context holds 1024; shorten -p, -n or -d"),
        (("-pg", "1000,30"), "cria: pp1000+tg30 needs 1030 tokens, the context holds 1024"),
        (("--ctx", "64", "-p", "65"), "holds 64; shorten -p, -n or -d or raise --ctx"),
        (("--threads", "1,5000"), "5000 threads asked for, expected 1 to 1024"),
        (("--roofline", "--backend", "torch"), "--roofline is of the cpu backend, and --backend is torch"),
        (("cria", "no/such/model"), "no/such/model"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_before_anything_is_measured(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in fail(capsys, *arguments)
