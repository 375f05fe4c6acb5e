"""The official client's calls against a real server."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

import pronk
from pronk.server.settings import ServerSettings
from support.gated_model import scripted
from support.serving import Running, serving

CALL = '{"type": "function", "name": "weather", "parameters": {"city": "Rome"}}'
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION: Any = [{"role": "user", "content": "What is 12 + 30?"}]


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


# --- chat completions ---


def test_chat(client: openai.OpenAI, server: Running) -> None:
    answer = client.chat.completions.create(
        model="cria", messages=QUESTION, temperature=0, max_completion_tokens=50, user="me", metadata={"a": "b"}
    )
    (choice,) = answer.choices
    direct = server.state.models["cria"].llama.chat("What is 12 + 30?", temperature=0)
    assert choice.message.content == direct.text
    assert (choice.message.role, choice.finish_reason, answer.object) == ("assistant", "stop", "chat.completion")
    assert answer.id.startswith("chatcmpl-")
    assert (answer.system_fingerprint or "").startswith("fp_")
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens == direct.usage.prompt_tokens
    assert usage.completion_tokens == direct.usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    extra: Any = answer.model_extra
    assert extra["timings"]["first_token_seconds"] > 0


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "messages": QUESTION, "temperature": 0, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for index in range(2):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine) == whole.choices[index].message.content
        assert [choice.finish_reason for choice in mine][-1] == "stop"
        assert {choice.finish_reason for choice in mine[:-1]} == {None}
        tokens = [token for choice in mine if choice.logprobs for token in choice.logprobs.content or ()]
        assert [t.token for t in tokens] == [t.token for t in whole.choices[index].logprobs.content]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    timings: Any = chunks[-1].model_extra
    assert {"prompt_tokens_per_second", "decode_tokens_per_second", "first_token_seconds"} <= set(timings["timings"])


def test_chat_logprobs(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "messages": QUESTION, "temperature": 0, "max_tokens": 4, "logprobs": True}
    tokens = client.chat.completions.create(**asked, top_logprobs=3).choices[0].logprobs.content
    assert len(tokens) == 4
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy takes the most likely
        assert bytes(token.bytes).decode() == token.token
        assert token.logprob <= 0
    (first, *_) = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert first.top_logprobs == []


def test_seeds_repeat_and_several_answers_differ(client: openai.OpenAI) -> None:
    story: Any = [{"role": "user", "content": "Tell me a story."}]
    asked: Any = {"model": "cria", "messages": story, "temperature": 2, "top_p": 1, "n": 3, "max_tokens": 20}
    first, second = (client.chat.completions.create(**asked, seed=-5) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) > 1
    assert [choice.index for choice in first.choices] == [0, 1, 2]


def test_how_an_answer_ends(client: openai.OpenAI) -> None:
    def ending(**more: Any) -> tuple[Any, ...]:
        choice = client.chat.completions.create(model="cria", messages=QUESTION, temperature=0, **more).choices[0]
        extra: Any = choice.model_extra
        return choice.message.content, choice.finish_reason, extra["ended_by"], extra["stop_reason"]

    whole, *said = ending()
    assert said == ["stop", "stop", None]
    assert ending(stop="=") == (whole.partition("=")[0], "stop", "stop", "=")
    assert ending(stop=["never", "30"])[3] == "30"
    assert ending(max_tokens=2)[1:] == ("length", "length", None)
    assert ending(max_tokens=0)[:2] == ("", "length")


def test_a_prompt_that_was_read_before_is_found_in_the_cache(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "prompt": list(range(100, 200)), "max_tokens": 1, "temperature": 0}
    first, second = (client.completions.create(**asked) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert 64 <= second.usage.prompt_tokens_details.cached_tokens < 100
    assert first.choices[0].text == second.choices[0].text


@pytest.mark.parametrize("overflow", ["refuse", "slide"])
def test_an_answer_that_fills_the_context_ends_or_slides_and_says_so(overflow: Any) -> None:
    settings = ServerSettings(overflow=overflow)
    with pronk.load("cria", context=64) as llama, serving(llama, settings=settings) as server:
        body = {"prompt": "One two", "max_tokens": 100, "ignore_eos": True}
        answer = server.post("/v1/completions", body).json
        long = server.post("/v1/completions", {"prompt": [50] * 70, "max_tokens": 1})
    (choice,) = answer["choices"]
    if overflow == "slide":
        assert answer["usage"]["completion_tokens"] == 100
        assert choice["ended_by"] == "length"
        assert choice["slid_tokens"] > 0
        assert long.status == 200
    else:
        assert answer["usage"]["total_tokens"] == 64
        assert (choice["finish_reason"], choice["ended_by"]) == ("length", "context")
        assert "slid_tokens" not in choice
        assert long.error["code"] == "context_length_exceeded"


# --- tools ---


def test_a_tool_round_trip(client: openai.OpenAI, server: Running) -> None:
    messages: Any = [{"role": "user", "content": "How warm is it in Rome?"}]
    asked: Any = {"model": "cria", "tools": [WEATHER], "temperature": 0}
    with scripted(server.state.models["cria"].llama, CALL, "<|eom_id|>"):
        choice = client.chat.completions.create(messages=messages, **asked).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function", "weather", {"city": "Rome"},
    )  # fmt: skip
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "21 degrees"}]
    after = client.chat.completions.create(messages=messages, **asked)
    llama = server.state.models["cria"].llama
    del messages[2]["name"]  # which says nothing new
    messages[1] = choice.message.model_dump(exclude_none=True)
    assert after.choices[0].message.content == llama.chat(messages, tools=[WEATHER], temperature=0).text


def test_calls_are_streamed_as_deltas_and_never_as_text(client: openai.OpenAI, server: Running) -> None:
    messages: Any = [{"role": "user", "content": "How warm is it in Rome?"}]
    asked: Any = {"model": "cria", "messages": messages, "tools": [WEATHER], "temperature": 0}
    with scripted(server.state.models["cria"].llama, CALL, "<|eom_id|>"):
        chunks = list(client.chat.completions.create(**asked, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == ""
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [call.index for call in calls] == [0] * len(calls)
    assert (calls[0].type, calls[0].function.name) == ("function", "weather")
    assert calls[0].id
    assert json.loads("".join(call.function.arguments for call in calls)) == {"city": "Rome"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_tools_that_may_not_be_called_are_text(client: openai.OpenAI, server: Running) -> None:
    messages: Any = [{"role": "user", "content": "How warm is it in Rome?"}]
    with scripted(server.state.models["cria"].llama, CALL):
        choice = client.chat.completions.create(
            model="cria", messages=messages, tools=[WEATHER], tool_choice="none", temperature=0
        ).choices[0]
    assert choice.message.tool_calls is None
    assert choice.message.content == CALL
    assert choice.finish_reason == "stop"


# --- completions ---


def test_completions_of_texts_and_ids(client: openai.OpenAI, server: Running) -> None:
    llama = server.state.models["cria"].llama
    texts = ["Once upon a time", "One two"]
    ids = [llama.tokenizer.encode(text, bos=True) for text in texts]
    asked: Any = {"model": "cria", "temperature": 0, "max_tokens": 5}
    direct = [done.text for done in llama.complete(texts, temperature=0, max_tokens=5)]
    for prompt in (texts, ids):
        answer = client.completions.create(prompt=prompt, **asked)
        assert [choice.text for choice in answer.choices] == direct
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    for single in (texts[0], ids[0]):
        assert client.completions.create(prompt=single, **asked).choices[0].text == direct[0]
    assert client.completions.create(model="cria", prompt="One").usage.completion_tokens <= 16  # OpenAI's default


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI, server: Running) -> None:
    llama = server.state.models["cria"].llama
    text = "Once upon a time – 从前"
    choice = client.completions.create(model="cria", prompt=text, max_tokens=0, echo=True, logprobs=2).choices[0]
    scored = llama.score(text)
    shown = choice.logprobs
    assert choice.text == text
    assert shown.token_logprobs == [None, *(pytest.approx(token.logprob) for token in scored[1:])]
    assert shown.top_logprobs[0] is None
    assert all(name in top for name, top in zip(shown.tokens[1:], shown.top_logprobs[1:], strict=True))
    for offset, token, following in zip(shown.text_offset, shown.tokens, shown.text_offset[1:], strict=False):
        if not token.startswith(("<|", "bytes:")):
            assert text[offset:following] == token


def test_echo_and_usage_in_a_stream(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "prompt": ["One two", "Three"], "max_tokens": 3, "echo": True, "temperature": 0}
    whole = client.completions.create(**asked, n=2)
    chunks = list(client.completions.create(**asked, n=2, stream=True, stream_options={"include_usage": True}))
    texts = [""] * 4
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0].startswith("One two")
    assert texts[2].startswith("Three")
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_best_of_keeps_the_likeliest(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "prompt": "One two", "max_tokens": 8, "temperature": 1.5, "seed": 3, "logprobs": 0}
    tried = client.completions.create(**asked, n=4).choices
    best = client.completions.create(**asked, n=2, best_of=4)

    def mean(choice: Any) -> float:
        return math.fsum(choice.logprobs.token_logprobs) / max(len(choice.logprobs.token_logprobs), 1)

    ranked = sorted(tried, key=mean, reverse=True)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert best.usage.completion_tokens >= sum(len(choice.logprobs.token_logprobs) for choice in tried)


# --- embeddings, models ---


def test_embeddings(client: openai.OpenAI, server: Running) -> None:
    llama = server.state.models["cria"].llama
    texts = ["One two three", "从前有一只羊驼"]
    answer = client.embeddings.create(model="cria", input=texts)  # the client asks for base64
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (2, llama.config.dim)
    np.testing.assert_allclose(vectors, llama.embed(texts), atol=1e-6)
    plain = server.post("/v1/embeddings", {"input": llama.tokenizer.encode(texts[0], bos=True)}).json
    np.testing.assert_allclose(plain["data"][0]["embedding"], vectors[0], atol=1e-6)
    coded = server.post("/v1/embeddings", {"input": texts[0], "encoding_format": "base64"}).json["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), vectors[0], atol=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_models(client: openai.OpenAI, server: Running) -> None:
    (card,) = client.models.list().data
    assert (card.id, card.object) == ("cria", "model")
    assert client.models.retrieve("cria").created == card.created
    with pytest.raises(openai.NotFoundError, match="'cria'"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="'cria'"):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)


# --- responses ---


def test_responses(client: openai.OpenAI, server: Running) -> None:
    llama = server.state.models["cria"].llama
    answer = client.responses.create(model="cria", input="What is 12 + 30?", instructions="Be brief.", temperature=0)
    direct = llama.chat("What is 12 + 30?", system="Be brief.", temperature=0)
    assert answer.output_text == direct.text
    assert (answer.status, answer.error, answer.store) == ("completed", None, False)
    assert answer.usage.input_tokens == direct.usage.prompt_tokens
    again = client.responses.create(
        model="cria", temperature=0,
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}, *answer.output,
               {"role": "user", "content": "And 1 + 1?"}],
    )  # fmt: skip
    turns = [("user", "Hello"), ("assistant", direct.text), ("user", "And 1 + 1?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    assert again.output_text == llama.chat(messages, temperature=0).text
    cut = client.responses.create(model="cria", input="What is 12 + 30?", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.output[0].status == "incomplete"


def test_response_events_come_in_order(client: openai.OpenAI) -> None:
    asked: Any = {"model": "cria", "input": "What is 12 + 30?", "temperature": 0}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * deltas,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert events[0].response.id == events[-1].response.id
    assert events[0].response.output == []
    with client.responses.stream(model="cria", input="What is 12 + 30?", temperature=0) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_functions_in_responses(client: openai.OpenAI, server: Running) -> None:
    llama = server.state.models["cria"].llama
    tools: Any = [{"type": "function", **WEATHER["function"]}]
    question: Any = [{"role": "user", "content": "How warm is it in Rome?"}]
    with scripted(llama, CALL, "<|eom_id|>"):
        events = list(client.responses.create(model="cria", input=question, tools=tools, temperature=0, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    (call,) = events[-1].response.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Rome"})
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    after = client.responses.create(model="cria", input=[*question, call, result], tools=tools, temperature=0)
    assert after.output_text


def test_logprobs_in_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="cria", input="What is 12 + 30?", temperature=0, include=["message.output_text.logprobs"], top_logprobs=2
    )
    tokens = answer.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens) == answer.output_text
    assert all(len(token.top_logprobs) == 2 for token in tokens)
