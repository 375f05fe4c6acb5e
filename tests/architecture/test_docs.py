"""The documentation is true: languages, links, commands, JSON, messages and examples are held against the code.

Options are known from usage blocks (fences called `text`), example commands from `sh` fences, programs from `python`
fences. A message on the troubleshooting page is a heading in code, with … where the code puts a value.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pronk.checkpoints.convert import convert
from pronk.checkpoints.random import random_checkpoint, random_vocabulary
from pronk.cli import VERBS, main
from pronk.engine.sampling import SamplingParams
from pronk.text.tokenizers import build_tokenizer
from support.adapters import random_pairs, write_gguf_adapter, write_peft

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LANGUAGES = ("en", "zh")
PAGES = sorted(path.name for path in (DOCS / "en").glob("*.md"))
EVERYTHING = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("README*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#[^)\s]*)?\)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def read(language: str, page: str) -> str:
    return (DOCS / language / page).read_text(encoding="utf-8")


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def fences(text: str, kind: str) -> list[str]:
    return [body for name, body in _FENCE.findall(text) if name == kind]


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*$", prose(text), re.MULTILINE)


# --- two languages ---


def test_both_languages_have_the_same_pages() -> None:
    assert PAGES, "there is no documentation"
    assert sorted(path.name for path in (DOCS / "zh").glob("*.md")) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_headings_and_kinds_of_example(page: str) -> None:
    english, chinese = (read(language, page) for language in LANGUAGES)
    levels = [[heading.partition(" ")[0] for heading in headings(text)] for text in (english, chinese)]
    assert levels[0] == levels[1]
    kinds = [[name for name, _ in _FENCE.findall(text)] for text in (english, chinese)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_points_to_a_file(path: Path) -> None:
    links = [link for link in _LINK.findall(prose(path.read_text(encoding="utf-8"))) if link and "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


# --- the command line ---


def make_parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pronk {verb}", exit_on_error=False)
    importlib.import_module(f"pronk.cli.{verb}").add_arguments(parser)
    return parser


def known_options(verb: str) -> list[set[str]]:
    """The spellings of each option that the verb's parser has, but for --help."""
    actions = make_parser(verb)._actions
    return [set(action.option_strings) for action in actions if action.option_strings and action.dest != "help"]


def sections(language: str) -> dict[str, str]:
    """The command-line page by its second headings."""
    parts = re.split(r"^## ", read(language, "command-line.md"), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].strip(): part.partition("\n")[2] for part in parts}


def in_usage(text: str) -> set[str]:
    return set(_OPTION.findall("\n".join(fences(text, "text"))))


def in_sentences(text: str) -> set[str]:
    return set(_OPTION.findall(" ".join(_CODE.findall(prose(text)))))


def documented(language: str, verb: str) -> tuple[set[str], set[str]]:
    """(options in the verb's usage, options described). [RUNNING] in a usage stands for the line `RUNNING: ...` of the
    section that describes what several verbs share."""
    parts = sections(language)
    usage, said = in_usage(parts[verb]), in_sentences(parts[verb])
    for shared in parts.values():
        for group, line in re.findall(r"^([A-Z]+): (\[.*)$", shared, re.MULTILINE):
            if f"[{group}]" in parts[verb]:
                usage |= set(_OPTION.findall(line))
                said |= in_sentences(shared)
    return usage, said


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_verb_has_a_section(language: str) -> None:
    assert [title for title in sections(language) if title in VERBS] == list(VERBS)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_documented_and_no_other(language: str, verb: str) -> None:
    usage, said = documented(language, verb)
    options = known_options(verb)
    assert [names for names in options if not names & usage] == [], "missing from the usage"
    assert [names for names in options if not names & (said | {"--json"})] == [], "not described"  # --json is for all
    known = set().union(*options)
    assert usage - known == set()
    # A sentence may speak of another verb's option (`--json` of chat, `--to` of convert), but of none that nobody has.
    everywhere = set().union(*(names for other in VERBS for names in known_options(other)))
    assert in_sentences(sections(language)[verb]) - everywhere == set()


def commands(path: Path) -> Iterator[list[str]]:
    """What a reader would type after `pronk`, in sh fences and in code within sentences."""
    text = path.read_text(encoding="utf-8")
    lines = [line for body in fences(text, "sh") for line in body.splitlines()]
    for line in lines:
        for part in line.split(" | "):
            words = shlex.split(part, comments=True)
            if words[:1] == ["pronk"]:
                yield words[1:]


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_command_is_one_that_the_parser_takes(path: Path) -> None:
    for verb, *arguments in commands(path):
        if verb not in ("--help", "--version"):
            assert verb in VERBS
            make_parser(verb).parse_intermixed_args(arguments)


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_sentence_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for code in [*_CODE.findall(prose(text)), *(line for body in fences(text, "") for line in body.splitlines())]:
        match = re.search(r"(?:^|\s)pronk ([a-z]+)\b(.*)", code.partition("#")[0])
        if match and (match[1] in VERBS or "--" in match[2]):
            assert match[1] in VERBS, code
            known = set().union(*known_options(match[1]))
            assert set(_OPTION.findall(match[2])) - known == set(), code


PRINTING = {
    "chat": ["cria", "-p", "ba", "-n", "2", "--seed", "1"],
    "complete": ["cria", "-p", "ba", "-n", "2", "--seed", "1", "--logprobs", "1"],
    "tokenize": ["cria", "ba"],
    "show": ["cria"],
    "score": ["cria", "-p", "ba"],
    "perplexity": ["cria", "-f", "book.txt", "-c", "16"],
    "compare": ["cria", "cria", "-f", "book.txt", "-c", "16"],
    "bench": ["cria", "-p", "8", "-n", "2", "-r", "1"],
    "convert": ["cria", "tiny.gguf", "--to", "gguf"],
    "quantize": ["random:tiny", "tiny.gguf", "--type", "Q8_0"],
    "imatrix": ["cria", "-f", "book.txt", "-o", "tiny.imatrix.gguf", "-c", "16"],
    "list": [],
}


def keys(value: object) -> object:
    """The names in a JSON value, whatever the values; of a list, its first item's."""
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    return {name: keys(item) for name, item in value.items()} if isinstance(value, dict) else None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verb", PRINTING)
def test_documented_json_has_the_keys_that_are_printed(
    language: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRONK_HOME", str(tmp_path / "home"))
    Path("book.txt").write_text("ba be bi " * 40, encoding="utf-8")
    assert main([verb, *PRINTING[verb], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (shown,) = [json.loads(body) for body in fences(sections(language)[verb], "json")]
    for changing in ("types", "stop", "tokenizer"):  # names that are the model's own
        for answer in (printed, shown):
            if isinstance(answer.get(changing), dict):
                answer[changing] = sorted(answer[changing]) if changing == "tokenizer" else None
    if verb == "list":  # nothing is pulled here
        printed, shown = dict.fromkeys(printed), dict.fromkeys(shown)
    assert keys(shown) == keys(printed)


# --- messages, variables, programs ---


def messages(language: str) -> list[str]:
    """The messages that are headings of the troubleshooting page."""
    return [code for heading in headings(read(language, "troubleshooting.md")) for code in _CODE.findall(heading)]


def written_in_code() -> list[str]:
    """Every string constant of the package; the pieces of an f-string are constants too."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")]
    return [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_messages_that_are_explained_are_messages_that_are_printed() -> None:
    assert messages("en") == messages("zh")
    assert messages("en")
    constants = written_in_code()
    for message in messages("en"):
        for piece in filter(None, map(str.strip, message.split("…"))):
            assert any(piece in constant for constant in constants), f"{message}: the code does not say {piece!r}"


def test_environment_variables_exist() -> None:
    named = {name for path in EVERYTHING for name in re.findall(r"PRONK_[A-Z_]+", path.read_text(encoding="utf-8"))}
    folders = (ROOT / "src", ROOT / "cpp", ROOT / "benchmarks", ROOT / "CMakeLists.txt")
    files = [file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*.*"))]
    code = "\n".join(file.read_text("utf-8") for file in files if file.suffix in (".py", ".cpp", ".hpp", ".txt"))
    assert {name for name in named if name not in code} == set()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the examples open, all of random weights."""
    directory = tmp_path_factory.mktemp("models")
    tiny = random_checkpoint("tiny")
    convert(tiny, directory / "Meta-Llama-3-8B-Instruct", "meta")
    tokenizer = build_tokenizer(random_vocabulary(tiny.config.vocab_size, "llama3.1"))
    instruct = replace(tiny, config=replace(tiny.config, context_length=4096), load_tokenizer=lambda: tokenizer)
    convert(instruct, directory / "Llama-3.1-8B-Instruct.gguf", "gguf")
    pairs = random_pairs(tiny.config)
    write_peft(directory / "poet", pairs)
    write_gguf_adapter(directory / "clerk.gguf", pairs, tiny.config)
    (directory / "book.txt").write_text("ba be bi bo bu " * 40, encoding="utf-8")
    return directory


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("page", ["python.md", "chat.md", "lora.md"])
def test_python_examples_run(language: str, page: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    blocks = fences(read(language, page), "python")
    assert blocks
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{language}/{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_field_of_sampling_params_is_explained(language: str) -> None:
    rows = " ".join(line.split("|")[1] for line in read(language, "python.md").splitlines() if line.startswith("| `"))
    assert {field.name for field in fields(SamplingParams)} - set(_CODE.findall(rows)) == set()
