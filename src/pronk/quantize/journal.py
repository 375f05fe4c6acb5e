"""A large file that is written front to back, piece by piece, and goes on after a kill where it stopped.

The bytes lie under a hidden name beside the destination, with a journal of the pieces that are whole: their end and
their checksum. A run that finds both, for the same work, checks each piece and continues after the last good one, so it
does not matter what a kill or a power cut left on the disk. Only a whole file gets the final name.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pronk.errors import CheckpointError, PronkError

_BLOCK = 1 << 22


class Journal:
    """`done` pieces are in the file already, in order. Write the next one with `write`, close it with `piece_done`."""

    def __init__(self, file: BinaryIO, log: BinaryIO, done: list[str]) -> None:
        self.done = done
        self._file, self._log = file, log
        self._crc = 0

    def write(self, data: Any) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)

    def piece_done(self, name: str) -> None:
        self._file.flush()  # the journal must not speak of bytes that are still in this process
        line = {"piece": name, "end": self._file.tell(), "crc": self._crc}
        self._log.write(json.dumps(line).encode() + b"\n")
        self._log.flush()
        self._crc = 0


def part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.quantize.part")


def journal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.quantize.journal")


@contextmanager
def resumable(path: Path, work: str) -> Iterator[Journal]:
    """A Journal for `path`. `work` says what is being made: only what was begun with the same is continued.

    When the block ends well the file gets its name and the journal goes; otherwise both stay for the next run, but for
    a mistake that the next run would meet too. Raises CheckpointError for the system's refusals, and while another
    process writes the same file.
    """
    part, log_path = part_of(path), journal_of(path)
    try:
        with log_path.open("a+b") as log:
            _lock(log, path)
            part.touch()
            with part.open("r+b") as file:
                done = _continue(file, log, work)
                try:
                    yield Journal(file, log, done)
                except PronkError:  # the next run would meet the same
                    part.unlink()
                    log_path.unlink()
                    raise
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            log_path.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


def _continue(file: BinaryIO, log: BinaryIO, work: str) -> list[str]:
    """The pieces that are there and right; both files are cut after them, or emptied for new work."""
    log.seek(0)
    lines = _lines(log.read())
    done: list[str] = []
    end = 0
    kept = [json.dumps({"work": work}).encode()]
    if lines and lines[0].get("work") == work:
        for line in lines[1:]:
            if not _is_right(file, end, line):
                break
            done.append(line["piece"])
            end = line["end"]
            kept.append(json.dumps(line).encode())
    file.truncate(end)
    file.seek(end)
    log.truncate(0)
    log.write(b"\n".join(kept) + b"\n")
    log.flush()
    return done


def _lines(data: bytes) -> list[dict[str, Any]]:
    """The whole lines; what a kill cut off, or a disk mangled, ends the list."""
    result = []
    for text in data.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        result.append(line)
    return result


def _is_right(file: BinaryIO, start: int, line: dict[str, Any]) -> bool:
    end, crc = line.get("end"), line.get("crc")
    if not isinstance(end, int) or not isinstance(line.get("piece"), str) or end < start:
        return False
    file.seek(start)
    left, found = end - start, 0
    while left:
        data = file.read(min(left, _BLOCK))
        if not data:
            return False
        found = zlib.crc32(data, found)
        left -= len(data)
    return found == crc


def _lock(log: BinaryIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows refuses the rename of a file that another process holds open
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"{path} is being written by another process; wait for it, or choose another name"
        ) from None
