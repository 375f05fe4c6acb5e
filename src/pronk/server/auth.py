"""Keys: who may ask. Before a body is read, and for every path but those that say so here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pronk.server.errors import ApiError
from pronk.server.settings import HashedKey
from pronk.server.static import is_static

LIVE = "/health/live"


def is_open(method: str, path: str, accept: str) -> bool:
    """Whether a request needs no key: whether the process lives, and the chat page's files, which hold no secret."""
    return (path == LIVE and method in ("GET", "HEAD")) or is_static(method, path, accept)


def accepts(keys: tuple[HashedKey, ...], shown: str) -> bool:
    """Whether the key is one of ours; the time that it takes does not depend on which, or how nearly."""
    digest = hashlib.sha256(shown.encode("utf-8", "surrogateescape")).digest()
    return sum(hmac.compare_digest(digest, key.digest) for key in keys) > 0


class Auth:
    """`Authorization: Bearer KEY`, the scheme in any case. 401 without or with a wrong one."""

    def __init__(self, app: ASGIApp, keys: tuple[HashedKey, ...], render: Callable[[str, ApiError], Response]) -> None:
        self._app = app
        self._keys = keys
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys:
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if is_open(scope["method"], scope["path"], headers.get("accept", "")):
            return await self._app(scope, receive, send)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and accepts(self._keys, key.strip()):
            return await self._app(scope, receive, send)
        said = "the API key is wrong" if key else "there is no API key; send `Authorization: Bearer KEY`"
        error = ApiError(
            401, said, "authentication_error", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
        )
        await self._render(Request(scope).url.path, error)(scope, receive, send)
        return None
