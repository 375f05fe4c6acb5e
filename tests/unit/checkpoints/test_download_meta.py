"""Meta's signed URL against a server on loopback that has the files of Meta's download scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pronk.checkpoints import registry
from pronk.checkpoints.fetch import Fetcher
from pronk.checkpoints.meta_url import MODELS, pull_meta
from pronk.errors import DownloadError
from support.file_server import Files, serving

SHARDS = [bytes([i]) * 200_000 for i in range(8)]
QUERY = "?Policy=abc&Signature=secret"


def checklist(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.md5(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


def llama2_13b() -> dict[str, bytes]:
    weights = {"consolidated.00.pth": SHARDS[0], "consolidated.01.pth": SHARDS[1], "params.json": b'{"dim": 5120}'}
    folder = {f"/llama-2-13b/{name}": data for name, data in weights.items()}
    return {
        "/LICENSE": b"licence", "/USE_POLICY.md": b"policy", "/tokenizer.model": b"pieces",
        "/tokenizer_checklist.chk": checklist({"tokenizer.model": b"pieces"}),
        "/llama-2-13b/checklist.chk": checklist(weights), **folder,
    }  # fmt: skip


def llama3_8b() -> dict[str, bytes]:
    files = {"consolidated.00.pth": SHARDS[0], "params.json": b'{"dim": 4096}', "tokenizer.model": b"ranks"}
    folder = {f"/8b_pre_trained/{name}": data for name, data in files.items()}
    return {
        "/LICENSE": b"licence", "/USE_POLICY": b"policy", "/8b_pre_trained/checklist.chk": checklist(files), **folder,
    }  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setenv("PRONK_HOME", str(tmp_path / "home"))
    with serving(Files()) as files:
        yield files


def pull(server: Files, name: str) -> Path:
    return pull_meta(f"{server.url}/*{QUERY}", name, fetcher=Fetcher(wait=lambda seconds: None))


@pytest.mark.parametrize(("name", "content"), [("llama-2-13b", llama2_13b()), ("llama-3-8b", llama3_8b())])
def test_all_files_of_a_model_arrive(server: Files, name: str, content: dict[str, bytes]) -> None:
    server.content = content
    directory = pull(server, name)
    assert {p.name: p.read_bytes() for p in directory.iterdir() if p.name != ".pronk.json"} == {
        path.rpartition("/")[2]: data for path, data in content.items()
    }
    assert [(m.name, m.path) for m in registry.models()] == [(name, directory)]


def test_each_model_has_its_number_of_shards() -> None:
    counts = {name: model.shards for name, model in MODELS.items()}
    assert (counts["llama-2-7b"], counts["llama-2-13b-chat"], counts["llama-2-70b"]) == (1, 2, 8)
    assert (counts["llama-3-8b-instruct"], counts["llama-3-70b"]) == (1, 8)
    assert (counts["llama-3.1-405b-mp8"], counts["llama-3.1-405b-mp16"]) == (8, 16)


def test_cut_connections_are_resumed(server: Files) -> None:
    server.content = llama2_13b()
    shard = "/llama-2-13b/consolidated.01.pth"
    server.cuts[shard] = [50_000, 100_000]
    assert (pull(server, "llama-2-13b") / "consolidated.01.pth").read_bytes() == SHARDS[1]
    assert server.ranges_asked(shard) == [None, "bytes=50000-", "bytes=150000-"]


def test_second_call_goes_on_where_the_first_stopped(server: Files) -> None:
    server.content = llama2_13b()
    server.statuses["/llama-2-13b/consolidated.01.pth"] = [403]
    with pytest.raises(DownloadError, match="403"):
        pull(server, "llama-2-13b")
    assert registry.models() == []
    server.seen.clear()
    assert pull(server, "llama-2-13b").is_dir()
    assert [path for _, path, _ in server.seen] == ["/llama-2-13b/consolidated.01.pth"]


def test_403_is_explained_in_one_line(server: Files) -> None:
    server.statuses["/LICENSE"] = [403]
    with pytest.raises(DownloadError) as caught:
        pull(server, "llama-2-7b")
    message = str(caught.value)
    assert "LICENSE" in message
    assert "24 hours" in message
    assert "too often" in message
    assert "another model" in message
    assert "\n" not in message
    assert "secret" not in message


def test_missing_file_is_named(server: Files) -> None:
    server.content = llama3_8b()
    del server.content["/8b_pre_trained/params.json"]
    with pytest.raises(DownloadError, match=r"params\.json from 127\.0\.0\.1: status 404"):
        pull(server, "llama-3-8b")


def test_wrong_bytes_are_refused(server: Files) -> None:
    server.content = llama2_13b()
    server.rotten.add("/llama-2-13b/consolidated.00.pth")
    with pytest.raises(DownloadError, match=r"consolidated\.00\.pth .* has the md5 .*, expected"):
        pull(server, "llama-2-13b")
    assert not (registry.directory_of("llama-2-13b") / "consolidated.00.pth").exists()
    server.rotten.clear()
    assert pull(server, "llama-2-13b").is_dir()


def test_checklist_without_sums_is_refused(server: Files) -> None:
    server.content = llama3_8b() | {"/8b_pre_trained/checklist.chk": b"<html>sign in</html>"}
    with pytest.raises(DownloadError, match="no md5 sums"):
        pull(server, "llama-3-8b")


def test_unknown_model_lists_those_there_are(server: Files) -> None:
    with pytest.raises(DownloadError, match=r"no model 'llama-9', expected one of llama-2-7b, "):
        pull(server, "llama-9")


def test_address_without_a_star(server: Files) -> None:
    with pytest.raises(DownloadError, match=r"no '\*'"):
        pull_meta(f"{server.url}/x{QUERY}", "llama-2-7b")
