"""Models on this machine, and the verbs pull, list and rm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pronk.checkpoints import registry
from pronk.cli import main
from pronk.errors import CheckpointError, DownloadError
from support.file_server import Files, serving


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRONK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make(name: str, entry: str = "m.gguf") -> registry.PulledModel:
    directory = registry.directory_of(name)
    directory.mkdir(parents=True)
    (directory / entry).write_bytes(b"12345")
    return registry.register(name, f"hf:{name}", entry)


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRONK_HOME", "/some/where")
    assert registry.home() == Path("/some/where")
    monkeypatch.delenv("PRONK_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert registry.home() == Path("/cache/pronk")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert registry.home() == Path.home() / ".cache/pronk"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a\\b", "a b", "a\0b", "x;y"])
def test_names_that_are_no_directory(home: Path, name: str) -> None:
    with pytest.raises(DownloadError, match="no name for a model"):
        registry.directory_of(name)


def test_models_are_listed_found_and_removed(home: Path) -> None:
    make("org/b:q8")
    make("a")
    assert [m.name for m in registry.models()] == ["a", "org/b:q8"]
    assert registry.find("ORG/b:Q8") == registry.find("hf:org/b:q8")
    removed = registry.remove("org/b:q8")
    assert not removed.directory.exists()
    with pytest.raises(CheckpointError, match="no model is called 'org/b:q8' here, expected one of: a"):
        registry.remove("org/b:q8")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}', '{"name": "x", "source": "y", "entry": "../../up"}'])
def test_damaged_entries_are_no_models(home: Path, text: str) -> None:
    directory = registry.directory_of("x")
    directory.mkdir(parents=True)
    (home.parent / "up").write_text("")
    (directory / ".pronk.json").write_text(text)
    assert registry.models() == []


def test_model_whose_file_is_gone_is_not_listed(home: Path) -> None:
    make("a").path.unlink()
    assert registry.models() == []


def test_verbs_list_and_rm(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("a")
    assert main(["list"]) == 0
    assert capsys.readouterr().out.startswith("a ")
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["home"] == str(home)
    assert [(m["name"], m["source"], m["path"]) for m in listed["models"]] == [("a", "hf:a", str(home / "a/m.gguf"))]
    assert main(["rm", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"][0]["name"] == "a"
    assert main(["rm", "a"]) == 2
    assert capsys.readouterr().err == "pronk: no model is called 'a' here, expected one of: none\n"
    assert main(["list"]) == 0
    assert "no models in" in capsys.readouterr().err


def test_verb_pull(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Files()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the surroundings say
        server.add_repository("org/name", {"m.gguf": b"model"})
        assert main(["pull", "hf:org/name", "--json"]) == 0
        pulled = json.loads(capsys.readouterr().out)
        assert Path(pulled["path"]).read_bytes() == b"model"
        assert main(["pull", "org/none"]) == 2
        assert "no such repository" in capsys.readouterr().err
        assert main(["pull", f"{server.url}/*?Signature=secret", "llama-2-7b"]) == 2
        assert "status 404" in capsys.readouterr().err


def test_verb_pull_says_what_is_missing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "https://host/*"]) == 2
    assert "say which model" in capsys.readouterr().err
    assert main(["pull", "org/name", "llama-2-7b"]) == 2
    assert "goes with Meta's address only" in capsys.readouterr().err
