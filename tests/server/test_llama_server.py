"""llama-server's own routes, over a real connection."""

from __future__ import annotations

import pytest

from support.serving import Running

MESSAGES = [{"role": "user", "content": "Hi <|eot_id|>"}]


def tokens(server: Running, content: str, **options: bool) -> list[int]:
    found = server.post("/tokenize", {"content": content, **options}).json
    assert list(found) == ["tokens"]
    return list(found["tokens"])


def test_text_and_tokens_there_and_back(server: Running) -> None:
    ids = tokens(server, "Hello, wörld 你好")
    assert server.post("/detokenize", {"tokens": ids}).json == {"content": "Hello, wörld 你好"}


def test_control_tokens_are_text_or_themselves(server: Running) -> None:
    read, plain = tokens(server, "<|eot_id|>"), tokens(server, "<|eot_id|>", parse_special=False)
    assert len(read) == 1 < len(plain)
    for ids in (read, plain):
        assert server.post("/detokenize", {"tokens": ids}).json["content"] == "<|eot_id|>"


def test_a_begin_of_text_only_if_asked_for(server: Running) -> None:
    assert tokens(server, "a", add_special=True)[1:] == tokens(server, "a")


def test_a_piece_that_is_no_text_is_its_bytes(server: Running) -> None:
    pieces = [token["piece"] for token in tokens_with_pieces(server, "aö<|eot_id|>")]
    assert pieces == ["a", [0xC3], [0xB6], "<|eot_id|>"]


def tokens_with_pieces(server: Running, content: str) -> list[dict[str, object]]:
    return list(server.post("/tokenize", {"content": content, "with_pieces": True}).json["tokens"])


def test_a_template_is_applied(server: Running) -> None:
    prompt = server.post("/apply-template", {"messages": MESSAGES}).json["prompt"]
    assert prompt.startswith("<|begin_of_text|><|start_header_id|>")
    assert "Hi <|eot_id|>" in prompt


def test_props_say_what_is_served(server: Running) -> None:
    props = server.get("/props").json
    assert (props["model_alias"], props["default_generation_settings"]) == ("cria", {"n_ctx": 1024})
    assert (props["bos_token"], props["eos_token"]) == ("<|begin_of_text|>", "<|end_of_text|>")


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/detokenize", {"tokens": [1, 99999]}, "99999"),
        ("/detokenize", {"tokens": ["1"]}, "tokens"),
        ("/apply-template", {"messages": []}, "conversation"),
        ("/apply-template", {"messages": MESSAGES, "chat_template_kwargs": {}}, "chat_template_kwargs"),
    ],
)
def test_mistakes_are_named_in_llama_server_s_form(server: Running, path: str, body: object, named: str) -> None:
    answer = server.post(path, body)
    error = answer.json["error"]
    assert (answer.status, error["code"], error["type"]) == (400, 400, "invalid_request_error")
    assert named in error["message"]
