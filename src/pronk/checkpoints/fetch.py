"""Fetching one file over HTTP so that it arrives: resumed with Range, retried when the connection is cut.

Bytes go to NAME.part, which stays for the next try and becomes NAME when it is whole. Addresses may carry a signature,
so messages name the host and the file, never the whole address.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from pronk.errors import DownloadError

# Called with the file's name, its bytes that are here, and its bytes in all (0 where the server does not say).
Progress = Callable[[str, int, int], None]

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_RETRY_STATUSES = frozenset({408, 416, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Fetcher:
    """How to fetch. `attempts` is how often in a row the server may fail without sending a single new byte."""

    attempts: int = 6
    first_wait: float = 1.0  # seconds; doubled after each failure in a row
    wait: Callable[[float], None] = time.sleep
    progress: Progress | None = None
    forbidden: str = "access is denied"  # what a 403 means to this server's users

    def fetch(self, url: str, path: Path, md5: str | None = None) -> None:
        """Make `path` the file at `url`. Raises DownloadError; what has arrived by then stays in NAME.part.

        A file that is already there is kept, unless its md5 is another than the one given; a file that arrives with
        another is removed.
        """
        _check_scheme(url)
        if path.is_file() and (md5 is None or md5_of(path) == md5):
            return
        part = path.with_name(path.name + ".part")
        _Transfer(self, url, path.name, part).run()
        if md5 and (found := md5_of(part)) != md5:
            part.unlink()
            raise DownloadError(
                f"{path.name} from {_host(url)} has the md5 {found}, expected {md5};"
                " it was damaged on the way, fetch it again"
            )
        part.replace(path)


@dataclass
class _Transfer:
    """One file's way here, over as many connections as it takes."""

    fetcher: Fetcher
    url: str
    name: str
    part: Path
    etag: str | None = None
    failures: int = 0
    reason: str = ""
    opener: urllib.request.OpenerDirector = field(default_factory=lambda: http_only())

    def run(self) -> None:
        while True:
            before = self._here()
            wanted: float | None = None
            try:
                if self._connect(before):
                    return
                self.reason = "the connection was cut"
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 416 and self._is_whole(error):
                        return
                    wanted = self._refused(error)
            except (OSError, http.client.HTTPException) as error:
                self.reason = str(getattr(error, "reason", error)) or type(error).__name__
            self._pause(wanted, progressed=self._here() > before)

    def _here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _connect(self, start: int) -> bool:
        """One request. True when the file is whole."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "pronk", "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if self.etag:
                request.add_header("If-Range", self.etag)
        with self.opener.open(request, timeout=_TIMEOUT) as response:
            start = self._begin(response, start)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else 0
            with self._open_part(start) as file:
                done = self._copy(response, file, start, total)
        return done == total or not total

    def _is_whole(self, error: urllib.error.HTTPError) -> bool:
        """Asked for what follows the part, the server has nothing: the part is the file, or does not belong to it."""
        if error.headers.get("Content-Range", "") == f"bytes */{self._here()}":
            return True
        self.part.unlink(missing_ok=True)
        return False

    def _begin(self, response: http.client.HTTPResponse, asked: int) -> int:
        """Where the bytes that come belong. A server may ignore the Range and send everything."""
        etag = response.headers.get("ETag")
        self.etag = etag if etag and not etag.startswith("W/") else None
        if response.status != 206:
            return 0
        match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != asked:
            raise DownloadError(
                f"{_host(self.url)} sent {response.headers.get('Content-Range')!r:.60} of {self.name}, "
                f"expected bytes from {asked}; remove {self.part.name} and fetch it again"
            )
        return asked

    def _open_part(self, start: int) -> FileIO:
        with _writing(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            return self.part.open("ab" if start else "wb", buffering=0)

    def _copy(self, response: http.client.HTTPResponse, file: FileIO, done: int, total: int) -> int:
        while chunk := response.read1(_CHUNK):
            with _writing(self.part):
                left = memoryview(chunk)
                while left:
                    left = left[file.write(left) :]
            done += len(chunk)
            if self.fetcher.progress:
                self.fetcher.progress(self.name, done, total)
        with _writing(self.part):
            os.fsync(file.fileno())
        return done

    def _refused(self, error: urllib.error.HTTPError) -> float | None:
        """Seconds that the server asks us to wait. Raises DownloadError where trying again is no use."""
        status = error.code
        self.reason = f"status {status}"
        where = f"{self.name} from {_host(self.url)}"
        if status == 403:
            raise DownloadError(f"cannot fetch {where}: status 403, {self.fetcher.forbidden}")
        if status == 404:
            raise DownloadError(
                f"cannot fetch {where}: status 404, there is no such file; check the address and the name"
            )
        if status not in _RETRY_STATUSES:
            raise DownloadError(f"cannot fetch {where}: status {status} {error.reason}")
        seconds = error.headers.get("Retry-After", "")
        return min(float(seconds), _LONGEST_WAIT) if seconds.isdigit() else None

    def _pause(self, wanted: float | None, *, progressed: bool) -> None:
        self.failures = 1 if progressed else self.failures + 1
        if self.failures >= self.fetcher.attempts:
            raise DownloadError(
                f"cannot fetch {self.name} from {_host(self.url)}: {self.reason}, {self.failures} times in a row; "
                "the part that arrived is kept, try again later"
            )
        pause = self.fetcher.first_wait * 2 ** (self.failures - 1)
        self.fetcher.wait(min(_LONGEST_WAIT, pause if wanted is None else wanted))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A disk that is full or not ours is no fault of the connection, so it is not tried again."""
    try:
        yield
    except OSError as error:
        raise DownloadError(f"cannot write {path}: {error.strerror or error}") from None


def md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(
            f"the address begins with {parts.scheme or url[:20]!r}, expected http:// or https:// and a host"
        )


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"


def http_only() -> urllib.request.OpenerDirector:
    """urllib without file:, ftp: and data:, so that a redirect cannot lead there either."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler, urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
