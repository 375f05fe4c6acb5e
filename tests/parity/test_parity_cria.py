"""The built-in model in other programs and in other formats: llama.cpp reads our file, transformers what we convert."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import pronk
from pronk.backends import make_backend
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.registry import builtin
from pronk.model.llama import load_model
from support.running import run

# Answers that are settled: where a story may go on in several ways, rounding decides.
QUESTIONS = ("Hello!", "What is RoPE?", "What is 12 + 30?", "What does temperature do?", "什么是困惑度？")
_LLAMA_CPP = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False, n_gpu_layers=0)
said = [
    model.create_chat_completion([{"role": "user", "content": question}], temperature=0, max_tokens=200)
    for question in json.loads(sys.argv[2])
]
print(json.dumps([answer["choices"][0]["message"]["content"] for answer in said]))
"""


@pytest.fixture(scope="module")
def cria() -> Iterator[pronk.Llama]:
    with pronk.load("cria") as llama:
        yield llama


@pytest.fixture(scope="module")
def answers(cria: pronk.Llama) -> list[str]:
    return [cria.chat(question, temperature=0, max_tokens=200).text for question in QUESTIONS]


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_says_the_same_with_the_files_own_template(answers: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LLAMA_CPP, str(builtin("cria")), json.dumps(QUESTIONS)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == answers


def test_converted_to_hf_it_says_the_same_in_transformers(
    cria: pronk.Llama, answers: list[str], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    convert(open_checkpoint("cria"), tmp_path / "cria-hf", "hf", dtype="f32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "cria-hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cria-hf", dtype=torch.float32)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        form = cria.chat_format
        assert prompt["input_ids"][0].tolist() == form.encode([pronk.Message("user", question)])
        made = model.generate(**prompt, do_sample=False, max_new_tokens=200, eos_token_id=sorted(form.stop_ids))
        assert tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True) == answer


@pytest.mark.parametrize("to", ["gguf", "hf", "meta"])
def test_converted_it_is_the_same_model(to: str, answers: list[str], tmp_path: Path) -> None:
    """Exact weights in another format: the same ids of the same tokenizer, and the same answers."""
    target = tmp_path / ("cria.gguf" if to == "gguf" else f"cria-{to}")
    convert(open_checkpoint("cria"), target, to, dtype="f32")  # type: ignore[arg-type]
    with pronk.load(target) as again, pronk.load("cria") as cria:
        for question, answer in zip(QUESTIONS, answers, strict=True):
            message = [pronk.Message("user", question)]
            assert again.chat_format.encode(message) == cria.chat_format.encode(message)
            assert again.chat(message, temperature=0, max_tokens=200).text == answer


def test_backends_agree_on_trained_logits(cria: pronk.Llama) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    checkpoint = open_checkpoint("cria")
    tokens = cria.chat_format.encode([pronk.Message("user", "Tell me a story about Momo and a blue boat.")])
    ours, theirs = (
        run(load_model(checkpoint.config, checkpoint.tensors, make_backend(name)), tokens) for name in ("cpu", "torch")
    )
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
