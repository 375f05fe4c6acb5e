"""TGI's interface, over a real connection: its fields, forms, reasons, codes, and Hugging Face's own client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

import pronk
from pronk.engine.logprobs import TokenLogprob
from pronk.engine.request import Output, Request, Timings, Usage
from pronk.server.settings import ServerSettings
from pronk.server.tgi.answers import Answer
from pronk.server.tgi.schemas import Token
from support.engine_fakes import STOP, ByteTokenizer
from support.serving import Answer as Reply
from support.serving import Running, serving

SURE = TokenLogprob(STOP, -0.5)
PROMPT = "Once upon a time"
REGEX = {"type": "regex", "value": "[a-c]{3} é"}
SCHEMA = {"properties": {"name": {"enum": ["Anna", "Ben"]}}, "required": ["name"], "additionalProperties": False}


def ask(server: Running, path: str = "/generate", inputs: str = PROMPT, **parameters: Any) -> Reply:
    return server.post(path, {"inputs": inputs, "parameters": {"max_new_tokens": 12, **parameters}})


def text(server: Running, **parameters: Any) -> str:
    answer = ask(server, **parameters)
    assert answer.status == 200, answer.body
    return str(answer.json["generated_text"])


def events(answer: Reply) -> list[Any]:
    """Each is one line, `data:` and JSON, and an empty line."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *blocks, end = answer.body.decode().split("\n\n")
    assert end == ""
    assert all(block.startswith("data:{") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data:")) for block in blocks]


def plain(tokens: list[Any]) -> str:
    return "".join(token["text"] for token in tokens if not token["special"])


# --- one answer ---


def test_an_answer_is_its_text_and_the_headers_say_what_it_took(server: Running) -> None:
    answer = ask(server)
    assert list(answer.json) == ["generated_text"]
    times = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")
    assert all(int(answer.headers[name]) >= 0 for name in times)
    assert float(answer.headers["x-compute-time"]) > 0
    assert (answer.headers["x-generated-tokens"], answer.headers["x-compute-characters"]) == ("12", str(len(PROMPT)))
    assert int(answer.headers["x-prompt-tokens"]) > 1


def test_details_are_the_tokens_and_why_it_ended(server: Running) -> None:
    answer = ask(server, details=True, top_n_tokens=2).json
    details = answer["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens", "top_tokens"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 12, None)
    assert details["prefill"] == []
    assert plain(details["tokens"]) == answer["generated_text"]
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert len(top) == 2
        assert token == top[0], "greedy takes the most likely"


def test_decoder_input_details_are_the_prompt_s_tokens(server: Running) -> None:
    prefill = ask(server, decoder_input_details=True).json["details"]["prefill"]
    assert prefill[0] == {"id": prefill[0]["id"], "text": "<|begin_of_text|>", "logprob": None}
    assert "".join(token["text"] for token in prefill[1:]) == PROMPT
    assert all(token["logprob"] <= 0 for token in prefill[1:])


def test_greedy_unless_asked(server: Running) -> None:
    greedy = text(server)
    assert text(server, temperature=1.0) == text(server, repetition_penalty=1.0, seed=5) == greedy
    for sampling in ({"do_sample": True}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"typical_p": 0.5}):
        assert ask(server, details=True, **sampling).json["details"]["seed"] is not None


def test_a_seed_holds_and_the_one_that_was_drawn_is_told(server: Running) -> None:
    drawn = ask(server, do_sample=True, temperature=2.0, details=True).json
    assert text(server, do_sample=True, temperature=2.0, seed=drawn["details"]["seed"]) == drawn["generated_text"]


def test_best_of_is_the_likeliest(server: Running) -> None:
    details = ask(server, best_of=3, do_sample=True, temperature=3.0, details=True).json["details"]

    def mean(tokens: list[Any]) -> float:
        known = [token["logprob"] for token in tokens if token["logprob"] is not None]
        return sum(known) / len(known)

    others = details["best_of_sequences"]
    assert len({details["seed"], *(other["seed"] for other in others)}) == 3
    assert all(mean(details["tokens"]) >= mean(other["tokens"]) for other in others)
    assert all(plain(other["tokens"]) == other["generated_text"] for other in others)


def test_truncate_keeps_the_last_tokens(server: Running) -> None:
    short = ask(server, truncate=2, decoder_input_details=True).json["details"]["prefill"]
    whole = ask(server, decoder_input_details=True).json["details"]["prefill"]
    assert [token["id"] for token in short] == [token["id"] for token in whole[-2:]]


def test_return_full_text_puts_the_prompt_in_front(server: Running) -> None:
    assert text(server, return_full_text=True) == PROMPT + text(server)
    assert events(ask(server, "/generate_stream", return_full_text=True))[-1]["generated_text"] == PROMPT + text(server)


def test_control_tokens_are_read_by_name_and_a_second_begin_of_text_is_none(server: Running) -> None:
    named = ask(server, inputs=f"<|begin_of_text|>{PROMPT}", decoder_input_details=True).json["details"]["prefill"]
    assert named == ask(server, decoder_input_details=True).json["details"]["prefill"]


# --- streams ---


def test_a_stream_is_the_same_answer_token_by_token(server: Running) -> None:
    whole = ask(server, details=True, top_n_tokens=1).json
    stream = events(ask(server, "/generate_stream", details=True, top_n_tokens=1))
    assert [event["index"] for event in stream] == list(range(1, 13))
    assert [event["token"] for event in stream] == whole["details"]["tokens"]
    assert [event["top_tokens"] for event in stream] == whole["details"]["top_tokens"]
    assert all(event["generated_text"] is None and event["details"] is None for event in stream[:-1])
    assert stream[-1]["generated_text"] == whole["generated_text"]
    assert stream[-1]["details"] == {
        "finish_reason": "length", "generated_tokens": 12, "seed": None,
        "input_length": int(ask(server).headers["x-prompt-tokens"]),
    }  # fmt: skip
    assert events(ask(server, "/generate_stream"))[-1]["details"] is None
    assert "top_tokens" not in events(ask(server, "/generate_stream"))[0]


@pytest.mark.parametrize("start", [0, 2])
def test_a_stop_string_ends_the_text_and_is_its_last(server: Running, start: int) -> None:
    free = text(server)
    stop = free[start + 1 : start + 4]  # in the middle of tokens
    expected = free[: free.index(stop) + len(stop)]
    whole = ask(server, stop=[stop], details=True).json
    stream = events(ask(server, "/generate_stream", stop=[stop], details=True))
    for details, tokens in (
        (whole["details"], whole["details"]["tokens"]),
        (stream[-1]["details"], [event["token"] for event in stream]),
    ):
        assert details["finish_reason"] == "stop_sequence"
        assert plain(tokens) == expected
    assert whole["generated_text"] == stream[-1]["generated_text"] == expected


def test_an_end_token_is_the_last_token_special_and_not_in_the_text() -> None:
    answer = Answer(ByteTokenizer(), Request(tuple(b"?")), seed=None)
    usage, timings = Usage(1, 3), Timings(0, 0, 0, 0, 0)
    ended = Output("", finish_reason="stop", stopped_by=STOP, usage=usage, timings=timings, stop_logprob=SURE)
    new = answer.feed(Output("", tuple(b"h"), "h")) + answer.feed(Output("", tuple(b"i"), "i")) + answer.feed(ended)
    assert [token.token.text for token in new] == ["h", "i", "<stop>"]
    assert new[-1].token == Token(id=STOP, text="<stop>", logprob=-0.5, special=True)
    assert (answer.text, answer.finish_reason, answer.stream_details().generated_tokens) == ("hi", "eos_token", 3)


def test_half_a_character_at_the_end_comes_with_the_last_token() -> None:
    answer = Answer(ByteTokenizer(), Request(tuple(b"?")), seed=None)
    half = "é".encode()[:1]
    usage, timings = Usage(1, 2), Timings(0, 0, 0, 0, 0)
    last = Output("", tuple(half), "\ufffd", finish_reason="length", usage=usage, timings=timings)
    new = answer.feed(Output("", tuple(b"a"), "a")) + answer.feed(last)
    assert [token.token.text for token in new] == ["a", "\ufffd"]
    assert answer.text == "a\ufffd"


def test_a_grammar_that_can_only_end_ends_the_answer(server: Running) -> None:
    stream = events(ask(server, "/generate_stream", grammar=REGEX, max_new_tokens=50, details=True))
    assert stream[-1]["details"]["finish_reason"] == "eos_token"
    assert stream[-1]["generated_text"] == plain([event["token"] for event in stream])


# --- grammars ---


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}},
    ],
)
def test_json_grammars_bind_the_answer(server: Running, grammar: dict[str, Any]) -> None:
    assert json.loads(text(server, grammar=grammar, max_new_tokens=60))["name"] in ("Anna", "Ben")


def test_a_regex_binds_the_answer(server: Running) -> None:
    answer = text(server, grammar=REGEX, max_new_tokens=50)
    assert answer[3:] == " é"
    assert set(answer[:3]) <= set("abc")


# --- what is refused ---


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"watermark": True}, "watermark"),
        ({"adapter_id": "mine"}, "adapter_id"),
        ({"nonsense": 1}, "nonsense"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 1.0}, "top_p"),
        ({"top_k": "3"}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 100_000}, "max_new_tokens"),
        ({"truncate": 100_000}, "truncate"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "seed"),
        ({"best_of": 99, "do_sample": True}, "best_of"),
        ({"stop": [str(i) for i in range(99)]}, "stop"),
        ({"grammar": {"type": "regex", "value": "("}}, "regular expression"),
        ({"grammar": {"type": "json", "value": "{"}}, "grammar"),
        ({"grammar": {"type": "gbnf", "value": "root"}}, "grammar"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Running, parameters: dict[str, Any], named: str) -> None:
    for path in ("/generate", "/generate_stream", "/"):
        answer = ask(server, path, **parameters)
        assert answer.status == 422
        assert list(answer.json) == ["error", "error_type"]
        assert answer.json["error_type"] == "validation"
        assert named in answer.json["error"]
        assert "\n" not in answer.json["error"]


@pytest.mark.parametrize("parameters", [{"decoder_input_details": True}, {"best_of": 2, "do_sample": True}])
def test_what_a_stream_cannot_show_is_refused(server: Running, parameters: dict[str, Any]) -> None:
    assert ask(server, **parameters).status == 200
    assert ask(server, "/generate_stream", **parameters).status == 422


@pytest.mark.parametrize("body", [{}, {"inputs": ""}, {"inputs": ["a"]}, {"inputs": "a", "stop": []}, [], b"{"])
def test_a_body_of_another_form_is_refused(server: Running, body: Any) -> None:
    answer = server.post("/generate", body)
    assert (answer.status, answer.json["error_type"]) == (422, "validation")


def test_a_path_that_does_not_stream_says_so(server: Running) -> None:
    for path, stream in (("/generate", False), ("/generate_stream", True)):
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2}}
        assert server.post(path, {**body, "stream": stream}).status == 200
        refused = server.post(path, {**body, "stream": not stream})
        assert (refused.status, "stream" in refused.json["error"]) == (422, True)


def test_an_overloaded_server_says_so_in_tgi_s_form() -> None:
    with pronk.load("cria", max_sequences=1) as llama, serving(llama, settings=ServerSettings(max_queue=0)) as server:
        with InferenceClient(server.url) as client:
            stream = client.text_generation(PROMPT, max_new_tokens=900, stream=True)
            next(iter(stream))
            answer = ask(server)
        assert (answer.status, answer.json["error_type"]) == (429, "overloaded")
        assert "retry-after" in answer.headers


def test_an_answer_without_time_ends_with_what_there_is() -> None:
    with pronk.load("cria") as llama, serving(llama, settings=ServerSettings(request_seconds=0.0)) as server:
        whole = ask(server, details=True).json
        assert (whole["generated_text"], whole["details"]["finish_reason"]) == ("", "length")
        (event,) = events(ask(server, "/generate_stream"))
        assert event["error_type"] == "incomplete_generation"


# --- other doors ---


def test_the_root_answers_with_a_list_or_a_stream(server: Running) -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 12}}
    assert server.post("/", body).json == [{"generated_text": text(server)}]
    assert server.post("/", {**body, "stream": None}).json == [{"generated_text": text(server)}]
    stream = events(server.post("/", {**body, "stream": True}))
    assert stream[-1]["generated_text"] == text(server)


def test_info_and_health(server: Running) -> None:
    info = server.get("/info").json
    assert (info["model_id"], info["max_total_tokens"]) == ("cria", 1024)
    for path in ("/health", "/ping"):
        assert (server.get(path).status, server.get(path).body) == (200, b"")


def test_tokenize_says_where_the_tokens_lie(server: Running) -> None:
    tokens = server.post("/tokenize", {"inputs": PROMPT}).json
    assert [PROMPT[token["start"] : token["stop"]] for token in tokens] == [token["text"] for token in tokens]
    assert "".join(token["text"] for token in tokens) == PROMPT
    assert server.post("/tokenize", {"input": PROMPT}).status == 422


# --- Hugging Face's client ---


@pytest.fixture
def client(server: Running) -> InferenceClient:
    return InferenceClient(model=server.url)


def test_the_client_gets_text_and_tokens(client: InferenceClient, server: Running) -> None:
    whole = client.text_generation(PROMPT, max_new_tokens=12)
    assert whole == text(server)
    assert "".join(client.text_generation(PROMPT, max_new_tokens=12, stream=True)) == whole
    assert (
        InferenceClient(base_url=server.url).text_generation(PROMPT, max_new_tokens=12, stop=[whole[:2]]) == whole[:2]
    )


def test_the_client_gets_details(client: InferenceClient) -> None:
    output = client.text_generation(PROMPT, max_new_tokens=5, details=True, decoder_input_details=True)
    assert output.details is not None
    assert output.details.generated_tokens == len(output.details.tokens) == 5
    assert output.details.prefill[1].logprob < 0
    *_, last = client.text_generation(PROMPT, max_new_tokens=5, details=True, stream=True)
    assert last.generated_text == output.generated_text
    assert last.details.finish_reason == "length"


def test_the_client_s_grammar_binds(client: InferenceClient) -> None:
    answer = client.text_generation(PROMPT, max_new_tokens=60, grammar={"type": "json", "value": SCHEMA})  # type: ignore[arg-type]
    assert json.loads(answer)["name"] in ("Anna", "Ben")


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_knows_our_refusals(client: InferenceClient, stream: bool) -> None:
    with pytest.raises(ValidationError, match="watermark"):
        client.text_generation(PROMPT, watermark=True, stream=stream)


def test_the_documentation_s_examples_run(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "en" / "tgi.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(program.replace("http://localhost:8080", server.url), {})
    assert capsys.readouterr().out == text(server, max_new_tokens=20)
    (body,) = re.findall(r"--json '(.*)'$", page, re.MULTILINE)
    assert server.post("/generate", body.encode()).json["details"]["generated_tokens"] <= 20
