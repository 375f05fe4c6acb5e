"""Files and directories that are there whole or not at all.

They are built under a hidden name beside the final one, flushed to the disk, and renamed. Whatever stops the work
(an error, Ctrl-C) removes what was begun; after a kill or a power cut it stays under its hidden name, never the final.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pronk.errors import CheckpointError


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well."""
    temporary = _beside(path)
    try:
        with _named_errors(path), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _named_errors(path):
            temporary.replace(path)
            _flush_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill, which takes the place of `path` (nothing, or a directory to replace) at the end."""
    temporary = _beside(path)
    old = _beside(path)
    try:
        with _named_errors(path):
            temporary.mkdir()
        yield temporary
        with _named_errors(path):
            for file in temporary.iterdir():
                _flush(file)
            _flush_directory(temporary)
            if path.exists():
                path.rename(old)  # a directory cannot be renamed onto one that is not empty
            temporary.rename(path)
            _flush_directory(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """The system's refusals (no space, no permission, no such directory) as one line."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


def _flush(path: Path) -> None:
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a directory, and keeps its entries safe by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
