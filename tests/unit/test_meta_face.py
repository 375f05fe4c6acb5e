"""Meta's own scripts, run over pronk.meta: programs like their two examples, and the calls below them."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.convert import convert
from pronk.checkpoints.llama2c_reader import open_llama2c
from pronk.config import ModelConfig
from pronk.errors import ChatFormatError, CheckpointError, RequestError, TokenizerError
from pronk.meta import ChatFormat, Dialog, Llama, Tokenizer
from support.engine_fakes import tiny_llama3
from support.random_models import lazy_tensors
from support.stories import documented_text, stories_folder

CONFIG = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=256, vocab_size=512, context_length=8192,
    rope_theta=500000.0,
)  # fmt: skip
BOS, EOT, END = 256, 256 + 9, 256 + 1


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama 3 in two shards, with Llama 3's special tokens after a vocabulary of the 256 bytes."""
    rng = np.random.default_rng(1)
    state = {
        name: (rng.normal(size=shape) * (1.5 / np.sqrt(shape[-1]) if len(shape) == 2 else 1)).astype(np.float32)
        for name, shape in CONFIG.tensor_shapes().items()
    }
    made = Checkpoint(Path("made"), "random", CONFIG, lazy_tensors(state), lambda: tiny_llama3("llama3"))
    directory = tmp_path_factory.mktemp("meta") / "llama3"
    convert(made, directory, "meta", shards=2)
    return directory


@pytest.fixture(scope="module")
def generator(llama3: Path) -> Llama:
    return Llama.build(str(llama3), str(llama3 / "tokenizer.model"), max_seq_len=256, max_batch_size=4)


@pytest.fixture(scope="module", params=[1, 2, 4])
def stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    directory = tmp_path_factory.mktemp("meta") / f"stories{request.param}"
    convert(open_llama2c(stories_folder(shared_data) / "stories260K.bin"), directory, "meta", shards=request.param)
    return directory


def example_text_completion(arguments: list[str]) -> None:
    """What Meta's example_text_completion.py does: four prompts of a base model, continued and printed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt_dir", required=True)
    parser.add_argument("--tokenizer_path", required=True)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top_p", type=float, default=0.9)
    parser.add_argument("--max_seq_len", type=int, default=128)
    parser.add_argument("--max_gen_len", type=int, default=64)
    parser.add_argument("--max_batch_size", type=int, default=4)
    args = parser.parse_args(arguments)
    generator = Llama.build(
        ckpt_dir=args.ckpt_dir,
        tokenizer_path=args.tokenizer_path,
        max_seq_len=args.max_seq_len,
        max_batch_size=args.max_batch_size,
    )
    prompts: list[str] = ["Once upon a time", "The big dog", "Hello:\n\nI just ", "one => un\ntwo => deux\nthree =>"]
    results = generator.text_completion(
        prompts, max_gen_len=args.max_gen_len, temperature=args.temperature, top_p=args.top_p
    )
    for prompt, result in zip(prompts, results, strict=True):
        print(prompt)
        print(f"> {result['generation']}")
        print("\n====\n")


def example_chat_completion(arguments: list[str]) -> None:
    """What Meta's example_chat_completion.py does: several conversations, answered and printed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt_dir", required=True)
    parser.add_argument("--tokenizer_path", required=True)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top_p", type=float, default=0.9)
    parser.add_argument("--max_seq_len", type=int, default=512)
    parser.add_argument("--max_batch_size", type=int, default=4)
    parser.add_argument("--max_gen_len", type=int, default=None)
    args = parser.parse_args(arguments)
    generator = Llama.build(args.ckpt_dir, args.tokenizer_path, args.max_seq_len, args.max_batch_size)
    dialogs: list[Dialog] = [
        [{"role": "user", "content": "How are llamas sheared?"}],
        [
            {"role": "user", "content": "I am going to Cusco, what should I see?"},
            {"role": "assistant", "content": "1. The Plaza de Armas.\n2. Llamas."},
            {"role": "user", "content": "What is so great about #2?"},
        ],
        [{"role": "system", "content": "Answer in haiku"}, {"role": "user", "content": "What do llamas eat?"}],
    ]
    results = generator.chat_completion(
        dialogs, max_gen_len=args.max_gen_len, temperature=args.temperature, top_p=args.top_p
    )
    for dialog, result in zip(dialogs, results, strict=True):
        for message in dialog:
            print(f"{message['role'].capitalize()}: {message['content']}\n")
        print(f"> {result['generation']['role'].capitalize()}: {result['generation']['content']}")
        print("\n====\n")


def test_the_text_example_runs_on_any_number_of_shards(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--ckpt_dir", str(stories), "--tokenizer_path", str(stories / "tokenizer.model")]
    example_text_completion([*where, "--temperature", "0"])
    printed = capsys.readouterr().out
    assert printed.count("====") == 4
    assert "Once upon a time\n> , there was a little girl named Lily. She loved to play outside in the park." in printed


def test_the_chat_example_runs(llama3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--ckpt_dir", str(llama3), "--tokenizer_path", str(llama3 / "tokenizer.model")]
    example_chat_completion([*where, "--max_gen_len", "20"])
    printed = capsys.readouterr().out
    assert printed.count("> Assistant: ") == 3
    assert "System: Answer in haiku" in printed


def test_greedy_text_is_the_documented_one(stories: Path, shared_data: Path) -> None:
    generator = Llama.build(str(stories), str(stories / "tokenizer.model"), max_seq_len=257, max_batch_size=1)
    (result,) = generator.text_completion([""], temperature=0)
    assert result["generation"].strip() == documented_text(shared_data).strip()


def prompts(generator: Llama, *texts: str) -> list[list[int]]:
    return [generator.tokenizer.encode(text, bos=True, eos=False) for text in texts]


def test_a_generation_is_cut_at_both_lengths(generator: Llama) -> None:
    short, long = prompts(generator, "ab", "x" * 250)
    tokens, logprobs = generator.generate([short, long], max_gen_len=10, temperature=0)
    assert logprobs is None
    assert [len(t) for t in tokens] == [10, 256 - len(long)]
    full = prompts(generator, "y" * 255)
    assert generator.generate(full, max_gen_len=5)[0] == [[]]


def test_a_prompt_longer_than_max_seq_len_is_refused(generator: Llama) -> None:
    with pytest.raises(RequestError, match="the prompt has 301 tokens, the context holds 256"):
        generator.generate(prompts(generator, "z" * 300), max_gen_len=5)


def test_more_prompts_than_max_batch_size_take_turns(generator: Llama) -> None:
    texts = [f"prompt {i}" for i in range(9)]
    together, _ = generator.generate(prompts(generator, *texts), max_gen_len=12, temperature=0)
    alone = [generator.generate(prompts(generator, text), max_gen_len=12, temperature=0)[0][0] for text in texts]
    assert together == alone


def test_echo_and_log_probabilities_line_up(generator: Llama) -> None:
    (ids,) = prompts(generator, "hello")
    tokens, scores = generator.generate([ids], max_gen_len=8, temperature=0, logprobs=True, echo=True)
    plain, own = generator.generate([ids], max_gen_len=8, temperature=0, logprobs=True)
    assert tokens[0] == ids + plain[0]
    assert scores is not None
    assert own is not None
    assert len(scores[0]) == len(tokens[0])
    assert scores[0][0] == 0.0
    assert scores[0][len(ids) :] == own[0]
    expected = [score.logprob for score in generator.model.score(ids)]
    assert scores[0][1 : len(ids)] == expected[1:]
    (result,) = generator.text_completion(["hello"], temperature=0, max_gen_len=8, logprobs=True, echo=True)
    assert result["generation"].startswith("<|begin_of_text|>hello")
    assert result["tokens"][:3] == ["<|begin_of_text|>", "h", "e"]
    assert result["logprobs"] == scores[0]


def test_a_stop_token_in_the_prompt_does_not_cut_what_is_echoed(generator: Llama) -> None:
    ids = [BOS, *b"ab", EOT, *b"cd"]
    tokens, _ = generator.generate([ids], max_gen_len=4, temperature=0, echo=True)
    assert tokens[0][: len(ids)] == ids
    assert len(tokens[0]) == len(ids) + 4


def test_an_answer_ends_before_its_stop_token(generator: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    (ids,) = prompts(generator, "stop")
    (free,), _ = generator.generate([ids], max_gen_len=10, temperature=0)
    runner_model = generator.model._model_with(None)
    forward = type(runner_model).forward

    def stopping(self: Any, batch: Any, cache: Any) -> Any:
        logits = forward(self, batch, cache)
        logits[batch.context_lens == len(ids) + 3, END] = 1e4
        return logits

    monkeypatch.setattr(type(runner_model), "forward", stopping)
    tokens, scores = generator.generate([ids], max_gen_len=10, temperature=0, logprobs=True)
    assert tokens == [free[:3]]
    assert scores is not None
    assert len(scores[0]) == 3


def test_a_build_is_reproducible_and_its_prompts_differ(llama3: Path) -> None:
    def sample(seed: int) -> list[list[int]]:
        built = Llama.build(str(llama3), str(llama3 / "tokenizer.model"), 64, 2, model_parallel_size=2, seed=seed)
        return built.generate(prompts(built, "same", "same"), max_gen_len=12, temperature=1.0)[0]

    first = sample(1)
    assert first == sample(1)
    assert first != sample(5)
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ckpt_dir": "nowhere"}, CheckpointError, "checkpoint directory 'nowhere' does not exist"),
        ({"tokenizer_path": "nowhere.model"}, TokenizerError, "nowhere.model"),
        ({"max_seq_len": 100_000}, RequestError, "context is 100000 tokens"),
        ({"max_batch_size": 0}, RequestError, "max_sequences is 0"),
    ],
)
def test_what_cannot_be_built_is_named(
    llama3: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "ckpt_dir": str(llama3),
        "tokenizer_path": str(llama3 / "tokenizer.model"),
        "max_seq_len": 64,
        "max_batch_size": 1,
    }
    with pytest.raises(error, match=message):
        Llama.build(**{**arguments, **changes})


def test_a_tokenizer_of_another_model_is_refused(llama3: Path, shared_data: Path) -> None:
    other = shared_data / "tokenizers" / "llama2" / "tokenizer.model"
    with pytest.raises(TokenizerError, match="32000 tokens"):
        Llama.build(str(llama3), str(other), 64, 1)


def test_tokenizer_as_in_metas_own_tests(shared_data: Path) -> None:
    """The values of meta-llama/llama3 `llama/test_tokenizer.py`."""
    tokenizer = Tokenizer(str(shared_data / "tokenizers" / "llama3" / "tokenizer.model"))
    sentence = [2028, 374, 264, 1296, 11914, 13]
    assert tokenizer.special_tokens["<|begin_of_text|>"] == 128000
    assert tokenizer.encode("This is a test sentence.", bos=True, eos=True) == [128000, *sentence, 128001]
    assert tokenizer.decode([128000, *sentence, 128001]) == "<|begin_of_text|>This is a test sentence.<|end_of_text|>"
    form = ChatFormat(tokenizer)
    user = [128006, 882, 128007, 271, *sentence, 128009]
    assert form.encode_message({"role": "user", "content": "This is a test sentence."}) == user
    dialog: Dialog = [
        {"role": "system", "content": "This is a test sentence."},
        {"role": "user", "content": "This is a response."},
    ]
    assert form.encode_dialog_prompt(dialog) == [
        *(128000, 128006, 9125, 128007, 271, *sentence, 128009),
        *(128006, 882, 128007, 271, 2028, 374, 264, 2077, 13, 128009),
        *(128006, 78191, 128007, 271),
    ]
    assert (tokenizer.n_words, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (128256, 128000, 128001, -1)
    assert tokenizer.stop_tokens == {128001, 128009}


def test_special_tokens_in_a_text_are_text_unless_allowed(llama3: Path) -> None:
    tokenizer = Tokenizer(llama3 / "tokenizer.model")
    text = "a<|eot_id|>b<|end_of_text|>"

    def encode(**options: Any) -> list[int]:
        return tokenizer.encode(text, bos=False, eos=False, **options)

    assert not {EOT, END} & set(encode())
    assert encode(allowed_special="all") == [ord("a"), EOT, ord("b"), END]
    assert encode(allowed_special={"<|eot_id|>"}) == [ord("a"), EOT, ord("b"), *b"<|end_of_text|>"]
    with pytest.raises(TokenizerError, match="special token"):
        encode(disallowed_special="all")
    assert tokenizer.encode("", bos=True, eos=True) == [BOS, END]


def test_llama_2_conversations_use_its_format(shared_data: Path) -> None:
    form = ChatFormat(Tokenizer(shared_data / "tokenizers" / "llama2" / "tokenizer.model"))
    ids = form.encode_dialog_prompt([{"role": "user", "content": "Hi"}])
    assert form.tokenizer.decode(ids) == "[INST] Hi [/INST]"
    assert ids[0] == form.tokenizer.bos_id
    with pytest.raises(ChatFormatError):
        form.encode_dialog_prompt([{"role": "assistant", "content": "Hi"}])


def test_the_context_of_metas_face_is_max_seq_len(llama3: Path) -> None:
    built = Llama.build(str(llama3), str(llama3 / "tokenizer.model"), 64, 2)
    assert built.model.context == 64
    (result,) = built.text_completion(["0123456789"], temperature=0)
    assert len(result["generation"]) > 0
    assert replace(built.model.engine_config, context=64) == built.model.engine_config
