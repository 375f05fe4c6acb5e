"""The chat page: files built from web/ into server/page/, or, where they are missing, a page that says how.

The page is strict about where anything comes from: scripts, styles and requests from this server alone. Assets have
their content's hash in their names and may be kept for ever; the page itself is asked for anew each time.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from starlette.responses import FileResponse, HTMLResponse, Response

from pronk.server.errors import ApiError

PAGE = Path(__file__).parent / "page"
ASSETS = "/assets/"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_MISSING = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>pronk</title></head>
<body>
<h1>pronk</h1>
<p>The server runs, and its API is under <code>/v1</code>. The chat page has not been built in this copy:
run <code>make web</code> in the source, then load this page again.</p>
<p lang="zh">服务器正在运行，API 在 <code>/v1</code> 之下。这份代码里还没有构建聊天页面：
请在源码目录里运行 <code>make web</code>，然后刷新本页。</p>
</body>
</html>
"""


def wants_page(accept: str) -> bool:
    """Whether a client of `GET /` is a browser and not a program that asks TGI for its model."""
    return "text/html" in accept


def is_static(method: str, path: str, accept: str) -> bool:
    """Whether a request is for one of the page's files."""
    return method in ("GET", "HEAD") and (path.startswith(ASSETS) or (path == "/" and wants_page(accept)))


def page(folder: Path = PAGE) -> Response:
    headers = {**_HEADERS, "Cache-Control": "no-cache", "Vary": "Accept"}
    index = folder / "index.html"
    if not index.is_file():
        return HTMLResponse(_MISSING, headers=headers)
    return FileResponse(index, media_type="text/html", headers=headers)


def asset(name: str, folder: Path = PAGE) -> Response:
    """Raises ApiError 404 for what is not a file right below assets/, however it is spelled."""
    root = (folder / "assets").resolve()
    try:
        path = (root / name).resolve()
        found = path.is_file() and path.is_relative_to(root)
    except (OSError, ValueError):  # a name too long, or with a zero byte
        found = False
    if not found:
        raise ApiError(404, f"there is no {ASSETS}{name[:200]}", "not_found")
    kind = {".js": "text/javascript", ".css": "text/css"}.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(path, media_type=kind or "application/octet-stream", headers=headers)
