"""What a path holds is told by its content; llama2.c files; names in three dialects."""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pronk.checkpoints import names
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint, open_tokenizer
from pronk.config import ModelConfig
from pronk.errors import CheckpointError, PronkError, TokenizerError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from support.fuzz_files import attack, make_samples
from support.stories import STORIES, stories_folder, stories_state

# --- llama2.c ---


def test_stories_open_with_their_tokenizer(shared_data: Path) -> None:
    folder = stories_folder(shared_data)
    for path in (folder, folder / "stories260K.bin"):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.format, checkpoint.name, checkpoint.config) == ("llama2c", "stories260K", STORIES)
        for name, array in stories_state(shared_data).items():
            tensor = checkpoint.tensors[name]
            assert tensor.mapped
            np.testing.assert_array_equal(tensor.load().view(np.float32).reshape(tensor.shape), array)
        assert checkpoint.load_tokenizer().encode("Once upon a time", bos=True) == [1, 403, 407, 261, 378]


def test_a_sentencepiece_tokenizer_beside_a_llama2c_model(shared_data: Path) -> None:
    checkpoint = open_checkpoint(shared_data / "weights" / "babyllama105" / "model5000.bin")
    assert checkpoint.config.vocab_size == checkpoint.load_tokenizer().vocab_size == 105


def _small(untied: bool = False) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    config = ModelConfig(8, 2, 2, 1, 4, 12, 5, 16, tied_output=not untied)
    random = np.random.default_rng(0)
    return config, {n: random.standard_normal(s).astype(np.float32) for n, s in config.tensor_shapes().items()}


def _layers(state: dict[str, np.ndarray], *parts: str) -> list[np.ndarray]:
    return [state[f"layers.{i}.{part}.weight"] for part in parts for i in range(2)]


def _expect(path: Path, config: ModelConfig, state: dict[str, np.ndarray]) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    for name, array in state.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].load().view(np.float32), array.reshape(-1))


MATRICES = ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
FEED = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


@pytest.mark.parametrize("untied", [False, True])
def test_version_0_with_either_output(untied: bool, tmp_path: Path) -> None:
    config, state = _small(untied)
    arrays = [
        state["tok_embeddings.weight"], *_layers(state, "attention_norm", *MATRICES, "ffn_norm", *FEED),
        state["norm.weight"], np.zeros(2 * 16 * 2, np.float32),
    ] + ([state["output.weight"]] if untied else [])  # fmt: skip
    header = struct.pack("<7i", 8, 12, 2, 2, 1, -5 if untied else 5, 16)
    (tmp_path / "m.bin").write_bytes(header + b"".join(a.tobytes() for a in arrays))
    _expect(tmp_path / "m.bin", config, state)
    _expect(tmp_path, config, state)
    data = (tmp_path / "m.bin").read_bytes()
    for wrong in (data[:-1], data + b"\0", data[:28]):
        (tmp_path / "n.bin").write_bytes(wrong)
        with pytest.raises(CheckpointError, match=rf"has {len(wrong)} bytes, expected {len(data)} from its header"):
            open_checkpoint(tmp_path / "n.bin")
    shutil.copy(tmp_path / "m.bin", tmp_path / "n.bin")
    with pytest.raises(CheckpointError, match=r"holds 2 llama2\.c models \(m\.bin, n\.bin\); name one"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("untied", [False, True])
def test_version_1(untied: bool, tmp_path: Path) -> None:
    config, state = _small(untied)
    head = struct.pack("<Ii7iB", 0x616B3432, 1, 8, 12, 2, 2, 1, 5, 16, not untied)
    arrays = [
        *_layers(state, "attention_norm", "ffn_norm"), state["norm.weight"], state["tok_embeddings.weight"],
        *_layers(state, *MATRICES, *FEED),
    ] + ([state["output.weight"]] if untied else [])  # fmt: skip
    path = tmp_path / "m.bin"
    path.write_bytes(head.ljust(256, b"\0") + b"".join(a.tobytes() for a in arrays))
    _expect(path, config, state)
    path.unlink()
    path.write_bytes(struct.pack("<Ii7iB", 0x616B3432, 2, 8, 12, 2, 2, 1, 5, 16, 1).ljust(512, b"\0"))
    with pytest.raises(CheckpointError, match=r"llama2\.c version 2, expected 0 or 1"):
        open_checkpoint(path)


def test_tokenizers_beside_a_llama2c_model(shared_data: Path, tmp_path: Path) -> None:
    source = stories_folder(shared_data)
    shutil.copy(source / "stories260K.bin", tmp_path)
    with pytest.raises(TokenizerError, match="no tokenizer of 512 tokens lies beside"):
        open_checkpoint(tmp_path).load_tokenizer()
    shutil.copy(shared_data / "tokenizers" / "llama2" / "tokenizer.bin", tmp_path)
    with pytest.raises(TokenizerError, match="32000 tokens"):
        open_checkpoint(tmp_path).load_tokenizer()
    shutil.copy(source / "tok512.bin", tmp_path)
    assert open_checkpoint(tmp_path).load_tokenizer().vocab_size == 512
    shutil.copy(source / "tok512.bin", tmp_path / "other.bin")
    with pytest.raises(TokenizerError, match=r"other\.bin and tok512\.bin both fit the 512 tokens"):
        open_checkpoint(tmp_path).load_tokenizer()


# --- open_checkpoint ---


def test_names_do_not_decide(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(stories_folder(shared_data) / "stories260K.bin", tmp_path / "model.gguf")
    assert open_checkpoint(tmp_path / "model.gguf").format == "llama2c"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty|is no model"), (b"hello, I am no model", "is no model: it begins with b'hello, I'")],
)
def test_files_that_are_no_model(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "x.gguf")


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    for spec in (tmp_path / "nowhere", "x" * 5000, "a\0b"):
        for opens in (open_checkpoint, open_tokenizer):
            with pytest.raises(PronkError):
                opens(spec)
    with pytest.raises(CheckpointError, match="holds no model, expected"):
        open_checkpoint(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF models \(a\.gguf, b\.gguf\); name one of them"):
        open_checkpoint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(CheckpointError, match="is no file and no directory"):
        open_checkpoint(tmp_path / "pipe.gguf")
    with pytest.raises(CheckpointError, match="holds no model"):
        open_checkpoint(tmp_path)


def test_weights_without_their_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(CheckpointError, match=r"has weights and no config\.json"):
        open_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "consolidated.00.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"no params\.json"):
        open_checkpoint(tmp_path / "consolidated.00.pth")


def test_random_models_by_name() -> None:
    checkpoint: Checkpoint = open_checkpoint("random:tinyllama-1.1b:Q8_0")
    assert checkpoint.config.n_layers == 22
    with pytest.raises(CheckpointError, match="no random model"):
        open_checkpoint("random:")


def test_a_tokenizer_alone(shared_data: Path) -> None:
    spm = open_tokenizer(shared_data / "tokenizers" / "llama2" / "tokenizer.model")
    bpe = open_tokenizer(shared_data / "tokenizers" / "llama3" / "tokenizer.model")
    vocabulary = open_tokenizer(shared_data / "vocab" / "ggml-vocab-llama-bpe.gguf")
    assert (spm.vocab_size, bpe.vocab_size) == (32000, 128256)
    assert bpe.encode("llama 🦙", bos=True) == vocabulary.encode("llama 🦙", bos=True)
    assert open_tokenizer(stories_folder(shared_data)).vocab_size == 512


# --- names ---

NAMED = ModelConfig(12, 11, 3, 1, 6, 8, 9, 16, attention_bias=True, mlp_bias=True)


def test_names_go_there_and_back() -> None:
    for name in NAMED.tensor_shapes():
        assert names.from_hf(names.to_hf(name)) == name
        assert names.from_gguf(names.to_gguf(name)) == name
    assert names.to_hf("layers.10.feed_forward.w2.bias") == "model.layers.10.mlp.down_proj.bias"
    assert names.to_gguf("layers.10.attention_norm.weight") == "blk.10.attn_norm.weight"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "weight",
        "norm.bias",
        "blk.0.attn_q.scale",
        "model.layers.01.mlp.up_proj.weight",
        "model.layers.x.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.weight.weight",
    ],
)
def test_unknown_names_are_refused(name: str) -> None:
    for read in (names.from_hf, names.from_gguf):
        with pytest.raises(CheckpointError, match="is not part of a Llama"):
            read(name)


@pytest.mark.parametrize("type", [types.F32, types.F16, types.Q4_0])
def test_rows_are_moved_whole_whatever_their_type(type: types.TensorType) -> None:
    config = replace(NAMED, dim=32)
    for name in ("layers.0.attention.wq.weight", "layers.0.attention.wk.weight", "layers.0.attention.wv.weight"):
        shape = config.tensor_shapes()[name]
        data = np.random.default_rng(1).integers(0, 256, type.nbytes(shape), dtype=np.uint8)
        tensor = LazyTensor(name, shape, type, lambda data=data: data)  # type: ignore[misc]
        moved = names.meta_to_hf_rows(tensor, config)
        np.testing.assert_array_equal(names.hf_to_meta_rows(moved, config).load(), data)
        rows, hf = data.reshape(shape[0], -1), moved.load().reshape(shape[0], -1)
        if ".wv." in name:
            assert moved is tensor
        else:  # head 0: pairs (0, 1), (2, 3), (4, 5) become the halves 0, 2, 4 and 1, 3, 5
            np.testing.assert_array_equal(hf[:6], rows[[0, 2, 4, 1, 3, 5]])


# --- damage ---


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_pronk_errors_only(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    samples = make_samples(tmp_path / "sound")
    for sample in samples:
        sample.open(sample.directory)
    faults = [o for o in attack(samples, 420, 7, tmp_path) if o.error and not isinstance(o.error, PronkError)]
    assert not faults
