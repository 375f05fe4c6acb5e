"""Our .pth shards and params.json as torch and Meta's own formulas see them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_path
from pronk.checkpoints.random import SHAPES, random_checkpoint
from pronk.checkpoints.write_meta import ffn_numbers, meta_ffn_dim, params
from pronk.config import RopeScaling
from pronk.errors import CheckpointError, TokenizerError
from support.conversions import assert_same_tokenizer, assert_same_weights, converted

torch = pytest.importorskip("torch", reason="torch is not installed")


def load(path: Path, shard: int = 0) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path / f"consolidated.{shard:02}.pth", weights_only=True, mmap=True)
    return state


def values(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1)


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
def test_torch_loads_one_shard(tmp_path: Path, type: str) -> None:
    source = random_checkpoint("tiny", type)
    convert(source, tmp_path / "meta", "meta")
    state = load(tmp_path / "meta")
    assert set(state) == set(source.tensors)
    for name, tensor in state.items():
        assert tuple(tensor.shape) == source.tensors[name].shape
        if tensor.ndim == 2:
            assert np.array_equal(values(tensor), source.tensors[name].load())
        assert tensor.dtype == {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[type]


@pytest.mark.parametrize("kind", ["llama3", "llama2"])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_are_cut_as_metas_layers_cut_them(tmp_path: Path, shards: int, kind: str, shared_data: Path) -> None:
    source = random_checkpoint("tiny", "F32")  # 8 heads, 4 key/value heads
    if kind == "llama2":
        sentencepiece = open_path(shared_data / "weights/stories260K/stories260K.bin")
        source = replace(source, load_tokenizer=sentencepiece.load_tokenizer)
    convert(source, tmp_path / "meta", "meta", shards=shards)
    states = [load(tmp_path / "meta", i) for i in range(shards)]
    columns = (".wo.", ".w2.", *(["tok_embeddings"] if kind == "llama2" else []))
    for name, tensor in source.tensors.items():
        parts = [state[name] for state in states]
        if tensor.shape == parts[0].shape:
            assert "norm" in name
            continue
        if ".wk." in name or ".wv." in name:
            repeats = max(1, shards // 4)
            assert all(torch.equal(parts[i], parts[i // repeats * repeats]) for i in range(shards))
            parts = parts[::repeats]
        whole = torch.cat(parts, dim=int(any(c in name for c in columns)))
        assert np.array_equal(whole.numpy(), tensor.array()), name


def test_storages_are_aligned_and_not_compressed(tmp_path: Path) -> None:
    convert(random_checkpoint("tiny", "BF16"), tmp_path / "meta", "meta")
    path = tmp_path / "meta/consolidated.00.pth"
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            name, extra = (int.from_bytes(data[entry.header_offset + at :][:2], "little") for at in (26, 28))
            assert (entry.header_offset + 30 + name + extra) % 64 == 0


def test_large_entries_get_wide_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pronk.checkpoints.write_torch._ZIP64_FROM", 1000)
    source = random_checkpoint("tiny", "F32")
    again = converted(source, tmp_path / "meta", "meta")
    assert_same_weights(source, again)
    assert load(tmp_path / "meta")["output.weight"].shape == (512, 256)


def test_tied_output_is_one_storage_where_it_is_cut_alike(tmp_path: Path) -> None:
    source = random_checkpoint("tiny-tied", "F32")
    convert(source, tmp_path / "meta", "meta", shards=2)
    state = load(tmp_path / "meta")
    assert state["output.weight"].data_ptr() == state["tok_embeddings.weight"].data_ptr()
    assert open_path(tmp_path / "meta").config.tied_output


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_tied_llama2_has_a_copy_cut_otherwise(tmp_path: Path, shards: int, shared_data: Path) -> None:
    source = open_path(shared_data / "weights/stories260K/stories260K.bin")
    again = converted(source, tmp_path / "meta", "meta", shards=shards)
    assert load(tmp_path / "meta")["output.weight"].shape == (512 // shards, 64)
    assert again.config == source.config
    assert_same_weights(source, again)
    assert_same_tokenizer(source, again)


def test_checklist_holds_the_md5_of_each_file(tmp_path: Path) -> None:
    convert(random_checkpoint("tiny", "F16"), tmp_path / "meta", "meta", shards=2)
    lines = dict(reversed(line.split()) for line in (tmp_path / "meta/checklist.chk").read_text().splitlines())
    assert set(lines) == {"consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"}
    for name, md5 in lines.items():
        assert hashlib.md5((tmp_path / "meta" / name).read_bytes()).hexdigest() == md5


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ("llama-2-7b", (256, None)), ("llama-2-13b", (256, None)), ("llama-2-70b", (4096, 1.3)),
        ("llama-3.1-70b", (4096, 1.3)), ("llama-3.1-405b", (4096, 1.2)), ("llama-3.2-1b", (256, 1.5)),
        ("llama-3.2-3b", (256, None)), ("llama-3-8b", (1024, 1.3)),
    ],
)  # fmt: skip
def test_ffn_numbers_of_metas_models(shape: str, numbers: tuple[int, float | None]) -> None:
    config = SHAPES[shape]
    assert ffn_numbers(config.dim, config.ffn_dim) == numbers


@given(dim=st.integers(2, 1 << 15), ffn_dim=st.integers(1, 1 << 17))
def test_any_ffn_width_is_reproduced(dim: int, ffn_dim: int) -> None:
    multiple_of, multiplier = ffn_numbers(dim, ffn_dim)
    assert meta_ffn_dim(dim, multiple_of, multiplier) == ffn_dim


@pytest.mark.parametrize("shape", list(SHAPES))
def test_params_of_metas_models_have_metas_keys_only(shape: str) -> None:
    known = {
        "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
        "rope_theta", "use_scaled_rope",
    }  # fmt: skip
    more = set(params(SHAPES[shape], 1)) - known
    assert more == ({"max_seq_len"} if shape.startswith("tiny") else set())


def test_more_shards_than_kv_heads_count_the_copies(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "F32")
    again = converted(source, tmp_path / "meta", "meta", shards=8)
    assert json.loads((tmp_path / "meta/params.json").read_text())["n_kv_heads"] == 8
    assert again.config == source.config
    assert_same_weights(source, again)


def tiny(**changes: object) -> Checkpoint:
    source = random_checkpoint("tiny")
    return replace(source, config=replace(source.config, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "shards", "words"),
    [
        (tiny(attention_bias=True), 1, "biases; choose --to hf or gguf"),
        (tiny(head_dim=48), 1, "a head width of 48, not dim / n_heads"),
        (tiny(rope_scaling=RopeScaling("linear", factor=2.0)), 1, "this rotary scaling"),
        (tiny(rope_scaling=RopeScaling("llama3", 8.0, 2.0, 4.0, 8192)), 1, "this rotary scaling"),
        (tiny(rope_scaling=SHAPES["llama-3.1-8b"].rope_scaling), 1, "special tokens other than llama3.1's"),
        (tiny(), 3, "8 heads on 3 shards and .* or other shards"),
        (tiny(n_kv_heads=8), 16, "8 heads on 16 shards"),
        (tiny(ffn_dim=770), 4, "a feed-forward width of 770 on 4 shards"),
    ],
)
def test_what_params_json_cannot_say_is_refused(tmp_path: Path, source: Checkpoint, shards: int, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"Meta's format cannot hold .*{words}"):
        convert(source, tmp_path / "meta", "meta", shards=shards)
    assert list(tmp_path.iterdir()) == []


def test_vocabulary_that_no_tokenizer_model_holds(tmp_path: Path) -> None:
    """A list of merges, where a tiktoken file has the order of the ids only."""
    from pronk.text.tokenizers import build_tokenizer

    vocabulary = random_checkpoint("tinyllama-1.1b").load_tokenizer().vocabulary
    assert vocabulary is not None
    merging = build_tokenizer(replace(vocabulary, merges=((104, 105),)))
    source = replace(tiny(vocab_size=32000), load_tokenizer=lambda: merging)
    with pytest.raises(TokenizerError, match="tiktoken"):
        convert(source, tmp_path / "meta", "meta")
    assert list(tmp_path.iterdir()) == []
