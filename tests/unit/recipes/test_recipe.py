"""The recipe from end to end, on a plan of seconds: what is trained is what pronk runs, and a killed run goes on."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pronk
from pronk.text import tiktoken_file
from pronk.text.messages import Message, Tool, ToolCall
from pronk.text.tokenizers import build_tokenizer
from recipes.cria import __main__ as recipe
from recipes.cria import corpus as corpora
from recipes.cria import plan as plans
from recipes.cria import tokenizer, words
from recipes.cria.corpus import Conversation, Weight

torch = pytest.importorskip("torch")

from recipes.cria import curves, export, training  # noqa: E402
from recipes.cria.muon import orthogonal  # noqa: E402
from recipes.cria.network import Network  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer_file() -> bytes:
    return tokenizer.train(corpora.texts(plans.SMOKE), 768, words.chinese_characters())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a whole smoke run, its model in out.gguf."""
    work = tmp_path_factory.mktemp("cria")
    recipe.main(_arguments(work))
    return work


def _arguments(work: Path) -> list[str]:
    return ["--smoke", "--processes", "1", "--work", str(work), "--output", str(work / "out.gguf")]


def test_every_step_leaves_its_result(made: Path) -> None:
    log = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == {"pretrain", "finetune", "sharpen"}
    assert log[-1]["loss"] < log[0]["loss"]
    assert all(later["tokens"] > earlier["tokens"] for earlier, later in itertools.pairwise(log))
    assert "held_back_loss" in log[-1]
    assert (made / "curves.svg").read_text().startswith("<svg")
    with pronk.load(made / "out.gguf") as llama:
        assert llama.name == "cria"
        assert llama.chat_format.name == "llama3.1"
        assert llama.chat("Hello", max_tokens=4).usage.completion_tokens <= 4


def test_what_is_written_is_the_mean_of_the_last_two_stages(made: Path) -> None:
    before, last = (torch.load(made / f"{name}.pt", weights_only=True)["norm"] for name in ("finetune", "sharpen"))
    assert not torch.equal(before, last)
    with pronk.load(made / "cria-F32.gguf") as full:
        norm = full.checkpoint.tensors["norm.weight"].array()
    np.testing.assert_allclose(norm, ((before + last) / 2).numpy(), rtol=1e-6)


def test_shipped_file_is_q8_0_of_the_full_one(made: Path) -> None:
    with pronk.load(made / "cria-F32.gguf") as full, pronk.load(made / "cria.gguf") as small:
        for name, tensor in small.checkpoint.tensors.items():
            values, exact = tensor.array(), full.checkpoint.tensors[name].array()
            assert tensor.type.name == ("Q8_0" if values.ndim == 2 else "F32")
            np.testing.assert_allclose(values, exact, atol=np.abs(exact).max() / 127)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SAVE_SECONDS", 0.0)
    plain_step = training.Trainer._train_step
    steps = 0

    def killed(self: training.Trainer, *arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps in (5, 17):
            raise KeyboardInterrupt
        return plain_step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training.Trainer, "_train_step", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            recipe.main(_arguments(tmp_path))
    recipe.main(_arguments(tmp_path))
    assert (tmp_path / "cria-F32.gguf").read_bytes() == (made / "cria-F32.gguf").read_bytes()
    keys = ("stage", "step", "loss", "tokens")
    logs = [
        [[json.loads(line)[key] for key in keys] for line in (work / "log.jsonl").read_text().splitlines()]
        for work in (made, tmp_path)
    ]
    assert [entry[:2] for entry in logs[0]] == [entry[:2] for entry in logs[1]]
    assert logs[0][-1][3] == logs[1][-1][3]


def test_another_plan_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}\n")
    with pytest.raises(SystemExit, match="another plan"):
        recipe.main(_arguments(tmp_path))


def test_what_is_trained_is_what_pronk_runs(tokenizer_file: bytes, tmp_path: Path) -> None:
    """The recipe's own forward pass and pronk's agree on a network whose every weight matters."""
    torch.manual_seed(0)
    network = Network(plans.SMOKE.model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    export.write(network, tokenizer_file, tmp_path / "full.gguf", tmp_path / "small.gguf")
    ids = random.Random(1).choices(range(700), k=50)
    tokens = torch.tensor([ids])
    with torch.no_grad():
        expected = [
            -float(network(tokens, torch.tensor([place]), torch.tensor([following]), torch.ones(1)))
            for place, following in enumerate(ids[1:])
        ]
    with pronk.load(tmp_path / "full.gguf") as llama:
        scored = [entry.logprob for entry in llama.score(ids)[1:]]
    np.testing.assert_allclose(scored, expected, atol=2e-3)


def test_a_new_network_copies_what_followed_last_time() -> None:
    """Before any training: of runs of random tokens that come again, the token of last time is the likeliest by far."""
    torch.manual_seed(2)
    config = replace(plans.FULL.model, n_layers=2)
    network = Network(config)
    ids = random.Random(6).sample(range(3000), 60)
    tokens = torch.tensor([ids + ids])
    places = torch.arange(60, 119)  # their next ids have all been seen once
    with torch.no_grad():
        copied, other = (
            float(network(tokens, places, targets, torch.ones(59))) / 59
            for targets in (tokens[0, 61:], torch.randint(3000, 4000, (59,)))
        )
    assert copied < other - 1.5


def test_one_layer_is_too_few_to_copy() -> None:
    with pytest.raises(ValueError, match="1 layers cannot be wired to copy, expected at least 2"):
        Network(replace(plans.SMOKE.model, n_layers=1))


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 64, 256), (2, 256, 64)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 7))
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3


def test_rates_rise_and_fall() -> None:
    stage = replace(plans.FULL.stages[0], warmup=10, end=0.5)
    rates = [training.schedule(stage, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[:9] == sorted(rates[:9])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.505)


def test_every_batch_of_a_step_is_some_processs_share(monkeypatch: pytest.MonkeyPatch) -> None:
    step = [training.SmallBatch(tuple(range(count)), 1280 // count) for count in (1, 2, 3, 5, 8, 13, 40)]
    monkeypatch.setattr(training.together, "count", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(training.together, "rank", lambda rank=rank: rank)
        shares.append(training._share(step))
    assert sorted(batch.length for share in shares for batch in share) == sorted(batch.length for batch in step)
    costs = [sum(map(training._cost, share)) for share in shares]
    assert max(costs) < 2 * min(costs)


def test_batches_have_every_conversation_once(tokenizer_file: bytes) -> None:
    corpus = corpora.make(plans.SMOKE, plans.SMOKE.stages[0].corpus, "test", tokenizer_file)
    steps = training.batches(corpus, 2048, random.Random(3))
    assert sorted(member for step in steps for small in step for member in small.members) == list(range(len(corpus)))
    for step in steps:
        for small in step:
            lengths = [len(corpus.conversation(member).ids) for member in small.members]
            assert max(lengths) <= small.length < max(lengths) + 16


def test_corpus_is_the_same_for_a_seed(tokenizer_file: bytes) -> None:
    first, again = (corpora.make(plans.SMOKE, plans.SMOKE.stages[0].corpus, "x", tokenizer_file) for _ in range(2))
    other = corpora.make(plans.SMOKE, plans.SMOKE.stages[0].corpus, "y", tokenizer_file)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert first.ids.tolist() != other.ids.tolist()


def test_only_what_the_assistant_says_counts(tokenizer_file: bytes) -> None:
    chat = corpora.load_chat(tokenizer_file)
    tool = Tool("get_weather", "weather", {"type": "object", "properties": {"city": {"type": "string"}}})
    messages = (
        Message("system", "Be brief. assistant"),
        Message("user", "Weather in Rome?"),
        Message("assistant", tool_calls=(ToolCall("call", "get_weather", {"city": "Rome"}),)),
        Message("tool", '{"temperature": 21}', tool_call_id="call"),
        Message("assistant", "It is 21 degrees."),
    )
    weights = (Weight(9, 9, 9), Weight(7, 5, 3))
    encoded = corpora.encode(chat, Conversation(messages, (tool,), weights=weights), plain_loss=False)
    reader = build_tokenizer(tiktoken_file.read(tokenizer_file))
    special = {token: text for text, token in reader.special_ids.items()}
    said = "".join(
        special.get(token) or reader.decode([token])
        for token, weight in zip(encoded.ids.tolist(), encoded.weights.tolist(), strict=True)
        if weight
    )
    call = '{"type": "function", "name": "get_weather", "parameters": {"city": "Rome"}}'
    assert said == f"<|python_tag|>{call}<|eom_id|>It is 21 degrees.<|eot_id|>"
    assert not encoded.weights[0]
    answer = 1 + len(reader.encode("It is 21 degrees.", bos=False))
    assert encoded.weights[-answer:].tolist() == [7, 5, 5, *[3] * (answer - 3)]


def test_an_opening_ends_with_the_first_tokens_of_the_answer(tokenizer_file: bytes) -> None:
    chat = corpora.load_chat(tokenizer_file)
    messages = (
        Message("user", "Hi"), Message("assistant", "Hello."),
        Message("user", "What is RoPE?"), Message("assistant", "RoPE rotates each query and key."),
    )  # fmt: skip
    weights = (Weight(1, 1, 1), Weight(7, 5, 3))
    whole = corpora.encode(chat, Conversation(messages, weights=weights), plain_loss=False)
    cut = corpora.encode(chat, Conversation(messages, weights=weights, opening=True), plain_loss=False)
    assert cut.ids.tolist() == whole.ids[: len(cut.ids)].tolist()
    assert cut.weights[-5:].tolist() == [7, 5, 5, 3, 3]
    assert cut.weights[-6] == 0


def test_openings_are_questions_and_small_talk() -> None:
    plan = replace(plans.SMOKE.stages[-1].corpus, openings=1.0, prose=0.0, guard=0.0)
    made = [corpora.compose(random.Random(seed), plan) for seed in range(20)]
    assert all(conversation.opening and not conversation.tools for conversation in made)


def test_turns_and_their_weights_have_to_fit(tokenizer_file: bytes) -> None:
    messages = (Message("user", "Hi"), Message("assistant", "Hello."))
    with pytest.raises(ValueError, match="1 turns of the assistant were found, expected 2"):
        corpora.encode(
            corpora.load_chat(tokenizer_file), Conversation(messages, weights=(Weight(1, 1, 1),) * 2), plain_loss=True
        )


def test_what_counts_of_copies_has_come_before(tokenizer_file: bytes) -> None:
    encoded = corpora.copies(random.Random(4), corpora.load_tokenizer(tokenizer_file))
    ids, weights = encoded.ids.tolist(), encoded.weights.tolist()
    pairs = list(itertools.pairwise(ids))
    counted = [place for place, weight in enumerate(weights) if weight]
    assert len(counted) > 10
    assert all(pairs[place - 1] in pairs[: place - 1] for place in counted)


def test_tokens_join_no_digits_and_only_a_space_to_a_word(tokenizer_file: bytes) -> None:
    reader = build_tokenizer(tiktoken_file.read(tokenizer_file))
    pieces = [reader.decode([token]) for token in range(768)]
    assert not [piece for piece in pieces if sum(letter.isdigit() for letter in piece) > 1]
    words = [piece for piece in pieces if any(letter.isalpha() for letter in piece)]
    mixed = [piece for piece in words if not piece.lstrip(" '").isalpha() and "�" not in piece]
    assert mixed == []
    for text in ('{"city": "Zürich", "n": 47}', "小羊驼说：“你好！” 12+30=42"):
        assert reader.decode(reader.encode(text, bos=False)) == text


def test_a_name_is_the_same_tokens_in_any_company(tokenizer_file: bytes) -> None:
    reader = build_tokenizer(tiktoken_file.read(tokenizer_file))

    def cut(text: str) -> list[int]:
        return reader.encode(text, bos=False)

    rng = random.Random(5)
    for _ in range(50):
        name = words.name(rng, "zh", "held_out")
        assert cut(f"叫{name}的") == cut("叫") + cut(name) + cut("的")
        name = words.name(rng, "en", "held_out")
        spaced = cut(f"called {name}")[len(cut("called")) :]
        assert spaced in (cut(" ") + cut(name), cut(f" {name}"))
        assert len(spaced) == 1 or spaced[1:] == cut(name)


def test_curves_show_both_stages(tmp_path: Path) -> None:
    entries = [
        {"stage": stage, "step": 10, "steps": 10, "loss": 2.0, "tokens": tokens, "seconds": 1, "held_back_loss": 1.5}
        for stage, tokens in (("pretrain", 1e6), ("finetune", 2e6))
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    curves.draw(tmp_path / "log.jsonl", tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    assert "finetune" in picture
    assert picture.count("<polyline") == 2
