"""Our GGUF files as the gguf package and llama.cpp see them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pronk.checkpoints import names
from pronk.checkpoints.checkpoint import Checkpoint, GenerationDefaults
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_path
from pronk.checkpoints.random import SHAPES, random_checkpoint
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import TokenizerError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from support.conversions import assert_same_tokenizer, assert_same_weights, converted

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")


def with_config(config: ModelConfig, **more: object) -> Checkpoint:
    """A checkpoint of any config with the vocabulary of `tiny`, weights all one."""

    def ones(name: str, shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(name, shape, types.F32, lambda: np.ones(shape, np.float32).reshape(-1).view(np.uint8))

    tensors = {name: ones(name, shape) for name, shape in config.tensor_shapes().items()}
    return replace(random_checkpoint("tiny"), config=config, tensors=tensors, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q8_0", "Q4_K_M"])
def test_gguf_package_reads_the_same_tensors(tmp_path: Path, type: str) -> None:
    source = random_checkpoint("tiny", type)
    convert(source, tmp_path / "m.gguf", "gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["GGUF.version"].contents() == 3
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert set(found) == {names.to_gguf(name) for name in source.tensors}
    for name, tensor in source.tensors.items():
        theirs = found[names.to_gguf(name)]
        assert theirs.tensor_type == tensor.type.id
        assert tuple(theirs.shape[::-1]) == tensor.shape
        assert np.array_equal(np.asarray(theirs.data).reshape(-1).view(np.uint8), tensor.load())
        assert theirs.data_offset % 32 == 0


def test_metadata(tmp_path: Path) -> None:
    source = replace(
        random_checkpoint("tiny", "Q4_K_M"), chat_template="{{ messages }}", defaults=GenerationDefaults(0.6, 0.9, None)
    )
    convert(source, tmp_path / "m.gguf", "gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    found = {key: field.contents() for key, field in fields.items() if not key.startswith(("GGUF.", "tokenizer.ggml."))}
    assert found == {
        "general.architecture": "llama", "general.type": "model", "general.name": "random-tiny",
        "general.alignment": 32, "general.file_type": 15, "general.quantization_version": 2,
        "general.sampling.temp": pytest.approx(0.6), "general.sampling.top_p": pytest.approx(0.9),
        "llama.context_length": 512, "llama.embedding_length": 256, "llama.block_count": 4,
        "llama.feed_forward_length": 768, "llama.attention.head_count": 8, "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5), "llama.rope.dimension_count": 32,
        "llama.rope.freq_base": 10000.0, "llama.vocab_size": 512, "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 256
    again = open_path(tmp_path / "m.gguf")
    assert (again.chat_template, again.name) == ("{{ messages }}", "random-tiny")
    assert again.defaults == source.defaults


CONFIG = ModelConfig(64, 2, 4, 2, 16, 96, 512, 256)


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, head_dim=24),
        replace(CONFIG, tied_output=True, norm_eps=1e-6, rope_theta=500000.0),
        replace(CONFIG, rope_scaling=RopeScaling("linear", factor=4.0)),
        replace(CONFIG, rope_theta=500000.0, rope_scaling=SHAPES["llama-3.1-8b"].rope_scaling),
        replace(CONFIG, rope_scaling=RopeScaling("factors", factors=(1.0, 1.5, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0))),
        replace(CONFIG, attention_bias=True, mlp_bias=True),
    ],
)
def test_every_number_comes_back(tmp_path: Path, config: ModelConfig) -> None:
    source = with_config(config)
    again = converted(source, tmp_path / "m.gguf", "gguf")
    assert again.config == config
    assert_same_weights(source, again)


def test_head_width_is_said_where_it_is_not_dim_over_heads(tmp_path: Path) -> None:
    convert(with_config(replace(CONFIG, head_dim=24)), tmp_path / "m.gguf", "gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["llama.attention.key_length"].contents() == fields["llama.attention.value_length"].contents() == 24


def test_rows_without_a_token_get_one(tmp_path: Path) -> None:
    """llama.cpp wants a token for every row of the embedding."""
    again = converted(with_config(replace(CONFIG, vocab_size=520)), tmp_path / "m.gguf", "gguf")
    assert again.load_tokenizer().vocab_size == 520
    assert again.load_tokenizer().encode("hello", bos=True) == [256, *b"hello"]


def test_stop_ids_beyond_eos_are_kept(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    vocabulary = source.load_tokenizer().vocabulary
    assert vocabulary is not None
    from pronk.text.tokenizers import build_tokenizer

    stops = build_tokenizer(replace(vocabulary, stop_ids=frozenset({256, 257, 265})))
    again = converted(replace(source, load_tokenizer=lambda: stops), tmp_path / "m.gguf", "gguf")
    assert again.load_tokenizer().stop_ids == {256, 257, 265}


def test_tokenizer_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    class Pipeline:
        vocabulary = None

    source = replace(random_checkpoint("tiny"), load_tokenizer=Pipeline)  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="a pipeline that GGUF cannot hold"):
        convert(source, tmp_path / "m.gguf", "gguf")
    assert list(tmp_path.iterdir()) == []


PEER = """
import json, sys
from llama_cpp import llama_cpp as lib
lib.llama_backend_init()
params = lib.llama_model_default_params()
params.use_extra_bufts = False
model = lib.llama_model_load_from_file(sys.argv[1].encode(), params)
vocabulary = lib.llama_model_get_vocab(model)
text = sys.argv[2].encode()
room = (lib.llama_token * 100)()
count = lib.llama_tokenize(vocabulary, text, len(text), room, 100, True, True)
print(json.dumps({
    "ids": list(room[:count]), "embd": lib.llama_model_n_embd(model), "layers": lib.llama_model_n_layer(model),
    "size": lib.llama_model_size(model), "tokens": lib.llama_vocab_n_tokens(vocabulary),
    "eog": [i for i in range(lib.llama_vocab_n_tokens(vocabulary)) if lib.llama_vocab_is_eog(vocabulary, i)],
}))
"""


@pytest.mark.parametrize(("shape", "type"), [("tiny", "Q4_K_M"), ("tiny-tied", "F16"), ("words", "F32")])
def test_llama_cpp_opens_it(tmp_path: Path, shape: str, type: str) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    source = _with_words() if shape == "words" else random_checkpoint(shape, type)
    convert(source, tmp_path / "m.gguf", "gguf")
    text = "hello bapize<|eot_id|> cozalu"
    command = [sys.executable, "-c", PEER, str(tmp_path / "m.gguf"), text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    peer = json.loads(done.stdout.splitlines()[-1])
    tokenizer = source.load_tokenizer()
    assert peer["ids"] == tokenizer.encode(text, bos=True, special=True)
    assert (peer["embd"], peer["layers"]) == (source.config.dim, source.config.n_layers)
    assert peer["tokens"] == source.config.vocab_size
    assert set(peer["eog"]) == tokenizer.stop_ids


def _with_words() -> Checkpoint:
    """A vocabulary with merges, and scaled rope: rope_freqs.weight."""
    scaling = SHAPES["llama-3.1-8b"].rope_scaling
    words = random_checkpoint("tinyllama-1.1b")
    return with_config(replace(CONFIG, vocab_size=32000, rope_scaling=scaling), load_tokenizer=words.load_tokenizer)


def test_sentencepiece_vocabulary(tmp_path: Path, shared_data: Path) -> None:
    source = open_path(shared_data / "weights/stories260K/stories260K.bin")
    again = converted(source, tmp_path / "m.gguf", "gguf")
    assert_same_weights(source, again)
    assert_same_tokenizer(source, again)
    assert again.load_tokenizer().stop_ids == source.load_tokenizer().stop_ids
