"""Guessed tokens through the whole of it, over real arithmetic: the same ids, texts and log probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pronk
from pronk.engine.grammar import Grammar
from pronk.engine.sampling import SamplingParams
from pronk.errors import RequestError

STORY = "Once upon a time there was a llama. The llama lived on a hill. Once upon a time there was a llama. The"
PROMPTS = [
    STORY,
    "One, two, three, four, five. One, two, three, four, five. One,",
    "从前有一只羊驼。从前有一只",
    "The llama said: I am a llama. " * 12,
    "The llama said: I am a llama. " * 12 + "And then",
]
GREEDY = SamplingParams(temperature=0, max_tokens=40, logprobs=1)
DRAWN = SamplingParams(temperature=0.8, top_p=0.95, seed=11, max_tokens=40, repetition_penalty=1.1, stop=("hill",))


def said(llama: pronk.Llama, params: SamplingParams, prompts: list[str]) -> list[tuple[Any, ...]]:
    results = llama.complete(prompts, params=params)
    return [
        (r.token_ids, r.text, r.logprobs, r.finish_reason, r.stopped_by, r.usage.completion_tokens) for r in results
    ]


@pytest.fixture(scope="module")
def plain() -> list[list[tuple[Any, ...]]]:
    """Each prompt alone: greedy, then drawn."""
    with pronk.load("cria") as llama:
        return [[said(llama, params, [prompt])[0] for prompt in PROMPTS] for params in (GREEDY, DRAWN)]


GUESSING: dict[str, dict[str, Any]] = {
    "lookup": {"lookup": True},
    "itself": {"draft": "cria"},
    "random weights": {"draft": "random:tiny"},
    "both": {"draft": "cria", "lookup": True, "draft_tokens": 5},
}


@pytest.mark.parametrize("guessing", GUESSING)
def test_guesses_change_nothing_alone_or_in_a_batch(guessing: str, plain: list[list[tuple[Any, ...]]]) -> None:
    with pronk.load("cria", **GUESSING[guessing]) as llama:
        for params, expected in zip((GREEDY, DRAWN), plain, strict=True):
            assert said(llama, params, PROMPTS) == expected
        timings = llama.complete(PROMPTS[3], params=replace(GREEDY, ignore_eos=True)).timings  # it says it once more
        assert timings.drafted_tokens >= timings.accepted_tokens
        assert (timings.accepted_tokens > 8) == (guessing != "random weights")


@pytest.mark.parametrize("limits", [{"token_budget": 24, "prefill_chunk": 8}, {"pages": 7, "context": 200}])
def test_guesses_change_nothing_in_small_chunks_and_few_pages(
    limits: dict[str, int], plain: list[list[tuple[Any, ...]]]
) -> None:
    with pronk.load("cria", draft="cria", lookup=True, **limits) as llama:
        for params, expected in zip((GREEDY, DRAWN), plain, strict=True):
            assert said(llama, params, PROMPTS) == expected
        stats = llama.serve().stats()
        assert stats.accepted_tokens > 50
        assert stats.pages_used == 0
        assert (stats.preemptions > 0) == ("pages" in limits)


def test_grammars_and_samplers_that_remember_see_no_guess() -> None:
    """Each row's choice goes by the answer up to there, which a wrong guess must not have touched."""
    schema = Grammar.json_schema({"type": "object", "properties": {"name": {"enum": ["llama", "lama"]}}})
    every = {"max_tokens": 24, "seed": 3}
    wishes = [
        SamplingParams(**every, grammar=schema),
        SamplingParams(**every, grammar=Grammar.regex("(llama ){2,5}(hill|lake)"), temperature=0),
        SamplingParams(**every, mirostat=2, mirostat_eta=0.5),
        SamplingParams(**every, dry_multiplier=2.0, presence_penalty=1.0, temperature=0),
        SamplingParams(**every, xtc_probability=0.5, xtc_threshold=0.05, dynatemp_range=0.4),
        SamplingParams(**every, bad_words=("llama",), min_tokens=20, temperature=0),
    ]
    with pronk.load("cria") as alone, pronk.load("cria", draft="cria", lookup=True) as helped:
        for params in wishes:
            assert said(helped, params, [STORY]) == said(alone, params, [STORY])
        assert helped.serve().stats().drafted_tokens > 60


def test_a_draft_of_another_vocabulary(plain: list[list[tuple[Any, ...]]], shared_data: Path) -> None:
    stories = shared_data / "weights" / "stories260K" / "stories260K.bin"
    with pronk.load("cria", draft=stories) as llama:
        for params, expected in zip((GREEDY, DRAWN), plain, strict=True):
            assert said(llama, params, PROMPTS) == expected
    with pronk.load(stories) as alone, pronk.load(stories, draft="cria") as helped:
        opening = "Once upon a time there was a little girl. She liked to"
        one, other = (llama.complete(opening, temperature=0, max_tokens=60) for llama in (alone, helped))
        assert one.token_ids == other.token_ids


def test_a_chat_is_the_same_and_its_pieces_hold_several_tokens() -> None:
    with pronk.load("cria") as alone, pronk.load("cria", draft="cria") as helped:
        question = "What is 12 + 30?"
        expected = alone.chat(question, temperature=0)
        stream = helped.chat(question, temperature=0, stream=True)
        pieces = list(stream)
        assert "".join(piece.text for piece in pieces) == expected.text == stream.result.text
        assert max(len(piece.token_ids) for piece in pieces) > 1
        assert (stream.result.usage, stream.result.stopped_by) == (expected.usage, expected.stopped_by)


def test_what_cannot_be_guessed_with_is_refused() -> None:
    with pytest.raises(RequestError, match="speculation's most is 0, expected at least 1"):
        pronk.load("cria", lookup=True, draft_tokens=0)
