"""The walk-throughs quote the source as it is: an excerpt that the code has left behind fails here.

An excerpt is a code fence right under a comment that names its file, `<!-- source: src/pronk/model/llama.py -->`. It is
whole lines of that file, one after the other. Drawings and arithmetic stand in fences of the kind `text`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANGUAGES = ("en", "zh")
PAGES = ("source-model.md", "source-attention.md", "source-quantization.md", "source-engine.md")

_FENCE = re.compile(r"(?:^<!-- source: (?P<file>\S+) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S)


def read(language: str, page: str) -> str:
    return (ROOT / "docs" / language / page).read_text(encoding="utf-8")


def excerpts(language: str, page: str) -> list[tuple[str, str]]:
    """(file, lines) of each excerpt on a page, in order."""
    return [(m["file"], m["body"]) for m in _FENCE.finditer(read(language, page)) if m["file"]]


def starts(excerpt: str, source: str) -> list[int]:
    """The lines, counted from 0, at which the excerpt occurs in the source."""
    lines, wanted = source.splitlines(), excerpt.splitlines()
    return [i for i in range(len(lines) - len(wanted) + 1) if lines[i : i + len(wanted)] == wanted]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("page", PAGES)
def test_every_excerpt_is_in_the_source_as_quoted(language: str, page: str) -> None:
    stale = [
        f"{file}: {body.splitlines()[0].strip()}"
        for file, body in excerpts(language, page)
        if not starts(body, (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert stale == [], "quote these anew, and read again what the page says of them"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("page", PAGES)
def test_all_code_on_a_page_is_an_excerpt(language: str, page: str) -> None:
    text = read(language, page)
    unnamed = [m["body"] for m in _FENCE.finditer(text) if m["kind"] != "text" and not m["file"]]
    assert unnamed == [], "name the file that this is from"
    assert text.count("<!-- source:") == len(excerpts(language, page)), "a source comment without its code below it"


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_quote_the_same_code(page: str) -> None:
    english, chinese = (excerpts(language, page) for language in LANGUAGES)
    assert english
    assert chinese == english


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_line_of_the_model_is_explained(language: str) -> None:
    file = "src/pronk/model/llama.py"
    source = (ROOT / file).read_text(encoding="utf-8")
    quoted: set[int] = set()
    for name, body in excerpts(language, "source-model.md"):
        if name == file:
            for start in starts(body, source):
                quoted.update(range(start, start + len(body.splitlines())))
    lines = enumerate(source.splitlines())
    assert [line for number, line in lines if line.strip() and number not in quoted] == []
