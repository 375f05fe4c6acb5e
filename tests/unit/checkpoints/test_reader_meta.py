"""Meta's directories, cut into any number of shards by torch, as Llama 2 and Llama 3 were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.checkpoints.open import open_checkpoint
from pronk.config import RopeScaling
from pronk.errors import CheckpointError, TokenizerError
from support.random_models import sentencepiece_model

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

PARAMS = {
    "dim": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 288, "multiple_of": 16, "norm_eps": 1e-5,
    "ffn_dim_multiplier": 1.3,
}  # fmt: skip
FFN = 112  # int(1.3 * int(8 * 32 / 3)) = 110, up to a multiple of 16
HEAD = 4
COLUMNS = ("wo", "w2")


def _state(kv_heads: int = 4, dtype: Any = torch.float32) -> dict[str, Any]:
    torch.manual_seed(0)
    dim, q, kv = 32, 32, kv_heads * HEAD
    shapes = {"tok_embeddings.weight": (288, dim), "norm.weight": (dim,), "output.weight": (288, dim)}
    for i in range(2):
        at = f"layers.{i}."
        for name, shape in {
            "attention.wq": (q, dim), "attention.wk": (kv, dim), "attention.wv": (kv, dim), "attention.wo": (dim, q),
            "feed_forward.w1": (FFN, dim), "feed_forward.w2": (dim, FFN), "feed_forward.w3": (FFN, dim),
            "attention_norm": (dim,), "ffn_norm": (dim,),
        }.items():  # fmt: skip
            shapes[f"{at}{name}.weight"] = shape
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def _write(
    directory: Path, state: dict[str, Any], shards: int, embeddings: int = 0, params: dict[str, Any] | None = None
) -> Path:
    """Cut as Meta's model parallel layers do; `embeddings` is the dimension that tok_embeddings is cut along."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "params.json").write_text(json.dumps(params or PARAMS))
    for shard in range(shards):
        part = {"rope.freqs": torch.ones(2)}
        for name, value in state.items():
            if value.ndim == 1:
                part[name] = value
                continue
            axis = embeddings if "tok_embeddings" in name else int(any(f".{c}." in name for c in COLUMNS))
            heads = value.shape[0] // HEAD
            if (".wk." in name or ".wv." in name) and heads < shards:
                kept = shard * heads // shards
                part[name] = value[kept * HEAD : (kept + 1) * HEAD].clone()
            else:
                part[name] = value.chunk(shards, axis)[shard].clone()
        torch.save(part, directory / f"consolidated.{shard:02}.pth")
    return directory


def _expect(directory: Path, state: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(directory)
    assert set(checkpoint.tensors) == set(state)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.shape == tuple(state[name].shape)
        np.testing.assert_array_equal(tensor.load(), state[name].contiguous().view(torch.uint8).numpy().reshape(-1))


@pytest.mark.parametrize("embeddings", [0, 1], ids=["Llama 3's cut", "Llama 2's cut"])
@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_number_of_shards_is_one_model(shards: int, embeddings: int, dtype: str, tmp_path: Path) -> None:
    state = _state(dtype=getattr(torch, dtype))
    _write(tmp_path, state, shards, embeddings)
    _expect(tmp_path, state)
    config = open_checkpoint(tmp_path / "consolidated.00.pth").config
    assert (config.ffn_dim, config.n_kv_heads, config.context_length) == (FFN, 4, 4096)
    assert all(t.mapped == (shards == 1) for t in open_checkpoint(tmp_path).tensors.values())


@pytest.mark.parametrize("said", [4, 8])
def test_repeated_key_value_heads_are_found_and_kept_once(said: int, tmp_path: Path) -> None:
    """Eight shards of four heads; params.json counts the heads, or the copies as that of Llama 3.1 405B does."""
    state = _state(kv_heads=4)
    _write(tmp_path, state, 8, params={**PARAMS, "n_kv_heads": said})
    assert open_checkpoint(tmp_path).config.n_kv_heads == 4
    _expect(tmp_path, state)


def test_heads_of_one_shard_each_that_differ_are_not_copies(tmp_path: Path) -> None:
    state = _state(kv_heads=8)
    _write(tmp_path, state, 8, params={**PARAMS, "n_kv_heads": 8})
    assert open_checkpoint(tmp_path).config.n_kv_heads == 8
    _expect(tmp_path, state)


@pytest.mark.parametrize("name", ["norm.weight", "layers.1.attention.wv.weight"])
def test_copies_that_differ_are_refused_when_loaded(name: str, tmp_path: Path) -> None:
    state = _state(kv_heads=4)
    _write(tmp_path, state, 8)
    part = torch.load(tmp_path / "consolidated.01.pth")
    part[name].view(-1)[-1] += 1
    torch.save(part, tmp_path / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=f"{name} in shard 1 differs from that in shard 0, expected a copy"):
        open_checkpoint(tmp_path).tensors[name].load()


def test_missing_shards_are_named(tmp_path: Path) -> None:
    _write(tmp_path, _state(), 4)
    (tmp_path / "consolidated.01.pth").rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"has consolidated\.00.*and not consolidated\.01\.pth; download"):
        open_checkpoint(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "consolidated.01.pth")
    (tmp_path / "consolidated.02.pth").unlink()
    (tmp_path / "consolidated.03.pth").unlink()
    with pytest.raises(
        CheckpointError, match=r"has 2 of 4 shards.*consolidated\.02\.pth, consolidated\.03\.pth missing"
    ):
        open_checkpoint(tmp_path)
    for file in tmp_path.glob("*.pth"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"params\.json and no consolidated\.00\.pth"):
        open_checkpoint(tmp_path)


def test_shards_of_different_models_are_refused(tmp_path: Path) -> None:
    state = _state()
    _write(tmp_path, state, 2)
    part = torch.load(tmp_path / "consolidated.01.pth")
    torch.save({k: v.half() for k, v in part.items()}, tmp_path / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match="different types in different shards"):
        open_checkpoint(tmp_path)
    del part["norm.weight"]
    torch.save(part, tmp_path / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=r"differ in 'norm\.weight'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("embeddings", [0, 1])
def test_a_tied_output_is_told_by_its_rows_and_decides_the_rope_factor(
    shards: int, embeddings: int, tmp_path: Path
) -> None:
    state, params = _state(), {**PARAMS, "use_scaled_rope": True, "rope_theta": 5e5}
    config = open_checkpoint(_write(tmp_path / "untied", state, shards, embeddings, params)).config
    assert (config.tied_output, config.context_length) == (False, 131072)
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    state["output.weight"] = state["tok_embeddings.weight"].clone()
    checkpoint = open_checkpoint(_write(tmp_path / "twice", state, shards, embeddings, params))
    del state["output.weight"]
    for found in (checkpoint, open_checkpoint(_write(tmp_path / "once", state, shards, embeddings, params))):
        assert found.config.tied_output
        assert found.config.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
        assert "output.weight" not in found.tensors


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({"norm_eps": 1e-6}, 2048), ({}, 4096), ({"rope_theta": 1e6}, 16384), ({"rope_theta": 5e5}, 8192),
        ({"max_seq_len": 77}, 77),
    ],
)  # fmt: skip
def test_the_context_that_params_do_not_say(changes: dict[str, Any], context: int, tmp_path: Path) -> None:
    assert open_checkpoint(_write(tmp_path, _state(), 1, params={**PARAMS, **changes})).config.context_length == context


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_args": {"scheme": "int4"}}, "quantization_args is an object of 1 values"),
        ({"lora_args": {"rank": 16}}, "lora_args"),
        ({"vision_chunk_size": 448}, "vision_chunk_size is 448"),
        ({"moe": {"num_experts": 8}}, "moe"),
        ({"n_heads": 5}, "width 32 is no multiple of 5 heads"),
        ({"n_heads": 0}, "no multiple of 0 heads"),
        ({"dim": "32"}, "dim is '32', expected a whole number"),
        ({"multiple_of": 0}, "multiple_of is 0"),
        ({"multiple_of": 256}, r"w1\.weight is \(112, 32\) in 1 shard, expected parts of \(256, 32\)"),
        ({"vocab_size": 300}, r"tok_embeddings\.weight is \(288, 32\) in 1 shard, expected parts of \(300, 32\)"),
        ({"n_layers": 3}, r"layers\.2\.attention_norm\.weight is missing"),
        ({"n_layers": 1}, r"'layers\.1\.\w+.*' is not part of a Llama with these params"),
        ({"n_layers": 10**9}, "n_layers is 1000000000"),
        ({"n_kv_heads": 3}, "n_heads 8 is not a multiple of n_kv_heads 3"),
        ({"n_kv_heads": 0}, "n_kv_heads is 0"),
    ],
)
def test_params_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _write(tmp_path, _state(), 1, params={**PARAMS, **changes})
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_a_text_model_may_say_that_it_has_no_vision(tmp_path: Path) -> None:
    params = {**PARAMS, "vision_chunk_size": -1, "lora_args": None, "vocab_size": -1}
    for shards, embeddings in ((1, 0), (2, 0), (2, 1)):
        path = _write(tmp_path / f"{shards}{embeddings}", _state(), shards, embeddings, params)
        assert open_checkpoint(path).config.vocab_size == 288


def test_the_tokenizer_lies_beside_the_weights_or_above(tmp_path: Path) -> None:
    path = _write(tmp_path / "model", _state(), 1)
    with pytest.raises(TokenizerError, match=r"no tokenizer\.model"):
        open_checkpoint(path).load_tokenizer()
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(288))
    assert open_checkpoint(path).load_tokenizer().vocab_size == 288
    (path / "tokenizer.model").write_bytes(sentencepiece_model(320))
    with pytest.raises(TokenizerError, match=r"320 tokens, and the model's embedding 288 rows"):
        open_checkpoint(path).load_tokenizer()


def test_llama_3_tokens_are_those_of_its_version(shared_data: Path, tmp_path: Path) -> None:
    """The files are equal; 3.0 has no python_tag, and does not scale its rope."""
    state = _state()
    for name in ("tok_embeddings.weight", "output.weight"):
        state[name] = torch.zeros(128256, 32)
        state[name][0] = len(name)
    ranks = (shared_data / "tokenizers" / "llama3" / "tokenizer.model").read_bytes()
    for scaled in (False, True):
        params = {**PARAMS, "vocab_size": 128256, "use_scaled_rope": scaled}
        path = _write(tmp_path / str(scaled), state, 1, params=params)
        (path / "tokenizer.model").write_bytes(ranks)
        assert ("<|python_tag|>" in open_checkpoint(path).load_tokenizer().special_ids) == scaled
