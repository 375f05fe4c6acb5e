"""Adapters through pronk's Python face, on the built-in model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pronk
from pronk.checkpoints.open import open_checkpoint
from pronk.engine.request import Request
from pronk.engine.sampling import SamplingParams
from pronk.errors import CheckpointError, RequestError
from support.adapters import random_pairs, write_gguf_adapter, write_peft

PROMPTS = ("Once upon a time", "The llama", "2 + 3 =")
GREEDY = SamplingParams(temperature=0, max_tokens=12, logprobs=0)


@pytest.fixture(scope="module")
def poet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = random_pairs(open_checkpoint("cria").config, rank=8, seed=1, size=0.3)
    return write_peft(tmp_path_factory.mktemp("adapters") / "poet", pairs)


@pytest.fixture(scope="module")
def clerk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = open_checkpoint("cria").config
    pairs = random_pairs(config, rank=3, seed=2, size=0.5, targets=("q_proj", "v_proj", "lm_head"))
    return write_gguf_adapter(tmp_path_factory.mktemp("adapters") / "clerk.gguf", pairs, config)


@pytest.fixture(scope="module")
def llama(poet: Path, clerk: Path) -> Iterator[pronk.Llama]:
    with pronk.load("cria", lora=[poet, f"office={clerk}:0.75"]) as llama:
        yield llama


Answer = tuple[tuple[int, ...], list[float | None]]


def run(llama: pronk.Llama, asked: list[tuple[str, str | None]], cache: bool = False) -> list[Answer]:
    """Ids and log probabilities of (prompt, adapter) together."""
    ids = [tuple(llama.tokenizer.encode(prompt, bos=True)) for prompt, _ in asked]
    requests = [Request(i, GREEDY, adapter=adapter, cache=cache) for i, (_, adapter) in zip(ids, asked, strict=True)]
    return [(c.token_ids, [t.logprob for t in c.logprobs]) for c in llama.run(requests).results]


def said(llama: pronk.Llama, adapter: str | None) -> tuple[float | None, ...]:
    """What it says to the first prompt, by log probabilities: these tell answers of the same words apart."""
    answer = llama.complete(PROMPTS[0], params=GREEDY, adapter=adapter)
    return tuple(token.logprob for token in answer.logprobs)


def test_requests_get_together_what_they_get_alone(llama: pronk.Llama, poet: Path, clerk: Path) -> None:
    asked = [(prompt, adapter) for prompt in PROMPTS for adapter in (None, "poet", "office")]
    together = run(llama, asked)
    alone = [run(llama, [one])[0] for one in asked]
    assert together == alone
    for i in range(0, len(asked), 3):
        assert len({tuple(scores) for _, scores in together[i : i + 3]}) == 3, "each adapter changes something"
    with pronk.load("cria", lora=[poet, f"office={clerk}:0.75"], max_sequences=2) as pairwise:
        assert run(pairwise, asked, cache=True) == together
    with pronk.load("cria") as plain:
        expected = run(plain, [(prompt, None) for prompt in PROMPTS])
    assert together[::3] == expected, "rows without an adapter have the bits of a model without any"


def test_a_call_names_its_adapter(llama: pronk.Llama) -> None:
    assert llama.adapters == ("poet", "office")
    assert llama.adapter is None
    assert len({said(llama, name) for name in (None, "poet", "office")}) == 3
    asked = [{"role": "user", "content": "Hello"}]
    chats = [llama.chat(asked, params=GREEDY, adapter=name).text for name in ("", "poet")]
    assert chats[0] != chats[1]
    scores = [[t.logprob for t in llama.score(PROMPTS[0], adapter=name)][1:] for name in (None, "poet", "office")]
    assert scores[0] != scores[1] != scores[2]
    vectors = [llama.embed(PROMPTS[0], adapter=name) for name in (None, "poet")]
    assert not np.allclose(*vectors)
    text = "Once upon a time there was a llama. " * 8
    first, second = (llama.perplexity(text, 16, adapter=name).perplexity for name in (None, "poet"))
    assert first != second
    with pytest.raises(RequestError, match="no adapter 'nobody', expected one that is loaded: 'poet', 'office'"):
        llama.complete(PROMPTS[0], adapter="nobody")
    with pytest.raises(RequestError, match="no adapter 'nobody'"):
        llama.embed(PROMPTS[0], adapter="nobody")


def test_one_adapter_alone_is_used_where_a_call_names_none(poet: Path, llama: pronk.Llama) -> None:
    with pronk.load("cria", lora=poet) as one:
        assert one.adapter == "poet"
        answers = [said(one, name) for name in (None, "poet", "")]
    assert answers == [said(llama, "poet"), said(llama, "poet"), said(llama, None)]


def test_adapters_come_and_go_while_the_model_is_served(poet: Path, clerk: Path) -> None:
    with pronk.load("cria") as llama:
        before = said(llama, None)
        stream = llama.complete(PROMPTS[1], params=replace(GREEDY, ignore_eos=True), stream=True)
        next(iter(stream))
        assert llama.load_adapter(poet) == "poet"
        assert llama.load_adapter(clerk, "a clerk", scale=0.5) == "a clerk"
        with pytest.raises(RequestError, match="'poet' is loaded already"):
            llama.load_adapter(clerk, "poet")
        changed = said(llama, "poet")
        assert changed != before
        llama.unload_adapter("poet")
        assert llama.adapters == ("a clerk",)
        with pytest.raises(RequestError, match="no adapter 'poet', expected one that is loaded: 'a clerk'"):
            llama.complete(PROMPTS[0], adapter="poet")
        with pytest.raises(RequestError, match="no adapter 'poet'"):
            llama.unload_adapter("poet")
        llama.load_adapter(clerk, "poet")  # the name again, of another file: nothing of the old one may be found
        assert said(llama, "poet") not in (before, changed)
        assert said(llama, None) == before
        assert len(stream.result.token_ids) == GREEDY.max_tokens
    with pytest.raises(RequestError, match="closed"):
        llama.load_adapter(poet)


def test_an_adapter_of_another_model_is_refused_and_changes_nothing(llama: pronk.Llama, tmp_path: Path) -> None:
    other = replace(open_checkpoint("cria").config, dim=128)
    path = write_peft(tmp_path / "other", random_pairs(other))
    with pytest.raises(CheckpointError, match="load the adapter with the model that it was made for"):
        llama.load_adapter(path)
    assert llama.adapters == ("poet", "office")
