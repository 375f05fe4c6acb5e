"""llama-server's own routes, over a real connection."""

from __future__ import annotations

import json

import pytest

from support.serving import Answer, Running

PROMPT = "Once upon a time"
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


# --- /completion ---


def complete(server: Running, **fields: object) -> Answer:
    return server.post("/completion", {"prompt": PROMPT, "n_predict": 8, "temperature": 0, **fields})


def test_completion_continues_a_text(server: Running) -> None:
    answer = complete(server, return_tokens=True).json
    same = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}).json
    assert answer["content"] == same["choices"][0]["text"]
    assert (answer["stop"], answer["stop_type"], answer["tokens_predicted"]) == (True, "limit", 8)
    assert server.post("/detokenize", {"tokens": answer["tokens"]}).json["content"] == answer["content"]
    assert answer["tokens_evaluated"] == len(tokens(server, PROMPT, add_special=True))
    assert answer["timings"]["predicted_n"] == 8


def test_completion_of_ids_and_texts(server: Running) -> None:
    ids = tokens(server, PROMPT, add_special=True)
    whole = complete(server).json["content"]
    assert complete(server, prompt=ids).json["content"] == whole
    assert complete(server, prompt=["Once", *tokens(server, " upon a time")]).json["prompt"] == PROMPT


def test_null_is_a_field_s_default(server: Running) -> None:
    assert (
        complete(server, top_k=None, stop=None, seed=None, grammar=None).json["content"]
        == complete(server).json["content"]
    )


def test_completion_streams_without_done(server: Running) -> None:
    *parts, last = (json.loads(block[6:]) for block in complete(server, stream=True).body.decode().split("\n\n")[:-1])
    assert "".join(part["content"] for part in parts) == complete(server).json["content"]
    assert [part["stop"] for part in parts] == [False] * 8
    assert (last["stop"], last["content"], last["tokens_predicted"]) == (True, "", 8)


def test_completion_stops_at_a_word(server: Running) -> None:
    free = complete(server).json["content"]
    answer = complete(server, stop=[free[2:5]]).json
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", free[2:5])
    assert answer["content"] == free[: free.index(free[2:5])]


def test_completion_shows_probabilities(server: Running) -> None:
    for shown in complete(server, n_probs=2).json["completion_probabilities"]:
        assert shown["top_logprobs"][0]["id"] == shown["id"], "greedy takes the most likely"
        assert len(shown["top_logprobs"]) == 2


def test_completion_s_bias_forbids_and_forces(server: Running) -> None:
    (token,) = tokens(server, "a")
    assert complete(server, logit_bias=[[token, 100.0]]).json["content"] == "a" * 8
    forbidden = complete(server, logit_bias=[[token, 90.0], ["a", False]], return_tokens=True).json
    assert token not in forbidden["tokens"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n_predict": -5}, "n_predict"),
        ({"id_slot": 3}, "id_slot"),
        ({"nonsense": 1}, "nonsense"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, "repeat_last_n"),
        ({"logit_bias": [["a"]]}, "logit_bias"),
        ({"n_probs": 1000}, "n_probs"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "json_schema"),
        ({"model": "other"}, "other"),
    ],
)
def test_completion_refuses_by_name(server: Running, fields: dict[str, object], named: str) -> None:
    answer = complete(server, **fields)
    assert answer.status == (404 if "model" in fields else 400)
    assert named in answer.json["error"]["message"]


@pytest.mark.parametrize("grammar", ['root ::= "yes" | "no"', 'start: "yes" | "no"'])
def test_completion_follows_a_grammar(server: Running, grammar: str) -> None:
    answer = complete(server, grammar=grammar, n_predict=30).json
    assert answer["content"] in ("yes", "no")
    assert answer["stop_type"] == "eos"


def test_completion_follows_a_schema(server: Running) -> None:
    assert json.loads(complete(server, json_schema={"enum": [17, 18]}, n_predict=30).json["content"]) in (17, 18)
