"""How a server behaves: frozen, made once by `pronk serve`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pronk.errors import RequestError

_HEX = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})(?:\s.*)?")


@dataclass(frozen=True)
class HashedKey:
    """A key that clients may show, kept as its SHA-256 alone: neither a log nor a memory dump gives the key away."""

    digest: bytes

    @classmethod
    def of(cls, key: str) -> HashedKey:
        """Raises RequestError for a key that no header can carry."""
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise RequestError("an API key is empty, or has spaces or other than printable ASCII in it; choose another")
        return cls(hashlib.sha256(key.encode()).digest())


def read_keys(path: Path) -> tuple[HashedKey, ...]:
    """Keys from a file with one SHA-256 (64 hexadecimal digits, as sha256sum writes it) on a line; what follows the
    digits is a note, and lines that begin with # are comments. Raises RequestError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read the keys in {path}: {error}") from None
    keys = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _HEX.fullmatch(line)
        if match is None:
            raise RequestError(
                f"{path}, line {number} is no SHA-256; write 64 hexadecimal digits, as `printf %s KEY | sha256sum` does"
            )
        keys.append(HashedKey(bytes.fromhex(match[1])))
    if not keys:
        raise RequestError(f"{path} has no key, which would let everybody in; write at least one SHA-256")
    return tuple(keys)


@dataclass(frozen=True)
class ServerSettings:
    """Sizes are bytes, times seconds.

    keys: without any, everybody may ask. cors_origins: origins whose pages may ask; none by default, "*" for all.
    body_seconds: for a body to arrive. max_n bounds n and best_of, max_prompts the prompts of one request, max_stop its
    stop strings (and bad words). max_schema_bytes: of a JSON schema, a grammar, or all tools together. max_queue:
    requests that may wait before new ones are turned away. request_seconds: a request that runs longer ends with what
    it has; None lets it run. drain_seconds: for requests under way when the server is told to stop. stall_seconds: the
    server is not ready while a step has got no further for longer than this, however long it may be as a whole.
    log_json: logs as JSON, one object a line. overflow: what happens to an answer that fills the
    context: it ends, or the oldest tokens slide out.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[HashedKey, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 16 << 20
    body_seconds: float = 60.0
    max_n: int = 16
    max_prompts: int = 128
    max_stop: int = 16
    max_schema_bytes: int = 256 << 10
    max_queue: int = 256
    request_seconds: float | None = None
    drain_seconds: float = 30.0
    stall_seconds: float = 2.0
    log_json: bool = False
    overflow: Literal["refuse", "slide"] = "refuse"
