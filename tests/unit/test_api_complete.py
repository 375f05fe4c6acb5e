"""Llama.complete, score and what they refuse, over a model that says what the test wants."""

from __future__ import annotations

import gc
import json
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pronk
from pronk.api import Llama
from pronk.checkpoints.checkpoint import Checkpoint, GenerationDefaults
from pronk.engine.config import engine_config
from pronk.engine.request import Output, Request
from pronk.engine.sampling import SamplingParams
from pronk.errors import CheckpointError, RequestError, TokenizerError
from support.engine_fakes import SMALL, ByteTokenizer, FakeModel, hashed, says


def no_tokenizer() -> Any:
    raise TokenizerError("this model has no tokenizer")


def llama(model: FakeModel | None = None, *, tokenizer: Any = None, **advice: Any) -> Llama:
    checkpoint = Checkpoint(
        Path("somewhere/fake.gguf"),
        "gguf",
        SMALL,
        {},
        tokenizer or ByteTokenizer,
        defaults=GenerationDefaults(**advice),
    )
    return Llama(checkpoint, model or FakeModel(hashed), engine_config(SMALL))  # type: ignore[arg-type]


def pages_in_use(opened: Llama) -> int:
    scheduler = opened._runner._engine.scheduler
    return scheduler.pool.count - scheduler.pool.free


def test_one_prompt_gives_one_completion_and_a_list_a_list() -> None:
    opened = llama(says(" world", 5))
    whole = opened.complete("hello", temperature=0)
    assert (whole.text, whole.finish_reason, whole.token_ids) == (" world", "stop", tuple(b" world"))
    assert whole.usage.prompt_tokens == 5
    assert opened.complete(["hello"], temperature=0)[0].text == " world"
    assert opened.complete([1, 2, 3, 4, 5], temperature=0).text == " world"
    assert opened.complete(np.array([1, 2, 3, 4, 5]), temperature=0).text == " world"
    assert [c.text for c in opened.complete([[1] * 5, [2] * 6], temperature=0)] == [" world", "world"]


def test_prompts_of_a_list_run_together_and_answer_in_their_order() -> None:
    model = FakeModel(hashed)
    opened = llama(model)
    alone = [opened.complete(p, temperature=0, max_tokens=n).token_ids for p, n in (("one", 8), ("another", 8))]
    model.batches.clear()
    together = opened.complete(["one", "another"], temperature=0, max_tokens=8)
    assert [c.token_ids for c in together] == alone
    assert len(model.batches) == 8


def test_n_continuations_of_a_prompt_differ_and_hold_with_a_seed() -> None:
    opened = llama()
    several = opened.complete("go", n=3, seed=4, temperature=1.0, max_tokens=12)
    assert len({c.token_ids for c in several}) == 3
    assert [c.token_ids for c in opened.complete("go", n=3, seed=4, temperature=1.0, max_tokens=12)] == [
        c.token_ids for c in several
    ]
    assert opened.complete("go", seed=5, temperature=1.0, max_tokens=12).token_ids == several[1].token_ids
    assert len(opened.complete(["a", "b"], n=2, max_tokens=1)) == 4


def test_echo_puts_the_prompt_in_front() -> None:
    opened = llama(says(" world", 5))
    assert opened.complete("hello", echo=True, temperature=0).text == "hello world"
    assert opened.complete(list(b"hello"), echo=True, temperature=0).text == "hello world"
    pieces = list(opened.complete("hello", echo=True, stream=True, temperature=0))
    assert pieces[0].text == "hello "


def test_a_stream_gives_pieces_and_then_the_whole() -> None:
    opened = llama(says("abc", 1))
    stream = opened.complete("x", stream=True, temperature=0, logprobs=1)
    pieces = list(stream)
    assert [piece.text for piece in pieces] == ["a", "b", "c", ""]
    assert pieces[0].logprobs[0].id == ord("a")
    assert [piece.finish_reason for piece in pieces] == [None, None, None, "stop"]
    assert stream.result.text == "abc"
    assert len(stream.result.logprobs) == 3


def test_a_stream_of_several_says_which_is_which() -> None:
    opened = llama()
    stream = opened.complete(["one", "two!"], stream=True, temperature=0, max_tokens=4)
    ids: list[list[int]] = [[], []]
    for piece in stream:
        ids[piece.index] += piece.token_ids
    assert [tuple(i) for i in ids] == [c.token_ids for c in stream.results]


def test_leaving_the_loop_frees_the_pages_at_once() -> None:
    opened = llama()
    for _ in opened.complete("endless", stream=True):
        break
    gc.collect()
    assert pages_in_use(opened) == 0
    stream = opened.complete("endless", stream=True)
    next(stream)
    assert pages_in_use(opened) == 1
    stream.close()
    assert pages_in_use(opened) == 0
    assert stream.result.finish_reason == "cancelled"
    assert len(stream.result.token_ids) == 1
    stream.close()
    with opened.complete("endless", stream=True) as stream:
        next(stream)
    assert pages_in_use(opened) == 0


def test_a_stream_closed_before_it_started_says_so() -> None:
    model = FakeModel(hashed)
    stream = llama(model).complete("never", stream=True)
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.usage.completion_tokens == 0
    assert model.batches == []


def test_score_is_the_log_probability_of_each_token() -> None:
    scores = llama().score("some text", top=1)
    assert [score.id for score in scores] == list(b"some text")
    assert scores[0].logprob is None
    for position in range(1, len(scores)):
        row = hashed(list(b"some text")[:position]).astype(np.float64)
        expected = row[scores[position].id] - np.log(np.exp(row).sum())
        assert scores[position].logprob == pytest.approx(expected, abs=1e-5)
        assert scores[position].top[0][0] == row.argmax()


def test_a_failing_forward_is_raised_and_the_model_stays_usable() -> None:
    model = FakeModel(hashed)
    opened = llama(model)

    def fail(ids: object) -> Any:
        raise MemoryError("no room")

    model.logits_of = fail
    stream = opened.complete("x", stream=True)
    with pytest.raises(MemoryError, match="no room"):
        list(stream)
    with pytest.raises(MemoryError):
        _ = stream.result
    assert pages_in_use(opened) == 0
    model.logits_of = hashed
    assert len(opened.complete("x", max_tokens=3).token_ids) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "x" * 300}, "the prompt has 300 tokens, the context holds 256"),
        ({"prompt": []}, "there is no prompt"),
        ({"prompt": ""}, "the prompt has no tokens"),
        ({"prompt": [1, "two"]}, "mixes token ids with texts"),
        ({"prompt": [999]}, "token id 999, the vocabulary ends at 256"),
        ({"prompt": "x", "n": 0}, "n is 0"),
        ({"prompt": "x", "top_p": 3}, "top_p is 3"),
    ],
)
def test_what_cannot_run_is_refused(arguments: dict[str, Any], message: str) -> None:
    opened = llama()
    with pytest.raises(RequestError, match=message):
        opened.complete(**arguments)
    assert pages_in_use(opened) == 0


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="unknown option 'temprature'; did you mean 'temperature'"):
        llama().complete("x", temprature=0)
    with pytest.raises(TypeError, match="unknown option 'zzz'; expected one of temperature, top_k"):
        llama().complete("x", zzz=0)


def test_the_checkpoint_recommends_and_the_caller_decides() -> None:
    assert llama().defaults == SamplingParams(temperature=0.6, top_p=0.9)
    opened = llama(temperature=0.0, top_k=7)
    assert (opened.defaults.temperature, opened.defaults.top_k, opened.defaults.top_p) == (0.0, 7, 0.9)
    assert opened.complete("x", max_tokens=5).token_ids == opened.complete("x", max_tokens=5).token_ids
    params = SamplingParams(temperature=2.0, seed=1, max_tokens=5)
    assert opened.complete("x", params=params, max_tokens=2).usage.completion_tokens == 2
    with pytest.raises(CheckpointError, match=r"fake.gguf: generation_config.json: top_p is 7"):
        llama(top_p=7)


def test_without_a_tokenizer_ids_still_work() -> None:
    opened = llama(tokenizer=no_tokenizer)
    assert len(opened.complete([1, 2], max_tokens=4).token_ids) == 4
    with pytest.raises(TokenizerError, match="this model has no tokenizer"):
        opened.complete("text")
    with pytest.raises(TokenizerError, match="this model has no tokenizer"):
        opened.complete([1, 2], echo=True)


def test_a_closed_model_says_so() -> None:
    with llama() as opened:
        stream = opened.complete("x", stream=True, max_tokens=2)
        next(stream)
    with pytest.raises(RequestError, match=r"fake.gguf is closed; load it again"):
        opened.complete("x")
    assert len(stream.result.token_ids) == 2
    assert "closed" in repr(opened)


def test_a_served_model_answers_beside_its_service_and_ends_it_with_itself() -> None:
    opened = llama()
    expected = opened.complete("aside", temperature=0, max_tokens=9).token_ids
    outputs: queue.Queue[Output] = queue.Queue()
    with opened:
        service = opened.serve()
        assert opened.serve() is service
        request = Request(tuple(b"in the service"), SamplingParams(temperature=0, max_tokens=150, ignore_eos=True))
        service.submit([request], outputs.put)
        assert opened.complete("aside", temperature=0, max_tokens=9).token_ids == expected
        assert service.alive
    assert not service.alive
    last = outputs.get(timeout=60)
    while not last.finish_reason:
        last = outputs.get(timeout=60)
    assert last.finish_reason in ("cancelled", "length")
    with pytest.raises(RequestError, match="is closed; load it again"):
        opened.serve()


def test_texts_become_vectors() -> None:
    with pronk.load("cria", context=64) as opened:
        one = opened.embed("A llama eats grass.")
        several = opened.embed(["A llama eats grass.", "The rain is cold.", "A llama eats green grass."])
        assert one.shape == (1, opened.config.dim)
        assert np.array_equal(several[:1], one)
        assert np.array_equal(opened.embed([opened.tokenizer.encode("A llama eats grass.", bos=True)]), one)
        alike = several @ several.T
        assert alike[0, 2] > alike[0, 1]
        with pytest.raises(RequestError, match=r"text 1 has \d+ tokens, expected 1 to 64, the context"):
            opened.embed(["short", "long " * 100])


def test_results_are_json() -> None:
    opened = llama(says("abc", 1))
    plain = opened.complete("x", temperature=0).to_json()
    assert "logprobs" not in plain
    assert json.loads(json.dumps(plain))["text"] == "abc"
    assert plain["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "cached_tokens": 0}
    scored = opened.complete("x", temperature=0, logprobs=2, prompt_logprobs=0).to_json()
    assert scored["logprobs"][0]["id"] == ord("a")
    assert scored["prompt_logprobs"][0]["logprob"] is None
