"""Fetching a file from a server that cuts connections, ignores Range, refuses, or sends something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pronk.checkpoints.fetch import Fetcher
from pronk.errors import DownloadError
from support.file_server import Files, serving

DATA = bytes(range(256)) * 4000  # about a megabyte
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def files() -> Iterator[Files]:
    with serving(Files({"/file.bin": DATA})) as running:
        yield running


class Waits(list[float]):
    """The pauses that were asked for; none is made."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def test_whole_file_arrives(files: Files, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    Fetcher(progress=lambda *args: seen.append(args)).fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA
    assert seen[-1] == ("f", len(DATA), len(DATA))
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_cut_connections_are_resumed(files: Files, tmp_path: Path) -> None:
    files.cuts["/file.bin"] = [1000, 0, 500_000]
    waits = Waits()
    Fetcher(wait=waits).fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA
    assert files.ranges_asked("/file.bin") == [None, "bytes=1000-", "bytes=1000-", "bytes=501000-"]
    assert waits == [1.0, 2.0, 1.0]  # doubled without progress, from the start again with it


def test_part_of_an_earlier_run_is_resumed(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(DATA[:777])
    Fetcher().fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA
    assert files.ranges_asked("/file.bin") == ["bytes=777-"]


def test_server_that_ignores_range(files: Files, tmp_path: Path) -> None:
    files.ranges = False
    files.cuts["/file.bin"] = [300_000]
    Fetcher(wait=Waits()).fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA


def test_server_that_tells_no_length(files: Files, tmp_path: Path) -> None:
    files.length = False
    Fetcher().fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA


def test_whole_part_is_recognised_by_416(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(DATA)
    Fetcher(wait=Waits()).fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA
    assert len(files.seen) == 1


def test_part_longer_than_the_file_is_thrown_away(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(DATA + b"more")
    Fetcher(wait=Waits()).fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA


def test_busy_server_is_tried_again(files: Files, tmp_path: Path) -> None:
    files.statuses["/file.bin"] = [500, 503, 429]
    waits = Waits()
    Fetcher(wait=waits).fetch(f"{files.url}/file.bin", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert waits == [1.0, 2.0, 4.0]


def test_gives_up_on_a_server_that_stays_broken(files: Files, tmp_path: Path) -> None:
    files.statuses["/file.bin"] = [500] * 20
    with pytest.raises(DownloadError, match=r"f from 127\.0\.0\.1: status 500, 3 times in a row"):
        Fetcher(attempts=3, wait=Waits()).fetch(f"{files.url}/file.bin", tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_nobody_listens(tmp_path: Path) -> None:
    with serving(Files()) as gone:
        url = gone.url
    with pytest.raises(DownloadError, match=r"refused.*2 times in a row"):
        Fetcher(attempts=2, wait=Waits()).fetch(f"{url}/x", tmp_path / "x")


@pytest.mark.parametrize(
    ("status", "words"), [(403, "status 403, because"), (404, "no such file"), (418, "status 418")]
)
def test_refusals_are_final(files: Files, tmp_path: Path, status: int, words: str) -> None:
    files.statuses["/file.bin"] = [status]
    with pytest.raises(DownloadError, match=words):
        Fetcher(wait=Waits(), forbidden="because").fetch(f"{files.url}/file.bin?Signature=secret", tmp_path / "f")
    assert len(files.seen) == 1


def test_messages_hide_the_signature(files: Files, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        Fetcher().fetch(f"{files.url}/none?Signature=secret", tmp_path / "f")
    assert "secret" not in str(caught.value)


def test_wrong_bytes_are_removed(files: Files, tmp_path: Path) -> None:
    files.rotten.add("/file.bin")
    with pytest.raises(DownloadError, match=f"md5 .*expected {MD5}"):
        Fetcher().fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert list(tmp_path.iterdir()) == []


def test_file_with_the_right_sum_is_kept(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    Fetcher().fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert files.seen == []


def test_file_with_a_wrong_sum_is_replaced(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    Fetcher().fetch(f"{files.url}/file.bin", tmp_path / "f", MD5)
    assert (tmp_path / "f").read_bytes() == DATA


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "data:,x", "nonsense", "http://"])
def test_only_http(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="expected http"):
        Fetcher().fetch(url, tmp_path / "f")


def test_redirects_lead_to_http_only(files: Files, tmp_path: Path) -> None:
    files.redirects = {"/moved": "/file.bin", "/evil": "file:///etc/passwd"}
    Fetcher().fetch(f"{files.url}/moved", tmp_path / "f", MD5)
    with pytest.raises(DownloadError):
        Fetcher(attempts=1, wait=Waits()).fetch(f"{files.url}/evil", tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_disk_trouble_is_not_tried_again(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f.part").mkdir()
    with pytest.raises(DownloadError, match="cannot write"):
        Fetcher(wait=Waits()).fetch(f"{files.url}/file.bin", tmp_path / "f")
