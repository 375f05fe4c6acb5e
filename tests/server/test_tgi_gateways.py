"""The doors of SageMaker, Vertex AI and chats in TGI's interface: they answer as the routes that they lead to."""

from __future__ import annotations

from typing import Any

import pytest

from support.serving import Running

PROMPT = "Once upon a time"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
CHAT = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0}
GENERATE = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8}}


def generated(server: Running) -> Any:
    return server.post("/generate", GENERATE).json["generated_text"]


def chatted(server: Running) -> Any:
    return server.post("/v1/chat/completions", CHAT).json["choices"][0]["message"]


def test_invocations_are_what_their_fields_say(server: Running) -> None:
    assert server.post("/invocations", GENERATE).json == [{"generated_text": generated(server)}]
    assert server.post("/invocations", CHAT).json["choices"][0]["message"] == chatted(server)
    completed = server.post("/invocations", {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}).json
    assert completed["choices"][0]["text"] == generated(server)
    streamed = server.post("/invocations", {**GENERATE, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("body", "named"),
    [({}, "inputs"), ({**GENERATE, "messages": []}, "messages"), ({**CHAT, "nonsense": 1}, "nonsense")],
)
def test_invocations_refuse_by_name(server: Running, body: Any, named: str) -> None:
    answer = server.post("/invocations", body)
    assert (answer.status, answer.json["error_type"]) == (422, "validation")
    assert named in answer.json["error"]


def test_vertex_predicts_for_each_instance(server: Running) -> None:
    body = {"instances": [GENERATE, CHAT, {**GENERATE, "parameters": {"max_new_tokens": 3, "seed": 1}}]}
    first, second, third = server.post("/vertex", body).json["predictions"]
    assert (first, second) == (generated(server), chatted(server)["content"])
    assert first.startswith(third)


@pytest.mark.parametrize(
    ("instances", "named"),
    [
        ([], "instances"),
        ([GENERATE, {"inputs": PROMPT, "parameters": {"watermark": True}}], "watermark"),
        ([{**CHAT, "stream": True}], "stream"),
        ([GENERATE] * 129, "instances"),
    ],
)
def test_vertex_refuses_by_name(server: Running, instances: list[Any], named: str) -> None:
    answer = server.post("/vertex", {"instances": instances})
    assert answer.status == 422
    assert named in answer.json["error"]
    assert server.get("/health/ready").status == 200


def test_chat_tokenize_shows_the_prompt_and_its_tokens(server: Running) -> None:
    answer = server.post("/chat_tokenize", CHAT).json
    text, tokens = answer["templated_text"], answer["tokenize_response"]
    assert text.startswith("<|begin_of_text|>")
    assert "".join(token["text"] for token in tokens) == text
    prompt = {"inputs": text, "parameters": {"max_new_tokens": 1, "decoder_input_details": True}}
    prefill = server.post("/generate", prompt).json["details"]["prefill"]
    assert [token["id"] for token in prefill] == [token["id"] for token in tokens]
    assert server.post("/chat_tokenize", {"messages": []}).status == 422
