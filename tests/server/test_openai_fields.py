"""Fields: none of OpenAI's is dropped in silence, each mistake is answered by its name, limits hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from pronk.server.openai.fields import Body, ChatBody, CompletionBody, EmbeddingBody, ResponseBody
from support.serving import Answer, Running

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
COMPLETION = {"prompt": "Hello", "max_tokens": 1}
RESPONSE = {"input": "Hello", "max_output_tokens": 1}
EMBEDDING = {"input": "Hello"}
CALLS: dict[str, tuple[type[Body], dict[str, Any], type]] = {
    "/v1/chat/completions": (ChatBody, CHAT, chat_create_params.CompletionCreateParamsStreaming),
    "/v1/completions": (CompletionBody, COMPLETION, completion_create_params.CompletionCreateParamsStreaming),
    "/v1/responses": (ResponseBody, RESPONSE, response_create_params.ResponseCreateParamsStreaming),
    "/v1/embeddings": (EmbeddingBody, EMBEDDING, embedding_create_params.EmbeddingCreateParams),
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def refused(answer: Answer, param: str | None, said: str = "") -> None:
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
    assert said in answer.error["message"]
    assert "\n" not in answer.error["message"]


# --- every field is known ---


@pytest.mark.parametrize("path", CALLS)
def test_every_field_of_the_client_is_understood_or_refused_by_name(path: str) -> None:
    body, _, params = CALLS[path]
    theirs = {name for kind in params.__mro__ for name in getattr(kind, "__annotations__", ())}
    assert theirs - set(body.model_fields) - set(body.unsupported) == set()
    assert set(body.model_fields) & set(body.unsupported) == set()


@pytest.mark.parametrize(("path", "name"), [(path, name) for path in CALLS for name in CALLS[path][0].unsupported])
def test_what_is_not_supported_is_refused_by_name_and_its_defaults_are_not(
    server: Running, path: str, name: str
) -> None:
    body, content, _ = CALLS[path]
    refused(server.post(path, {**content, name: {"x": 1}}), name, f"'{name}' is not supported")
    if path != "/v1/embeddings":
        for default in (None, *body.unsupported[name]):
            assert server.post(path, {**content, name: default}).status == 200


@pytest.mark.parametrize("path", CALLS)
def test_unknown_fields_are_refused_with_what_was_meant(server: Running, path: str) -> None:
    _, content, _ = CALLS[path]
    refused(server.post(path, {**content, "modle": "cria"}), "modle", "did you mean 'model'?")
    refused(server.post(path, {**content, "cache_salt": "x"}), "cache_salt", "leave it out")


# --- mistakes in fields ---


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"temperature": "hot"}, "temperature"),
        ("/v1/chat/completions", {"temperature": -0.1}, "temperature"),
        ("/v1/chat/completions", {"temperature": 1e39}, "temperature"),
        ("/v1/chat/completions", {"repetition_penalty": 1e-300}, "repetition_penalty"),
        ("/v1/chat/completions", {"top_k": 2**63}, "top_k"),
        ("/v1/chat/completions", {"stop_token_ids": [2**31]}, "stop_token_ids[0]"),
        ("/v1/chat/completions", {"top_p": 0}, "top_p"),
        ("/v1/chat/completions", {"max_tokens": 1.5}, "max_tokens"),
        ("/v1/chat/completions", {"max_tokens": -1}, "max_tokens"),
        ("/v1/chat/completions", {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ("/v1/chat/completions", {"n": 0}, "n"),
        ("/v1/chat/completions", {"n": 17}, "n"),
        ("/v1/chat/completions", {"n": True}, "n"),
        ("/v1/chat/completions", {"stop": ""}, "stop"),
        ("/v1/chat/completions", {"stop": ["a"] * 17}, "stop"),
        ("/v1/chat/completions", {"stop": {"a": 1}}, "stop"),
        ("/v1/chat/completions", {"logit_bias": {"a": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"logit_bias": {"99999": 1}}, None),
        ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}, "stream_options"),
        ("/v1/chat/completions", {"stream_options": {"more": 1}, "stream": True}, "stream_options.more"),
        ("/v1/chat/completions", {"presence_penalty": 3}, "presence_penalty"),
        ("/v1/chat/completions", {"mirostat": 1}, "mirostat"),
        ("/v1/chat/completions", {"samplers": ["magic"]}, "samplers"),
        ("/v1/chat/completions", {"dry_sequence_breakers": [""]}, "dry_sequence_breakers"),
        ("/v1/chat/completions", {"messages": "Hello"}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": ["Hello"]}, "messages[0]"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0].type"),
        ("/v1/chat/completions", {"tools": [{"type": "custom"}]}, "tools[0].type"),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools"),
        ("/v1/chat/completions", {"tools": [TOOL, TOOL]}, "tools"),
        ("/v1/chat/completions", {"tools": [{**TOOL, "x": 1}]}, "tools[0].x"),
        ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/chat/completions", {"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ("/v1/chat/completions", {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
         "tool_choice"),
        ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format.type"),
        ("/v1/chat/completions", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}, "tools": [TOOL]}, "tools"),
        ("/v1/chat/completions", {"guided_json": {"type": "object"}, "guided_regex": "a"}, "guided_regex"),
        ("/v1/chat/completions", {"grammar": "root ::= ("}, "grammar"),
        ("/v1/chat/completions", {"guided_regex": "a" * 300_000}, "guided_regex"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ""}, None),
        ("/v1/completions", {"prompt": [[]]}, "prompt"),
        ("/v1/completions", {"prompt": ["a", 1]}, "prompt"),
        ("/v1/completions", {"prompt": [4096]}, "prompt"),
        ("/v1/completions", {"prompt": ["a"] * 129}, "prompt"),
        ("/v1/completions", {"best_of": 2, "n": 3}, "best_of"),
        ("/v1/completions", {"best_of": 2, "stream": True}, "best_of"),
        ("/v1/completions", {"best_of": 17}, "best_of"),
        ("/v1/completions", {"suffix": "the end"}, "suffix"),
        ("/v1/responses", {"input": [{"type": "reasoning"}]}, "input[0].type"),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].type"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ("/v1/responses", {"include": ["reasoning.encrypted_content"]}, "include"),
        ("/v1/responses", {"store": True}, "store"),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.json_schema.schema"),
        ("/v1/embeddings", {"dimensions": 8}, "dimensions"),
        ("/v1/embeddings", {"encoding_format": "hex"}, "encoding_format"),
        ("/v1/embeddings", {"input": []}, "input"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_by_its_name(
    server: Running, path: str, fields: dict[str, Any], param: str | None
) -> None:
    answer = server.post(path, {**CALLS[path][1], **fields})
    if fields == {"prompt": ""} and answer.status == 200:
        return  # a model that begins texts with a token of its own goes on from that
    refused(answer, param)


def test_a_prompt_past_the_context_has_openai_s_code(server: Running) -> None:
    for path, fields in (
        ("/v1/completions", {"prompt": "x y " * 2000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x y " * 2000}]}),
    ):
        answer = server.post(path, {**CALLS[path][1], **fields})
        assert answer.error["code"] == "context_length_exceeded"
        assert "1024" in answer.error["message"]


# --- what fields do ---


def text(server: Running, **fields: Any) -> str:
    answer = server.post("/v1/completions", {**COMPLETION, "temperature": 0, "max_tokens": 12, **fields})
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["text"]


def test_sampling_fields_reach_the_sampler(server: Running) -> None:
    llama = server.state.models["cria"].llama
    plain = text(server)
    first = llama.tokenizer.encode("Hello" + plain, bos=True)[len(llama.tokenizer.encode("Hello", bos=True))]
    assert text(server, logit_bias={str(first): -100}) != plain
    assert text(server, top_k=-1) == text(server, top_k=0) == plain
    assert text(server, top_k=1, temperature=1.5, seed=1) == plain
    assert text(server, min_p=1.0, temperature=1.5, seed=1) == plain
    assert text(server, allowed_token_ids=[49]) == "1" * 12
    assert text(server, stop_token_ids=[first]) == ""
    assert text(server, frequency_penalty=2, max_tokens=60) != text(server, max_tokens=60)
    assert text(server, bad_words=["e"]).count("e") == 0
    assert text(server, dry_multiplier=5.0, dry_penalty_last_n=0, max_tokens=60) == text(server, max_tokens=60)
    assert len(text(server, min_tokens=12, ignore_eos=False)) > 0


def test_answers_follow_what_they_have_to_be(server: Running) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    assert text(server, guided_choice=["yes", "no"]) in ("yes", "no")
    assert re.fullmatch("[xyz]{3}", text(server, guided_regex="[xyz]{3}"))
    assert re.fullmatch("[pq]{2}", text(server, grammar='root ::= letter letter\nletter ::= "p" | "q"'))
    assert re.fullmatch("[pq]{2}", text(server, guided_grammar="start: /[pq]{2}/"))
    named = {"name": "answer", "schema": schema, "strict": True}
    wishes = (
        {"guided_json": schema},
        {"guided_json": json.dumps(schema)},
        {"response_format": {"type": "json_schema", "json_schema": named}},
        {"response_format": {"type": "json_object", "schema": schema}},
    )
    for wish in wishes:
        assert set(json.loads(text(server, **wish, max_tokens=100, temperature=0.3, seed=1))) == {"a"}
    answer = server.post("/v1/responses", {**RESPONSE, "max_output_tokens": 100, "text": {
        "format": {"type": "json_schema", "name": "x", "schema": schema}}})  # fmt: skip
    assert set(json.loads(answer.json["output"][0]["content"][0]["text"])) == {"a"}
    assert server.post("/v1/chat/completions", {**CHAT, "response_format": {"type": "text"}}).status == 200
