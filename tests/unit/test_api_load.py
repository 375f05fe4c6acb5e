"""pronk.load on a trained model: the documented text, streamed, batched, scored; and what load refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pronk
from pronk.errors import BackendError, ChatFormatError, CheckpointError, RequestError
from pronk.text.messages import Message
from support.stories import documented_text, stories_folder


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


@pytest.mark.parametrize("options", [{"token_budget": 1, "max_sequences": 1}, {"token_budget": 16}, {"pages": 16}])
def test_the_text_depends_on_no_setting_of_the_engine(
    llama: pronk.Llama, stories_file: Path, options: dict[str, Any]
) -> None:
    prompts = ["Once upon a time, there was a big dog", "Lily", "Tom and Tim went to the park. They", "One day"]
    expected = llama.complete(prompts, temperature=0, max_tokens=120)
    with pronk.load(stories_file, **options) as other:
        found = other.complete(prompts, temperature=0, max_tokens=120)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    alone = [llama.complete(prompt, temperature=0, max_tokens=120).text for prompt in prompts]
    assert alone == [c.text for c in expected]


def test_threads_get_the_answers_that_they_would_get_alone(llama: pronk.Llama) -> None:
    prompts = [f"{name} saw a {thing}" for name in ("Tom", "Lily", "Ben") for thing in ("cat", "red ball")]
    alone = [llama.complete(prompt, seed=3, max_tokens=60).text for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(lambda prompt: llama.complete(prompt, seed=3, max_tokens=60).text, prompts)) == alone


def test_the_context_is_the_models_unless_asked_for_less(llama: pronk.Llama, stories_file: Path) -> None:
    assert llama.context == llama.config.context_length == 512
    with pronk.load(stories_file, context=40) as small:
        cut = small.complete("Once upon a time", temperature=0)
        assert cut.finish_reason == "context"
        assert cut.usage.prompt_tokens + cut.usage.completion_tokens == 40
    with pytest.raises(RequestError, match="context is 513 tokens, the model's is 512"):
        pronk.load(stories_file, context=513)


def test_score_and_perplexity_agree(llama: pronk.Llama, shared_data: Path) -> None:
    text = (shared_data / "text" / "tinystories_sample.txt").read_text(encoding="utf-8")[:2000]
    found = llama.perplexity(text, window=128)
    assert 2 < found.perplexity < 20
    scores = llama.score(text[:300])
    assert scores[0].logprob is None
    assert all(score.logprob is not None and score.logprob <= 0 for score in scores[1:])


def test_both_backends_say_the_same(llama: pronk.Llama, stories_file: Path) -> None:
    pytest.importorskip("torch")
    with pronk.load(stories_file, backend="torch", kv_type="f32") as other:
        prompt = "Once upon a time, there was a"
        found = other.complete(prompt, temperature=0, max_tokens=30)
        assert found.text == llama.complete(prompt, temperature=0, max_tokens=30).text


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
