"""The server's core: health, keys, limits, errors, the page."""

from __future__ import annotations

from support.serving import Running


def test_health(server: Running) -> None:
    assert server.get("/health/live").json == {"status": "live"}
    assert server.get("/health/ready").json == {"status": "ready", "models": ["cria"]}
    assert b"pronk_running" in server.get("/metrics").body
    print(server.get("/v1/models").json, server.get("/nothing").json, server.post("/v1/models", b"{").json)
    print(server.get("/", {"Accept": "text/html"}).headers)
