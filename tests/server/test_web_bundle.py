"""The built page that is committed is the one that the sources in web/ make, and it needs nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pronk.server.static import PAGE

WEB = Path(__file__).parents[2] / "web"
SOURCES = ("src", "index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record() -> dict[str, object]:
    return json.loads((PAGE / "build.json").read_text("utf-8"))


def test_page_is_built_from_these_sources() -> None:
    """As web/vite.config.ts computes it. `make web` builds the page again."""
    paths = [path for name in SOURCES for path in ([WEB / name] if (WEB / name).is_file() else (WEB / name).rglob("*"))]
    files = sorted(path.relative_to(WEB).as_posix() for path in paths if path.is_file())
    digest = sha256("".join(f"{file}\n{sha256((WEB / file).read_bytes())}\n" for file in files).encode())
    assert record()["sources"] == digest, "web/ has changed since the page was built: run `make web`"


def test_page_holds_what_was_built_and_nothing_else() -> None:
    files = [path for path in PAGE.rglob("*") if path.is_file() and path.name != "build.json"]
    assert {path.relative_to(PAGE).as_posix(): sha256(path.read_bytes()) for path in files} == record()["files"]


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_has_no_inline_script_or_style_and_loads_only_its_own_files() -> None:
    tags = Tags((PAGE / "index.html").read_text("utf-8")).tags
    assert any(tag == "script" for tag, _ in tags)
    for tag, attributes in tags:
        assert tag != "style"
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        address = attributes.get("src") or attributes.get("href")
        assert tag != "script" or address
        assert address is None or (PAGE / address).is_file(), address


def test_styles_load_only_the_pages_own_fonts() -> None:
    sheets = list((PAGE / "assets").glob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text("utf-8")
        assert "@import" not in text
        for address in re.findall(r"url\(([^)]*)\)", text):
            assert (sheet.parent / address.strip("'\"")).is_file(), address


@pytest.mark.parametrize("word", ["resolved", "http://"])
def test_lock_file_names_no_registry(word: str) -> None:
    assert f'"{word}' not in (WEB / "package-lock.json").read_text("utf-8")
