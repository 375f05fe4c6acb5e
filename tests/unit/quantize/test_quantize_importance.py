"""Importance matrices: collected as they are defined, both file forms there and back, merging, damaged files."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.checkpoints.random import random_checkpoint
from pronk.errors import CheckpointError, RequestError
from pronk.quantize import importance, texts
from pronk.quantize.collect import collect
from pronk.quantize.importance import Entry, ImportanceMatrix
from pronk.tensors.lazy import LazyTensor


def made(seed: int = 0, chunks: int = 3) -> ImportanceMatrix:
    dice = np.random.default_rng(seed)
    names = {"blk.0.attn_q.weight": 256, "blk.3.ffn_down.weight": 768}
    entries = {
        name: Entry(dice.random(width).astype(np.float32).astype(np.float64), 96.0) for name, width in names.items()
    }
    return ImportanceMatrix(entries, ("a text", "文"), chunks, 32)


def test_where_no_text_was_read_the_norm_before_a_matrix_tells_its_columns_apart() -> None:
    source = random_checkpoint("tiny")
    gains = np.linspace(-2, 3, 256, dtype=np.float32)
    name = "layers.1.ffn_norm.weight"
    norm = replace(source.tensors[name], load=lambda: gains.view(np.uint8))
    changed = replace(source, tensors={**source.tensors, name: norm})
    up = importance.column_weights(changed, "layers.1.feed_forward.w3.weight", made())
    assert up is not None
    np.testing.assert_allclose(up, gains**2 + (gains**2).mean() / 4, rtol=1e-6)
    known = importance.column_weights(changed, "layers.3.feed_forward.w2.weight", made())
    np.testing.assert_array_equal(known, made().weights("layers.3.feed_forward.w2.weight"))
    for other in ("layers.1.feed_forward.w2.weight", "layers.1.attention.wo.weight", "tok_embeddings.weight"):
        assert importance.column_weights(changed, other, made()) is None


def test_gguf_there_and_back(tmp_path: Path) -> None:
    path, matrix = tmp_path / "m.gguf", made()
    importance.write(matrix, path)
    again = importance.read(path)
    assert (again.datasets, again.chunks, again.chunk_size) == (matrix.datasets, 3, 32)
    assert again.entries.keys() == matrix.entries.keys()
    for name, entry in matrix.entries.items():
        assert np.array_equal(again.entries[name].sums, entry.sums)
        assert again.entries[name].count == 96


def test_the_gguf_package_reads_ours(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path, matrix = tmp_path / "m.gguf", made()
    importance.write(matrix, path)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["a text", "文"]
    assert reader.fields["imatrix.chunk_count"].contents() == 3
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert sorted(found) == sorted(name + end for name in matrix.entries for end in (".in_sum2", ".counts"))
    assert np.array_equal(found["blk.0.attn_q.weight.in_sum2"], matrix.entries["blk.0.attn_q.weight"].sums)


def test_the_older_form_keeps_the_means(tmp_path: Path) -> None:
    path, matrix = tmp_path / "m.dat", made()
    importance.write(matrix, path, binary=True)
    again = importance.read(path)
    assert again.chunks == 3
    for name in ("layers.0.attention.wq.weight", "layers.3.feed_forward.w2.weight"):
        np.testing.assert_allclose(again.weights(name), matrix.weights(name), rtol=1e-6)


def test_the_oldest_files_end_after_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    name = b"blk.0.attn_q.weight"
    values = np.arange(4, dtype="<f4")
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 2, 4) + values.tobytes())
    matrix = importance.read(path)
    assert np.array_equal(matrix.weights("layers.0.attention.wq.weight"), values / 2)
    assert matrix.weights("layers.1.attention.wq.weight") is None


def test_merging_is_as_if_read_in_one_go() -> None:
    a, b = made(1), made(2, chunks=5)
    both = importance.merge([a, b])
    name = "blk.0.attn_q.weight"
    assert np.array_equal(both.entries[name].sums, a.entries[name].sums + b.entries[name].sums)
    assert (both.entries[name].count, both.chunks, both.datasets) == (192, 8, ("a text", "文"))
    other = ImportanceMatrix({name: Entry(np.ones(8), 1.0)})
    with pytest.raises(CheckpointError, match="256 columns in one importance matrix and 8 in another"):
        importance.merge([a, other])


@pytest.mark.parametrize("ending", ["gguf", "dat"])
def test_damaged_files_are_answered_in_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m.{ending}"
    importance.write(made(), path, binary=ending == "dat")
    whole = path.read_bytes()
    dice = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole[: dice.integers(1, len(whole))] if dice.random() < 0.3 else whole)
        for _ in range(dice.integers(0, 4)):
            data[dice.integers(0, min(len(data), 400))] = dice.integers(0, 256)
        path.write_bytes(data)
        message = ""
        try:
            importance.read(path)
        except CheckpointError as error:
            message = str(error)
        assert "\n" not in message


def test_one_of_another_model_is_refused() -> None:
    config = random_checkpoint("tiny").config
    made().check(config, "m.gguf")
    with pytest.raises(CheckpointError, match=r"m\.gguf has 'blk\.3\.ffn_down\.weight', which this model has not"):
        made().check(replace(config, n_layers=2), "m.gguf")
    with pytest.raises(CheckpointError, match=r"768 columns for blk\.3\.ffn_down\.weight, expected 1024"):
        made().check(replace(config, ffn_dim=1024), "m.gguf")
    with pytest.raises(CheckpointError, match="says nothing of any matrix"):
        ImportanceMatrix({}).check(config, "m.gguf")


class Spy:
    """The cpu backend, which keeps all that goes into a linear."""

    def __init__(self) -> None:
        self._ops = make_backend("cpu")
        self.inputs: dict[str, list[np.ndarray]] = {}
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def weight(self, tensor: LazyTensor, bias: LazyTensor | None = None) -> Any:
        handle = self._ops.weight(tensor, bias)
        self._names[id(handle)] = tensor.name
        return handle

    def linear(self, x: np.ndarray, *weights: Any, batch: Any) -> Any:
        for weight in weights:
            self.inputs.setdefault(self._names[id(weight)], []).append(x.astype(np.float64))
        return self._ops.linear(x, *weights, batch=batch)


@pytest.mark.parametrize("shape", ["tiny", "tiny-tied"])
@pytest.mark.parametrize("output", [False, True])
def test_collecting_is_the_mean_square_of_the_inputs(shape: str, output: bool) -> None:
    source, spy = random_checkpoint(shape, "F32"), Spy()
    windows = texts.windows(source, "ba be bi bo bu " * 40, 32, 3)
    matrix = collect(source, spy, windows, output=output, dataset="x")  # type: ignore[arg-type]
    assert (matrix.chunks, matrix.chunk_size, matrix.datasets) == (3, 32, ("x",))
    matrix.check(source.config, "it")
    table = "tok_embeddings.weight" if source.config.tied_output else "output.weight"
    matrices = {f"layers.{i}.{p}.weight" for i in range(4) for p in
                ("attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2",
                 "feed_forward.w3")} | ({table} if output else set())  # fmt: skip
    for name in source.tensors:
        weights = matrix.weights(name)
        assert (weights is not None) == (name in matrices), name
        if weights is not None:
            inputs = np.concatenate(spy.inputs[name])
            np.testing.assert_allclose(weights, np.square(inputs).mean(0), rtol=1e-5)


def test_both_backends_collect_the_same() -> None:
    pytest.importorskip("torch")
    source = random_checkpoint("tiny", "F32")
    windows = texts.windows(source, "ba be bi bo bu " * 40, 32, 2)
    ours, theirs = (collect(source, make_backend(name), windows, kv_type="f32") for name in ("cpu", "torch"))
    for name, entry in ours.entries.items():
        np.testing.assert_allclose(entry.sums, theirs.entries[name].sums, rtol=0.05)
        assert entry.count == theirs.entries[name].count


def test_the_built_in_text_is_of_both_languages() -> None:
    text = texts.built_in()
    assert "llama" in text
    assert "羊驼" in text
    with pytest.raises(RequestError, match="expected at least 32: one window"):
        texts.windows(random_checkpoint("tiny"), "ba", 32)
