"""A second model that guesses: kept in step with the requests, in few pages and short contexts, and in another
vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.checkpoints.open import open_checkpoint
from pronk.engine.config import EngineConfig, Speculation
from pronk.engine.draft import Draft
from pronk.engine.engine import Engine
from pronk.engine.request import Output, Request
from pronk.engine.retokenize import Retokenizer
from pronk.engine.sampling import SamplingParams
from pronk.engine.speculation import Wish
from pronk.errors import RequestError
from pronk.text.tokenizer import Tokenizer
from support.engine_fakes import SMALL, ByteTokenizer, FakeCache, FakeModel, hashed, one_hot, tiny_llama3

BLOCK = 4


def draft(model: FakeModel, **changes: Any) -> Draft:
    config = EngineConfig(
        **{"context": 200, "pages": 100, "token_budget": 64, "max_sequences": 4, "block": BLOCK, **changes}
    )
    tokenizer = ByteTokenizer()
    return Draft(model, FakeCache(config.pages, BLOCK), config, tokenizer, tokenizer, SMALL.vocab_size)


def engine(guesser: Draft | None = None, **changes: Any) -> Engine:
    values = {"context": 200, "pages": 100, "max_sequences": 8, "token_budget": 64, "block": BLOCK} | changes
    if guesser:
        values["speculation"] = Speculation("draft", rows=64)
    config = EngineConfig(**values)
    return Engine(FakeModel(hashed), FakeCache(config.pages, BLOCK), ByteTokenizer(), config, draft=guesser)


def ask(prompt: str, **params: Any) -> Request:
    return Request(tuple(prompt.encode()), SamplingParams(**{"temperature": 0, "ignore_eos": True, **params}))


def answers(engine: Engine, *requests: Request) -> list[list[int]]:
    fresh = [Request(request.prompt, request.params) for request in requests]
    ids: dict[str, list[int]] = {request.id: [] for request in fresh}
    for request in fresh:
        engine.add(request)
    while engine.busy:
        for output in engine.step():
            ids[output.request_id] += output.ids
    assert engine.scheduler.pool.free == engine.config.pages
    return list(ids.values())


REQUESTS = [
    ask("first", max_tokens=40),
    ask("second prompt, rather longer than the first", max_tokens=35, temperature=0.9, seed=7),
    ask("third", max_tokens=30, temperature=1.3, top_p=0.8, top_k=20),
    ask("4", max_tokens=50, min_p=0.1, temperature=1.0, seed=1),
]


def test_a_draft_that_is_the_model_itself_is_always_right_sampled_too() -> None:
    chosen = engine(draft(FakeModel(hashed)), max_sequences=2)
    seeded = [REQUESTS[i] for i in (0, 1, 3)]
    assert answers(chosen, *seeded) == answers(engine(), *seeded)
    stats = chosen.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 80
    answers(chosen, REQUESTS[2])  # draws with a seed that nobody gave
    assert chosen.stats().accepted_tokens == chosen.stats().drafted_tokens > stats.drafted_tokens


@pytest.mark.parametrize(
    "changes",
    [{}, {"pages": 12, "context": 48}, {"token_budget": 8}, {"context": 20, "pages": 40}, {"context": 8, "pages": 2}],
)
def test_a_draft_that_is_half_right_is_kept_in_step(changes: dict[str, int]) -> None:
    """With few pages, prompts that take several steps to read, a context shorter than the text."""

    def logits(ids: Sequence[int]) -> Any:
        return one_hot(3) if sum(ids) % 4 == 0 else hashed(ids)

    guesser = draft(FakeModel(logits), **changes)
    chosen = engine(guesser)
    seeded = [REQUESTS[i] for i in (0, 1, 3)]
    assert answers(chosen, *seeded) == answers(engine(), *seeded)
    stats = chosen.stats()
    whole = changes.get("context", 200) > 100
    assert stats.drafted_tokens > 0
    assert (stats.accepted_tokens > 20) or not whole  # what it sees is not all of the text, and this one hashes all
    pool = guesser._runner._pool
    assert (pool.free, guesser._runner._sequences) == (pool.count, {})


def test_the_draft_reads_what_it_missed_and_no_token_twice() -> None:
    """A right guess is not read again, but for the last token: its logits are wanted."""
    model = FakeModel(hashed)
    guesser = draft(model, token_budget=16)
    ids = list(b"a prompt of more than one step")
    wish = Wish("a", ids, 4, SamplingParams(temperature=0), 0)
    assert guesser.propose([wish]) == [[]]  # 16 of its 30 tokens were read
    (found,) = guesser.propose([wish])
    assert len(found) == 4
    assert [len(batch.tokens) for batch in model.batches] == [16, 14, 1, 1, 1]
    ids += [*found[:2], 0]
    assert len(guesser.propose([wish])[0]) == 4
    assert [len(batch.tokens) for batch in model.batches[5:]] == [1, 1, 1, 1]


def test_an_interrupt_in_the_drafts_step_leaves_all_in_order() -> None:
    model = FakeModel(hashed)
    chosen = engine(draft(model))
    request = ask("some prompt", max_tokens=20)
    (expected,) = answers(engine(), request)
    chosen.add(request)
    found: list[Output] = []
    forward, calls = model.forward, 0

    def interrupted(batch: Any, cache: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 5, 6):
            raise KeyboardInterrupt
        return forward(batch, cache)

    model.forward = interrupted  # type: ignore[method-assign]
    while chosen.busy:
        try:
            found += chosen.step()
        except KeyboardInterrupt:
            continue
    assert [token for output in found for token in output.ids] == expected
    assert chosen.scheduler.pool.free == chosen.config.pages


def test_vocabularies_are_compared_token_by_token() -> None:
    def same(draft: Tokenizer | None, target: Tokenizer | None, size: int = 512) -> bool:
        config = EngineConfig(context=8, pages=2, block=BLOCK)
        return Draft(FakeModel(hashed), FakeCache(2, BLOCK), config, draft, target, size).same_vocabulary

    assert same(ByteTokenizer(), ByteTokenizer())
    assert same(tiny_llama3(), tiny_llama3())
    assert not same(ByteTokenizer(), tiny_llama3())
    assert not same(tiny_llama3("llama3"), tiny_llama3("llama3.1"))
    assert same(None, ByteTokenizer(), SMALL.vocab_size)
    with pytest.raises(RequestError, match="the draft has 257 tokens, the model 512, and the model came without"):
        same(ByteTokenizer(), None)


# --- another vocabulary ---


@pytest.fixture(scope="module")
def cria() -> Tokenizer:
    return open_checkpoint("cria").load_tokenizer()


WORDS = st.text("ab é🦙\n,T", max_size=60) | st.sampled_from(["Once upon a time", " there was a llama", " 1234 5"])


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(WORDS, min_size=1, max_size=40), data=st.data())
def test_a_text_is_handed_over_whole_however_it_arrives(cria: Tokenizer, parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    target, other = data.draw(st.permutations([ByteTokenizer(), cria]))
    ids = target.encode(text, bos=False)
    reader = Retokenizer(target, other)
    for end in sorted(data.draw(st.sets(st.integers(0, len(ids)), max_size=8))):
        reader.read(ids[:end])
    found = reader.read(ids)
    assert other.decode(found) == text
    assert other.bos_id is None or found[0] == other.bos_id


def test_half_a_character_waits() -> None:
    reader = Retokenizer(ByteTokenizer(), ByteTokenizer())
    data = list("aé".encode())
    assert reader.read(data[:2]) == []
    assert reader.read(data) == data


def test_control_tokens_of_one_name_are_kept_and_others_left_out(cria: Tokenizer) -> None:
    other = tiny_llama3()
    ids = cria.encode(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", bos=False, special=True
    )
    names = {token: name for name, token in other.special_ids.items()}
    found = Retokenizer(cria, other).read(ids)
    assert "".join(names.get(i) or other.decode([i]) for i in found) == cria.token_text(ids[0]) + (
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    )
    assert Retokenizer(other, ByteTokenizer()).read(found) == list(b"user\n\nHi")


@pytest.mark.parametrize("before", ["", "Once upon a time", "it was \n", "lla"])
@pytest.mark.parametrize("said", [" there was a llama who", "ma who liked", "\n\nThe", "1234", ", é🦙 and"])
def test_what_a_draft_says_becomes_the_models_tokens_without_the_last(cria: Tokenizer, before: str, said: str) -> None:
    reader = Retokenizer(cria, ByteTokenizer())
    reader.read(cria.encode(before, bos=False))
    guess = reader.guess(list(said.encode()))
    assert guess
    assert said.startswith(cria.decode(guess))
    ids, whole = cria.encode(before, bos=False), cria.encode(before + said, bos=False)
    if whole[: len(ids)] == ids:
        assert guess == whole[len(ids) : -1]


def test_a_draft_of_another_vocabulary_guesses_and_changes_nothing(cria: Tokenizer) -> None:
    """The draft knows the whole text, by its letters; the model says it in its own tokens."""
    story = "Once upon a time there was a llama who lived on a hill. The llama liked to sing, and sang: la la la!"
    script = cria.encode(story, bos=False)
    size = cria.vocab_size
    config = SMALL.__class__(**{**vars(SMALL), "vocab_size": size})
    model = FakeModel(lambda ids: one_hot(script[len(ids)] if len(ids) < len(script) else 0, size), config)
    letters = FakeModel(lambda ids: one_hot(story.encode()[len(ids)] if len(ids) < len(story) else 0))
    own = EngineConfig(context=200, pages=60, block=BLOCK)
    guesser = Draft(letters, FakeCache(60, BLOCK), own, ByteTokenizer(), cria, size)
    assert not guesser.same_vocabulary
    chosen = EngineConfig(context=100, pages=30, block=BLOCK, speculation=Speculation("draft"))
    target = Engine(model, FakeCache(30, BLOCK), cria, chosen, draft=guesser)
    (ids,) = answers(target, Request(tuple(script[:4]), SamplingParams(temperature=0, max_tokens=len(script) - 4)))
    assert ids == script[4:]
    stats = target.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 10
