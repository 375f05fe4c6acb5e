"""Our Hugging Face directories as safetensors and transformers see them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.checkpoints.checkpoint import GenerationDefaults
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_path
from pronk.checkpoints.random import random_checkpoint
from pronk.config import RopeScaling
from pronk.errors import CheckpointError
from support import random_models
from support.conversions import assert_same_tokenizer, assert_same_weights, converted
from support.random_models import Shape, linear_scaling, llama3_scaling, random_llama

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SHAPES = [
    Shape(),
    Shape(tied=True, head_dim=24),
    Shape(n_kv_heads=8, attention_bias=True, mlp_bias=True),
    Shape(scaling=llama3_scaling(original=64), theta=500000.0),
    Shape(scaling=linear_scaling(4.0)),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["hf", "gguf"])
def test_transformers_computes_the_same_logits(tmp_path: Path, shape: Shape, way: str) -> None:
    """A model that transformers saved, through GGUF or not, and back: the same weights in the same order."""
    model = random_llama(shape)
    source = open_path(random_models.write_hf(model, tmp_path / "theirs"))
    if way == "gguf":
        source = converted(source, tmp_path / "m.gguf", "gguf")
    convert(source, tmp_path / "ours", "hf")
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    ids = torch.arange(1, 100)[None]
    with torch.no_grad():
        # rope_freqs holds float32 divisors, so a way through GGUF may differ in the last bits of an angle
        torch.testing.assert_close(
            ours(ids).logits, model(ids).logits, rtol=0 if way == "hf" else 1e-4, atol=0 if way == "hf" else 1e-4
        )
    assert ours.dtype == torch.float32


def logits_config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return config


def test_shards_and_index(tmp_path: Path) -> None:
    from safetensors import safe_open

    source = random_checkpoint("tiny", "BF16")
    convert(source, tmp_path / "hf", "hf", shard_bytes=2_000_000)
    index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert [p.name for p in shards] == [
        f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)
    ]
    assert len(shards) > 2
    found = {}
    for shard in shards:
        assert shard.stat().st_size < 2_010_000
        with safe_open(shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118 - it is no dict
                assert index["weight_map"][name] == shard.name
                found[name] = file.get_tensor(name)
    assert set(found) == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(t.numel() * 2 for t in found.values())
    table = found["model.embed_tokens.weight"].view(torch.uint8).numpy()
    assert np.array_equal(table.reshape(-1), source.tensors["tok_embeddings.weight"].load())
    assert_same_weights(source, open_path(tmp_path / "hf"), exact_types=False)


@pytest.mark.parametrize(("dtype", "name"), [("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16")])
def test_dtype(tmp_path: Path, dtype: str, name: str) -> None:
    source = random_checkpoint("tiny", "F32")
    convert(source, tmp_path / "hf", "hf", dtype=dtype)
    assert logits_config(tmp_path / "hf")["torch_dtype"] == name
    state = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto").state_dict()
    ours = torch.from_numpy(source.tensors["output.weight"].array().copy()).to(getattr(torch, name))
    assert torch.equal(state["lm_head.weight"], ours)


def test_quantized_weights_become_bf16(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "Q4_K_M")
    done = convert(source, tmp_path / "hf", "hf")
    assert done.dtype == "BF16"
    again = open_path(tmp_path / "hf").tensors["output.weight"].array()
    exact = torch.from_numpy(source.tensors["output.weight"].array().copy()).to(torch.bfloat16).float().numpy()
    assert np.array_equal(again, exact)


def test_config_says_everything(tmp_path: Path) -> None:
    source = random_checkpoint("llama-3.2-1b", "BF16")
    tiny = random_checkpoint("tiny-tied", "BF16")
    scaled = replace(tiny.config, rope_scaling=source.config.rope_scaling, context_length=131072)
    model = replace(tiny, config=scaled, defaults=GenerationDefaults(0.6, 0.9, None), chat_template="{{ bos_token }}")
    convert(model, tmp_path / "hf", "hf")
    config = logits_config(tmp_path / "hf")
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert config["eos_token_id"] == [257, 265]
    assert config["tie_word_embeddings"] is True
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (generation.temperature, generation.top_p, generation.do_sample) == (0.6, 0.9, True)
    again = open_path(tmp_path / "hf")
    assert again.config == scaled
    assert again.defaults == model.defaults
    assert again.chat_template == model.chat_template
    assert again.load_tokenizer().stop_ids == {257, 265}


def test_rotary_tables_are_refused(tmp_path: Path) -> None:
    tiny = random_checkpoint("tiny")
    scaling = RopeScaling("factors", factors=(1.0,) * 15 + (2.0,))
    source = replace(tiny, config=replace(tiny.config, rope_scaling=scaling))
    with pytest.raises(CheckpointError, match=r"a table that config\.json cannot say.* convert to gguf"):
        convert(source, tmp_path / "hf", "hf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", ["tiny", "tinyllama-1.1b"])
def test_auto_tokenizer_has_the_same_ids(tmp_path: Path, shape: str) -> None:
    source = replace(random_checkpoint("tiny"), load_tokenizer=random_checkpoint(shape).load_tokenizer)
    source = replace(source, config=replace(source.config, vocab_size=source.load_tokenizer().vocab_size))
    from pronk.checkpoints.write_hf import _tokenizer_files

    for name, data in _tokenizer_files(source).items():
        (tmp_path / name).write_bytes(data)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), source.load_tokenizer()
    for text in ("hello bapize, cozalu 12345 ü 🦙\n\n x", "a<|eot_id|>b"):
        assert theirs(text).input_ids == ours.encode(text, bos=True, special=True)
    assert theirs.bos_token_id == ours.bos_id


def test_sentencepiece_tokenizer(tmp_path: Path, shared_data: Path) -> None:
    source = open_path(shared_data / "weights/stories260K/stories260K.bin")
    again = converted(source, tmp_path / "hf", "hf")
    assert_same_weights(source, again)
    assert_same_tokenizer(source, again)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("Once upon a time, Lily 🦙 ran.", " a  b ", "x\n\ny"):
        assert theirs(text).input_ids == source.load_tokenizer().encode(text, bos=True)


def test_sentencepiece_that_removes_spaces(tmp_path: Path, shared_data: Path) -> None:
    """babyllama105: no byte pieces, and runs of spaces become one. Its unknown characters decode as nothing there."""
    source = open_path(shared_data / "weights/babyllama105/model5000.bin")
    again = converted(source, tmp_path / "hf", "hf")
    assert_same_weights(source, again)
    ours, theirs = source.load_tokenizer(), transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("hi  there 12", "  a   b  ", "x\n\ny Ü", "   ", ""):
        ids = ours.encode(text, bos=True)
        assert again.load_tokenizer().encode(text, bos=True) == ids
        assert theirs(text).input_ids == ids


def test_tokenizer_files_of_a_hugging_face_source_are_copied(tmp_path: Path) -> None:
    source = open_path(random_models.write_hf(random_llama(Shape()), tmp_path / "theirs"))
    convert(source, tmp_path / "ours", "hf")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
