"""The server's core: health, keys, limits, forms of errors, request ids, CORS, the page."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

import pronk
from pronk.errors import RequestError
from pronk.server import static
from pronk.server.app import create_app
from pronk.server.errors import ApiError, Json, Renderers
from pronk.server.logs import JsonFormatter
from pronk.server.settings import HashedKey, ServerSettings, read_keys
from support.serving import Running, serving

HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    """A server with two keys, a small body limit, and one origin that may ask."""
    keys = (HashedKey.of("first"), HashedKey.of("second"))
    settings = ServerSettings(keys=keys, max_body_bytes=1000, cors_origins=("https://friend.example",))
    with pronk.load("cria") as llama, serving(llama, settings=settings) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route, with something in place of parameters."""

    def walk(holder: Any) -> Iterator[tuple[str, str]]:
        for route in holder.routes:
            inner = getattr(route, "original_router", None)  # how newer versions keep an included router
            if inner is not None:
                yield from walk(inner)
            else:
                yield from ((method, route.path) for method in route.methods)

    return sorted({(m, path.replace("{name:path}", "x").replace("{model_id:path}", "x")) for m, path in walk(app)})


# --- health and metrics ---


def test_health(server: Running) -> None:
    assert server.get("/health/live").json == {"status": "live"}
    assert server.get("/health/ready").json == {"status": "ready", "models": ["cria"]}


def test_metrics_tell_routes_tokens_and_endings(server: Running) -> None:
    def value(name: str) -> float:
        lines = server.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    asked = 'pronk_http_requests_total{method="POST",route="/v1/completions",status="200"}'
    names = (asked, "pronk_completion_tokens_total", 'pronk_requests_ended_total{model="cria",reason="length"}')
    before = [value(name) for name in names]
    assert server.post("/v1/completions", {"prompt": "One", "max_tokens": 3}).status == 200
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [1, 3, 1]
    assert value("pronk_first_token_seconds_count") >= 1
    assert value("pronk_pages{") == server.state.models["cria"].llama.engine_config.pages
    server.get("/no/such/path/at/all")
    assert b"/no/such" not in server.get("/metrics").body  # or a client could fill the memory with labels


# --- keys ---


def test_every_route_wants_a_key_but_liveness(locked: Running) -> None:
    app = locked.server.config.app
    assert isinstance(app, FastAPI)
    every = routes(app)
    assert {("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/health/ready"), ("GET", "/")} <= {*every}
    assert not any("{" in path for _, path in every)
    for method, path in every:
        body = b"{}" if method == "POST" else None
        shown = [locked.ask(method, path, body, headers).status for headers in ({}, bearer("third"), bearer("first"))]
        if path == "/health/live" or path.startswith(static.ASSETS):
            assert shown[0] == shown[1] == shown[2] != 401, (method, path)  # the page's files are there or not
        else:
            assert shown[:2] == [401, 401], (method, path)
            assert shown[2] != 401, (method, path)


def test_a_key_is_refused_in_any_other_dress(locked: Running) -> None:
    right = [bearer("second"), {"Authorization": "bearer second"}]
    wrong = [{}, bearer(""), bearer("secon"), bearer("second2"), bearer("SECOND"), {"Authorization": "second"},
             {"Authorization": "Basic second"}, {"X-Api-Key": "second"}, bearer("first, second"),
             bearer(hashlib.sha256(b"second").hexdigest()), {"Authorization": "Bearer \xe4"}]  # fmt: skip
    assert [locked.get("/v1/models", headers).status for headers in right] == [200, 200]
    answers = [locked.get("/v1/models", headers) for headers in wrong]
    assert [answer.status for answer in answers] == [401] * len(wrong)
    assert all(answer.error["type"] == "authentication_error" for answer in answers)
    assert answers[0].headers["www-authenticate"] == "Bearer"


def test_the_page_needs_no_key_and_its_calls_do(locked: Running) -> None:
    assert locked.get("/", HTML).status == 200
    assert locked.get("/").status == 401
    assert locked.post("/", {"inputs": "x"}, HTML).status in (401, 405)
    assert locked.get("/assets/../v1/models", HTML).status in (401, 404)
    assert locked.get("//v1/models", HTML).status == 401
    assert locked.get("/health/live/", HTML).status == 401


def test_keys_come_hashed_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    digest = hashlib.sha256(b"first").hexdigest()
    file.write_text(f"# ours\n{digest}  -\n\nsha256:{digest.upper()} of the web page\n")
    assert read_keys(file) == (HashedKey.of("first"),) * 2
    for text, said in (("secret\n", "line 1"), ("# none\n", "no key")):
        file.write_text(text)
        with pytest.raises(RequestError, match=said):
            read_keys(file)
    with pytest.raises(RequestError, match="nowhere"):
        read_keys(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["", "two words", "two\nlines", "é"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match="API key"):
        HashedKey.of(key)


# --- bodies ---


def test_a_body_past_the_limit_is_413_with_and_without_its_length(locked: Running) -> None:
    body = json.dumps({"prompt": "a" * 1000}).encode()
    headers = {**bearer("first"), "Content-Type": "application/json"}
    for answer in (
        locked.post("/v1/completions", body, headers),
        locked.ask("POST", "/v1/completions", iter([body[:500], body[500:]]), headers),  # chunked
        locked.ask("POST", "/v1/completions", b"{}", {**headers, "Content-Length": "99999999"}),  # told before it comes
    ):
        assert answer.status == 413
        assert answer.error["code"] == "body_too_large"
        assert "1000" in answer.error["message"]
    assert locked.post("/v1/completions", body, bearer("third")).status == 401


def test_a_body_that_does_not_come_is_given_up() -> None:
    with pronk.load("cria") as llama, serving(llama, settings=ServerSettings(body_seconds=0.05)) as server:
        answer = server.ask("POST", "/v1/completions", b"{", {"Content-Length": "100"})
    assert (answer.status, answer.error["code"]) == (408, "body_too_slow")


BROKEN = [
    (b'{"prompt": ', "not JSON"),
    (b"", "JSON object"),
    (b"[]", "JSON object"),
    (b'"text"', "JSON object"),
    (b"null", "JSON object"),
    (b"\xff\xfe", "JSON"),
    (b"[" * 900, "JSON"),
    (b'{"prompt": "a", "temperature": NaN}', "temperature"),
    (b'{"prompt": "a", "seed": ' + b"9" * 900 + b"}", "seed"),
    (b'{"prompt": "\\ud800"}', "surrogate"),
    (b'{"prompt": "a", "max_tokens": 1, "\\ud800": 1}', "unicode"),
]


@pytest.mark.parametrize(("body", "said"), BROKEN, ids=[repr(body[:20]) for body, _ in BROKEN])
def test_broken_bodies_are_400_in_openai_s_form(server: Running, body: bytes, said: str) -> None:
    answer = server.post("/v1/completions", body)
    if said == "seed" and answer.status == 200:
        return  # a seed of any length is one
    assert answer.status == 400
    assert said in answer.error["message"]
    assert set(answer.error) == {"message", "type", "param", "code"}


def test_json_under_another_name_is_refused_with_the_remedy(server: Running) -> None:
    answer = server.post("/v1/completions", {"prompt": "a"}, {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status == 400
    assert "Content-Type: application/json" in answer.error["message"]


# --- errors ---


def test_unknown_paths_methods_and_models(server: Running) -> None:
    answers = [server.get("/v1/nothing"), server.ask("DELETE", "/v1/models"), server.get("/v1/models/gpt-4")]
    assert [answer.status for answer in answers] == [404, 405, 404]
    assert answers[1].headers["allow"] == "GET"
    assert [answer.error["code"] for answer in answers] == [None, None, "model_not_found"]
    assert "'cria'" in answers[2].error["message"]


def test_errors_look_as_their_path_s_api_shows_them() -> None:
    def shown(name: str):  # type: ignore[no-untyped-def]
        return lambda error: Json({name: error.message}, error.status)

    render = Renderers(shown("default"), {"/": shown("root"), "/v1": shown("one"), "/v1/deep": shown("deep")})
    error = ApiError(429, "full", retry_after=3)
    wanted = {"/": "root", "/x": "default", "/v1": "one", "/v1/deep/x": "deep", "/v10": "default"}
    assert {path: next(iter(json.loads(render(path, error).body))) for path in wanted} == wanted
    assert render("/", error).headers["retry-after"] == "3"


def test_a_fault_of_ours_is_500_and_says_nothing_of_itself(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(messages: object, tools: object = ()) -> list[int]:
        raise ZeroDivisionError("a secret")

    form = server.state.models["cria"].llama.chat_format
    monkeypatch.setattr(type(form), "encode", lambda *_: fail(()))
    with caplog.at_level(logging.ERROR, "pronk.server"):
        answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
    assert (answer.status, answer.error["type"]) == (500, "server_error")
    assert b"secret" not in answer.body
    assert "a secret" in caplog.text


# --- request ids, logs, CORS ---


def test_request_ids_come_back_and_bad_ones_are_replaced(server: Running) -> None:
    assert server.get("/health/live", {"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("a b", "x" * 200, "", 'quote"'):
        assert server.get("/health/live", {"X-Request-Id": bad}).headers["x-request-id"] != bad
    assert server.get("/v1/nothing", {"X-Request-Id": "mine-2"}).headers["x-request-id"] == "mine-2"


def test_logs_are_json_with_ids_and_without_prompts(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pronk.server"):
        body = {"prompt": "a secret wish", "max_tokens": 1, "user": "somebody"}
        assert server.post("/v1/completions", body, {"X-Request-Id": "mine-3"}).status == 200
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name == "pronk.server"]
    (line,) = [json.loads(line) for line in lines if "mine-3" in line]
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", "/v1/completions", 200, "info")
    assert line["seconds"] > 0
    assert not any("secret" in line or "somebody" in line for line in lines)


def test_cors_is_off_unless_asked_for(server: Running, locked: Running) -> None:
    origin = {"Origin": "https://friend.example"}
    assert "access-control-allow-origin" not in server.get("/v1/models", origin).headers
    allowed = locked.get("/v1/models", {**origin, **bearer("first")}).headers
    assert allowed["access-control-allow-origin"] == origin["Origin"]
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert locked.ask("OPTIONS", "/v1/chat/completions", headers=preflight).status == 200
    other = {"Origin": "https://stranger.example", **bearer("first")}
    assert "access-control-allow-origin" not in locked.get("/v1/models", other).headers


# --- the page ---


def test_a_missing_page_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    response = static.page(tmp_path)
    assert b"make web" in response.body
    assert "构建" in response.body.decode()
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_page_and_assets_and_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "assets" / "deep").mkdir(parents=True)
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "a-1.js").write_text("1")
    (tmp_path / "assets" / "link.js").symlink_to(tmp_path / "index.html")
    assert static.page(tmp_path).headers["cache-control"] == "no-cache"
    script = static.asset("a-1.js", tmp_path)
    assert script.media_type == "text/javascript"
    assert "immutable" in script.headers["cache-control"]
    for name in ("../index.html", "deep", "", "x" * 5000, "\0", "/etc/passwd", "link.js"):
        with pytest.raises(ApiError, match="there is no"):
            static.asset(name, tmp_path)


def test_the_page_is_for_browsers(server: Running) -> None:
    page = server.get("/", HTML)
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["vary"] == "Accept"
    assert server.get("/", {"Accept": "application/json"}).status != 200


def test_apps_share_nothing(server: Running) -> None:
    assert create_app(server.state) is not server.server.config.app
