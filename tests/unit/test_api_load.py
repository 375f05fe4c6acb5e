"""pronk.load on trained models: the text that stories260K's page documents; what the built-in model says, whichever way
it is computed; and what load refuses."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pronk
from pronk.errors import BackendError, ChatFormatError, CheckpointError, RequestError
from pronk.text.messages import Message
from support.stories import documented_text, stories_folder

SURE = ("Hello!", "Who are you?", "What is 12 + 30?", "你是谁？")  # answers that roundings do not sway


@pytest.fixture(scope="module")
def cria() -> Iterator[pronk.Llama]:
    with pronk.load("cria") as llama:
        yield llama


def answers(llama: pronk.Llama) -> list[str]:
    return [llama.chat(question, temperature=0, max_tokens=40).text for question in SURE]


@pytest.fixture(scope="module")
def expected(cria: pronk.Llama) -> list[str]:
    said = answers(cria)
    assert "cria" in said[1]
    return said


@pytest.fixture(scope="module")
def story(cria: pronk.Llama) -> str:
    """In the built-in model's own words."""
    return "\n".join(c.text for c in cria.complete("Once upon a time,", n=3, seed=1, max_tokens=120, echo=True))


@pytest.fixture(scope="module")
def stories_file(shared_data: Path) -> Path:
    return stories_folder(shared_data) / "stories260K.bin"


@pytest.fixture(scope="module")
def llama(stories_file: Path) -> pronk.Llama:
    return pronk.load(stories_file)


def test_greedy_text_is_the_documented_one(llama: pronk.Llama, shared_data: Path) -> None:
    whole = llama.complete("", temperature=0, max_tokens=256)
    assert whole.text.strip() == documented_text(shared_data).strip()
    stream = llama.complete("", temperature=0, max_tokens=256, stream=True)
    assert "".join(piece.text for piece in stream) == whole.text
    assert whole.timings.decode_tokens_per_second > 0


@pytest.fixture(scope="module")
def alone(cria: pronk.Llama) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Prompts and what they are answered with, one after the other."""
    questions = (*SURE, "Tell me a story about a llama named Nelda.", "What is RoPE?")
    prompts = [tuple(cria.chat_format.encode([Message("user", question)])) for question in questions]
    said = {prompt: cria.complete(prompt, temperature=0, max_tokens=48).token_ids for prompt in prompts}
    assert len(set(said.values())) == len(questions)
    return said


@pytest.mark.parametrize("options", [{"token_budget": 1, "max_sequences": 1}, {"token_budget": 16}, {"pages": 8}])
def test_the_text_depends_on_no_setting_of_the_engine(
    alone: dict[tuple[int, ...], tuple[int, ...]], options: dict[str, Any]
) -> None:
    with pronk.load("cria", context=256, **options) as other:
        together = other.complete(list(alone), temperature=0, max_tokens=48)
    assert [c.token_ids for c in together] == list(alone.values())


def test_threads_get_the_answers_that_they_would_get_alone(cria: pronk.Llama) -> None:
    def ask(name: str) -> str:
        return cria.chat(f"Tell me a story about a llama named {name}.", seed=3, max_tokens=40).text

    names = ("Tom", "Lily", "Ben", "Nelda")
    alone = [ask(name) for name in names]
    assert len(set(alone)) == len(names)
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(ask, names)) == alone


@pytest.mark.parametrize("kv_type", ["f32", "q8_0"])
def test_a_cache_of_another_type_changes_numbers_and_not_answers(
    cria: pronk.Llama, expected: list[str], story: str, kv_type: Any
) -> None:
    with pronk.load("cria", kv_type=kv_type) as other:
        assert answers(other) == expected
        found, exact = other.perplexity(story, window=64).perplexity, cria.perplexity(story, window=64).perplexity
    assert found != exact
    assert found == pytest.approx(exact, rel=0.05)


def test_both_backends_say_the_same(expected: list[str]) -> None:
    pytest.importorskip("torch")
    with pronk.load("cria", backend="torch") as other:
        assert other.chat(SURE[1], temperature=0, max_tokens=40).text == expected[1]


@pytest.mark.parametrize("narrow", [{"temperature": 0.01}, {"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_a_sampler_that_leaves_one_token_is_greedy(
    cria: pronk.Llama, expected: list[str], narrow: dict[str, Any]
) -> None:
    wide = {"temperature": 5.0, "top_p": 1.0, "max_tokens": 40, "seed": 7}
    assert cria.chat(SURE[1], **wide).text != expected[1]
    assert cria.chat(SURE[1], **{**wide, **narrow}).text == expected[1]


def test_a_stop_string_cuts_what_would_have_been_said(cria: pronk.Llama, expected: list[str]) -> None:
    whole = expected[1]
    for at in (1, 6, 11):  # wherever the tokens begin and end
        stop = whole[at : at + 5]
        stream = cria.chat(SURE[1], temperature=0, stop=stop, stream=True)
        assert "".join(piece.text for piece in stream) == stream.result.text == whole.partition(stop)[0]
        assert stream.result.stopped_by == stop


def test_what_it_would_say_is_likely_and_its_words_in_disorder_are_not(cria: pronk.Llama, story: str) -> None:
    words = story.split()
    random.Random(0).shuffle(words)
    shuffled = " ".join(words)
    assert 10 * cria.perplexity(story, window=64).perplexity < cria.perplexity(shuffled, window=64).perplexity
    own, other = ([score.logprob for score in cria.score(text)[1:]] for text in (story, shuffled))
    assert sum(own) / len(own) > sum(other) / len(other) + 2


def test_a_scored_answer_has_the_log_probabilities_that_it_was_said_with(cria: pronk.Llama) -> None:
    prompt = cria.chat_format.encode([Message("user", "Tell me a story.")])
    said = cria.complete(prompt, seed=2, temperature=1.0, max_tokens=40, logprobs=0)
    scores = cria.score([*prompt, *said.token_ids])
    assert [s.logprob for s in scores[len(prompt) :]] == [s.logprob for s in said.logprobs]


def test_the_context_is_the_models_unless_asked_for_less(llama: pronk.Llama, stories_file: Path) -> None:
    assert llama.context == llama.config.context_length == 512
    with pronk.load(stories_file, context=40) as small:
        cut = small.complete("Once upon a time", temperature=0)
        assert cut.finish_reason == "context"
        assert cut.usage.prompt_tokens + cut.usage.completion_tokens == 40
    with pytest.raises(RequestError, match="context is 513 tokens, the model's is 512"):
        pronk.load(stories_file, context=513)


def test_the_perplexity_of_a_text_like_those_it_learned_from(llama: pronk.Llama, shared_data: Path) -> None:
    text = (shared_data / "text" / "tinystories_sample.txt").read_text(encoding="utf-8")[:2000]
    assert 2 < llama.perplexity(text, window=128).perplexity < 20


def test_a_base_model_has_no_chat_format(llama: pronk.Llama) -> None:
    with pytest.raises(ChatFormatError, match="base model"):
        llama.chat("hello")


def test_a_base_model_goes_on_with_a_plain_conversation(llama: pronk.Llama, stories_file: Path) -> None:
    with pronk.load(stories_file, chat_format="plain") as plain:
        asked = Message("user", "Once upon a time, there was")
        first = plain.chat([asked], temperature=0, max_tokens=20)
        assert first.text == llama.complete(asked.content, temperature=0, max_tokens=20).text
        talk = [asked, first.message, Message("user", "Tom was")]
        text = f"{asked.content}{first.text}\nTom was"
        stream = plain.chat(talk, temperature=0, max_tokens=20, stream=True)
        assert "".join(piece.text for piece in stream) == llama.complete(text, temperature=0, max_tokens=20).text
        with pytest.raises(ChatFormatError, match="knows no tools"):
            plain.chat("hi", tools=["brave_search"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "abacus"}, BackendError, "unknown backend 'abacus'"),
        ({"kv_type": "f8"}, RequestError, "kv_type is 'f8'"),
        ({"kv_type": "q8_0"}, RequestError, "multiple of 32 values, this model's have 8; choose --kv-type f16"),
        ({"max_sequences": 0}, RequestError, "max_sequences is 0"),
        ({"threads": 0}, BackendError, "0 threads"),
    ],
)
def test_load_refuses_what_it_cannot_do(
    stories_file: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pronk.load(stories_file, **options)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"model\.gguf"):
        pronk.load(path)
