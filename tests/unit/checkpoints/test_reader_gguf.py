"""GGUF files: sound ones by the gguf package, lying ones by hand."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pronk.checkpoints import gguf_file
from pronk.checkpoints.gguf_reader import read_metadata, read_tokenizer
from pronk.checkpoints.open import open_checkpoint
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError, TokenizerError
from support.random_models import (
    Shape,
    config_of,
    linear_scaling,
    llama3_scaling,
    meta_state,
    random_llama,
    write_gguf,
)

SMALL = Shape(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=24, vocab_size=288)


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, value: Any) -> bytes:
    if isinstance(value, bytes):  # already a type and a value
        return _string(key) + value
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", 8) + _string(value)
    if isinstance(value, float):
        return _string(key) + struct.pack("<If", 6, value)
    if isinstance(value, bool):
        return _string(key) + struct.pack("<I?", 7, value)
    return _string(key) + struct.pack("<II", 4, value)


def _tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def _file(pairs: list[bytes], tensors: list[bytes], data: int = 0, version: int = 3, counts: Any = None) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    head = header + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + data)


LLAMA = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": 8,
    "llama.feed_forward_length": 8, "llama.attention.head_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
NAMES = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def _llama(tmp_path: Path, change: dict[str, Any] | None = None, extra: list[tuple[str, tuple[int, ...]]] = []) -> Path:  # noqa: B006
    """A file of zeros that is a Llama by its header, with some keys changed (None: left out) and tensors added."""
    keys = {k: v for k, v in {**LLAMA, **(change or {})}.items() if v is not None}
    shapes = [("token_embd.weight", (8, 4)), ("output_norm.weight", (8,))]
    shapes += [(f"blk.0.{n}.weight", (8,) if "norm" in n else (8, 8)) for n in NAMES] + list(extra)
    tensors, at = [], 0
    for name, dims in shapes:
        tensors.append(_tensor(name, dims, 0, at))
        at += -(-4 * math.prod(dims) // 32) * 32
    path = tmp_path / "llama.gguf"
    path.write_bytes(_file([_pair(k, v) for k, v in keys.items()], tensors, at))
    return path


# --- sound files ---


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        Shape(dim=16, n_layers=1, n_heads=4, n_kv_heads=4, ffn_dim=24, vocab_size=288, tied=True, theta=5e5),
        Shape(dim=16, n_layers=1, n_heads=4, n_kv_heads=1, ffn_dim=24, vocab_size=288, head_dim=6, eps=3e-6),
        Shape(dim=16, n_layers=1, n_heads=4, n_kv_heads=1, ffn_dim=24, vocab_size=288, scaling=linear_scaling(4.0)),
        Shape(dim=16, n_layers=1, vocab_size=288, attention_bias=True, mlp_bias=True),
        Shape(dim=128, n_layers=1, n_heads=2, vocab_size=288, theta=5e5, scaling=llama3_scaling(), context=16384),
        Shape(dim=128, n_layers=1, n_heads=2, vocab_size=288, theta=5e5, scaling=llama3_scaling(factor=32.0)),
    ],
    ids=["grouped", "tied", "narrow heads", "linear rope", "biases", "llama3 rope", "llama3 rope by 32"],
)
@pytest.mark.filterwarnings("ignore")  # transformers on a context below the scaling's
def test_a_file_of_the_gguf_package_opens_as_it_was_written(shape: Shape, tmp_path: Path) -> None:
    model = random_llama(shape)
    checkpoint = open_checkpoint(write_gguf(model, shape, tmp_path / "model.gguf"))
    assert checkpoint.config == config_of(shape)
    assert checkpoint.format == "gguf"
    assert checkpoint.name == "random"
    expected = meta_state(model, shape)
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.mapped
        assert not tensor.load().flags.writeable
        np.testing.assert_array_equal(tensor.load().view(np.float32).reshape(tensor.shape), expected[name])
    assert checkpoint.load_tokenizer().vocab_size == 288
    assert checkpoint.load_tokenizer() is checkpoint.load_tokenizer()


def test_quantized_blocks_are_the_files_own_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    for kind in ("Q4_0", "Q8_0", "Q5_1", "BF16", "F16"):
        blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        writer = gguf.GGUFWriter(tmp_path / kind, "llama")
        writer.add_tensor("w", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        tensor = gguf_file.read(tmp_path / kind).tensors["w"]
        assert tensor.shape == (4, 256)
        assert tensor.type.name == kind
        np.testing.assert_array_equal(tensor.load(), blocks.view(np.uint8).reshape(-1))


def test_metadata_are_what_the_gguf_package_reads(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    values = {
        "a.u8": 200, "a.i8": -7, "a.u16": 60000, "a.i16": -30000, "a.u32": 1 << 31, "a.i32": -5, "a.u64": 1 << 63,
        "a.i64": -(1 << 62), "a.f64": 1e300, "a.bool": True, "a.text": "日本 \n llama",
    }  # fmt: skip
    for key, value in values.items():
        kind = key[2:].replace("u", "UINT").replace("i", "INT").replace("f", "FLOAT")
        if key == "a.bool":
            writer.add_bool(key, True)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType[kind])
    writer.add_array("a.ints", [1, 2, 3])
    writer.add_array("a.texts", ["one", "", "drei ü"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read_metadata(tmp_path / "m.gguf")
    assert metadata["general.architecture"] == "llama"
    for key, value in values.items():
        assert metadata[key] == value
        assert type(metadata[key]) is type(value)
    assert metadata["a.ints"] == [1, 2, 3]
    assert metadata["a.texts"] == ["one", "", "drei ü"]
    assert set(metadata) >= {*values, "a.ints", "a.texts"}


def test_version_2_opens_as_version_3(tmp_path: Path) -> None:
    path = _llama(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + struct.pack("<I", 2) + data[8:])
    assert open_checkpoint(path).config.n_layers == 1


def test_one_value_a_layer_is_one_value_where_all_are_equal(tmp_path: Path) -> None:
    def array(*values: int) -> bytes:
        return struct.pack(f"<IIQ{len(values)}I", 9, 4, len(values), *values)

    assert open_checkpoint(_llama(tmp_path, {"llama.feed_forward_length": array(8, 8)})).config.ffn_dim == 8
    with pytest.raises(CheckpointError, match="feed_forward_length is a list of 2 values, expected a whole number"):
        open_checkpoint(_llama(tmp_path, {"llama.feed_forward_length": array(8, 16)}))


def test_sampling_advice_and_template(tmp_path: Path) -> None:
    path = _llama(tmp_path, {
        "general.sampling.temp": 0.6, "general.sampling.top_k": 40, "tokenizer.chat_template": "{{ x }}",
        "general.name": "Tiny",
    })  # fmt: skip
    checkpoint = open_checkpoint(path)
    assert (checkpoint.defaults.temperature, checkpoint.defaults.top_p, checkpoint.defaults.top_k) == (0.6, None, 40)
    assert (checkpoint.name, checkpoint.chat_template) == ("Tiny", "{{ x }}")


def test_real_vocabularies(shared_data: Path) -> None:
    metadata = read_metadata(shared_data / "vocab" / "ggml-vocab-llama-bpe.gguf")
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    assert isinstance(tokens, list)
    assert isinstance(merges, list)
    assert (len(tokens), tokens[:3], len(merges), merges[0]) == (128256, ["!", '"', "#"], 280147, "Ġ Ġ")
    tokenizer = read_tokenizer(shared_data / "vocab" / "ggml-vocab-llama-spm.gguf")
    assert tokenizer.vocab_size == 32000
    with pytest.raises(CheckpointError, match="holds a vocabulary and no weights"):
        open_checkpoint(shared_data / "vocab" / "ggml-vocab-llama-spm.gguf")


def test_an_eight_billion_file_opens_without_its_weights(tmp_path: Path) -> None:
    """A sparse file: reading its weights would take as long as reading gigabytes of zeros."""
    dim, ffn, kv, vocab, layers = 4096, 14336, 1024, 128256, 32
    shapes = [("token_embd.weight", (dim, vocab)), ("output.weight", (dim, vocab)), ("output_norm.weight", (dim,))]
    for i in range(layers):
        sizes = {"attn_q": (dim, dim), "attn_k": (dim, kv), "attn_v": (dim, kv), "attn_output": (dim, dim),
                 "ffn_gate": (dim, ffn), "ffn_up": (dim, ffn), "ffn_down": (ffn, dim)}  # fmt: skip
        shapes += [(f"blk.{i}.{n}.weight", (dim,)) for n in ("attn_norm", "ffn_norm")]
        shapes += [(f"blk.{i}.{n}.weight", size) for n, size in sizes.items()]
    keys = {**LLAMA, "llama.block_count": layers, "llama.embedding_length": dim, "llama.feed_forward_length": ffn,
            "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8}  # fmt: skip
    tensors, at = [], 0
    for name, dims in shapes:
        tensors.append(_tensor(name, dims, 0 if len(dims) == 1 else 12, at))
        at += 4 * dims[0] if len(dims) == 1 else dims[0] * dims[1] // 256 * 144
    path = tmp_path / "8b.gguf"
    with path.open("wb") as file:
        start = file.write(_file([_pair(k, v) for k, v in keys.items()], tensors))
        file.truncate(start + at)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config.parameter_count() == 8_030_261_248
    assert checkpoint.nbytes == at
    assert path.stat().st_blocks * 512 < 1 << 20


# --- split files ---


def _split(path: Path, shape: Shape) -> list[Path]:
    model = random_llama(shape)
    whole = write_gguf(model, shape, path.parent / "whole.gguf")
    reader = gguf.GGUFReader(whole)
    names = [f"{path.stem}-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for number, name in enumerate(names):
        writer = gguf.GGUFWriter(path.parent / name, "llama")
        if number == 0:
            for key in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
                writer.add_uint32(f"llama.{key}", int(reader.fields[f"llama.{key}"].contents()))
            writer.add_head_count(shape.n_heads)
            writer.add_head_count_kv(shape.n_kv_heads)
            writer.add_layer_norm_rms_eps(shape.eps)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number::3]:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    whole.unlink()
    return [path.parent / name for name in names]


def test_a_split_file_opens_from_any_part_and_from_its_directory(tmp_path: Path) -> None:
    parts = _split(tmp_path / "model.gguf", SMALL)
    expected = meta_state(random_llama(SMALL), SMALL)
    for path in (*parts, tmp_path):
        checkpoint = open_checkpoint(path)
        for name, array in expected.items():
            np.testing.assert_array_equal(checkpoint.tensors[name].load().view(np.float32), array.reshape(-1))


def test_missing_or_renamed_parts_are_named(tmp_path: Path) -> None:
    parts = _split(tmp_path / "model.gguf", SMALL)
    parts[1].rename(tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match=r"one of 3 parts, and model-00002-of-00003.gguf is missing"):
        open_checkpoint(parts[0])
    with pytest.raises(CheckpointError, match=r"expected a name such as model-00001-of-00003\.gguf"):
        open_checkpoint(tmp_path / "other.gguf")
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(CheckpointError, match="is not part 2 of 3"):
        open_checkpoint(parts[0])


# --- what is no plain Llama ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen2"}, "architecture 'qwen2', expected llama"),
        ({"general.architecture": None}, "no general.architecture"),
        ({"general.architecture": 5}, "general.architecture is 5, expected a string"),
        ({"general.type": "adapter"}, "holds a GGUF 'adapter', expected a model"),
        ({"llama.expert_count": 8}, "expert_count is 8"),
        ({"llama.attention.sliding_window": 4096}, "sliding_window is 4096"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"llama.rope.dimension_count": 2}, "rope.dimension_count is 2"),
        ({"llama.attention.value_length": 8}, "value_length is 8"),
        ({"llama.attention.key_length": 6}, r"(wq|dimension|value).*"),
        ({"llama.logit_scale": 0.5}, "logit_scale is 0.5"),
        ({"llama.attention.causal": False}, "causal is False"),
        ({"llama.what_is_this": 3}, "what_is_this is 3, which changes what the model computes"),
        ({"llama.block_count": None}, "has no block_count"),
        ({"llama.block_count": 2}, "layers.1.attention_norm.weight is missing"),
        ({"llama.block_count": 4_000_000_000}, "n_layers is 4000000000, expected 1 to"),
        ({"llama.attention.head_count": 3}, "width 8 is no multiple of 3 heads"),
        ({"llama.attention.head_count": 0}, "no multiple of 0 heads"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "norm_eps is 0.0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan, expected a number"),
        ({"llama.feed_forward_length": 16}, r"feed_forward.w1.weight is \(8, 8\), expected \(16, 8\)"),
    ],
)  # fmt: skip
def test_arithmetic_that_is_not_understood_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(_llama(tmp_path, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"llama.expert_count": 0},
        {"llama.logit_scale": 1.0},
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.factor": 1.0},
        {"llama.attention.causal": True},
    ],
)
def test_values_that_change_nothing_are_accepted(change: dict[str, Any], tmp_path: Path) -> None:
    assert open_checkpoint(_llama(tmp_path, change)).config.rope_scaling is None


def test_tensors_of_other_models_are_refused_and_known_tables_are_not(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'blk.0.attn_q_norm.weight' is not part of a Llama"):
        open_checkpoint(_llama(tmp_path, extra=[("blk.0.attn_q_norm.weight", (8,))]))
    with pytest.raises(CheckpointError, match=r"layers.7.attention.wq.weight is no tensor of this model"):
        open_checkpoint(_llama(tmp_path, extra=[("blk.7.attn_q.weight", (8, 8))]))
    checkpoint = open_checkpoint(_llama(tmp_path, extra=[("blk.0.attn_rot_embd", (2,))]))
    assert len(checkpoint.tensors) == 11


def test_factors_that_no_llama3_scaling_makes_stay_factors(tmp_path: Path) -> None:
    path = _llama(tmp_path, extra=[("rope_freqs.weight", (2,))])
    data = bytearray(path.read_bytes())
    data[-32:-24] = struct.pack("<2f", 1.0, 3.25)
    path.write_bytes(data)
    scaling = open_checkpoint(path).config.rope_scaling
    plain = ModelConfig(8, 1, 2, 2, 4, 8, 4, 64)
    wanted = RopeScaling("factors", factors=(1.0, 3.25))
    assert scaling is not None
    found = ModelConfig(8, 1, 2, 2, 4, 8, 4, 64, rope_scaling=scaling).inverse_frequencies()
    assert found == pytest.approx(ModelConfig(8, 1, 2, 2, 4, 8, 4, 64, rope_scaling=wanted).inverse_frequencies())
    assert found[0] == plain.inverse_frequencies()[0]
    data[-32:-24] = struct.pack("<2f", 1.0, -1.0)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a rope scaling factor is -1\.0"):
        open_checkpoint(path)


def test_a_vocabulary_larger_than_the_embedding_is_refused_with_both_numbers(tmp_path: Path) -> None:
    def array(kind: int, code: str, values: list[Any]) -> bytes:
        body = b"".join(map(_string, values)) if kind == 8 else struct.pack(f"<{len(values)}{code}", *values)
        return struct.pack("<IIQ", 9, kind, len(values)) + body

    tokens = ["<unk>", "<s>", "</s>", "a", "b"]
    path = _llama(tmp_path, {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": array(8, "", tokens),
        "tokenizer.ggml.scores": array(6, "f", [0.0] * 5), "tokenizer.ggml.token_type": array(5, "i", [2, 3, 3, 1, 1]),
    })  # fmt: skip
    with pytest.raises(TokenizerError, match=r"has 5 tokens, and the model's embedding 4 rows"):
        open_checkpoint(path).load_tokenizer()


# --- damaged and lying files ---

GOOD = [_pair("general.architecture", "llama")]
HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_file([], [], version=1), "GGUF version 1, expected 2 or 3"),
        (_file([], [], version=0x03000000), "big-endian"),
        (_file([], [], version=99), "GGUF version 99"),
        (_file([], [], counts=(HUGE, 0)), f"number of tensors is {HUGE}"),
        (_file([], [], counts=(0, HUGE)), f"number of metadata keys is {HUGE}"),
        (_file([struct.pack("<Q", HUGE) + b"a"], []), "metadata key 0 ends at byte"),
        (_file([_pair("a", 1), _pair("a", 2)], []), "'a' is there twice"),
        (_file([_pair("", 1)], []), "is empty"),
        (_file([_string(b"\xff\xfe") + struct.pack("<II", 4, 1)], []), "expected UTF-8"),
        (_file([_pair("a", struct.pack("<I", 99))], []), "'a' has value type 99"),
        (_file([_pair("a", struct.pack("<IB", 7, 2))], []), "expected 0 or 1 for a boolean"),
        (_file([_pair("a", struct.pack("<IQ", 8, HUGE))], []), "'a' ends at byte"),
        (_file([_pair("a", struct.pack("<IIQ", 9, 4, HUGE))], []), "length is"),
        (_file([_pair("a", struct.pack("<IIQ", 9, 8, HUGE))], []), "length is"),
        (_file([_pair("a", struct.pack("<IIQQ", 9, 8, 1, HUGE))], []), "has 1 strings and the file ends within"),
        (_file([_pair("a", struct.pack("<IIQ", 9, 9, 1))], []), "value type 9"),
        (_file([_pair("general.alignment", 0)], []), "general.alignment is 0, expected a power of two"),
        (_file([_pair("general.alignment", 48)], []), "general.alignment is 48"),
        (_file([_pair("general.alignment", "x")], []), "general.alignment is 'x'"),
        (_file(GOOD, [_tensor("a", (8,)), _tensor("a", (8,))], 64), "'a' is there twice"),
        (_file(GOOD, [_tensor("a", (8,)), _tensor("b", (8,))], 64), "'a' and 'b' overlap"),
        (_file(GOOD, [_tensor("a", (8,), offset=4)], 64), "begins at 4, expected a multiple of the alignment 32"),
        (_file(GOOD, [_tensor("a", (8,), offset=1 << 63)], 64), "is truncated"),
        (_file(GOOD, [_tensor("a", (8, 1 << 62))], 64), "is truncated"),
        (_file(GOOD, [_tensor("a", (HUGE, HUGE))], 64), "is truncated"),
        (_file(GOOD, [_tensor("a", (8, 0))], 64), "expected no zeros"),
        (_file(GOOD, [_tensor("a", (33,), kind=2)], 64), "rows of 33, expected a multiple of 32"),
        (_file(GOOD, [_tensor("a", (32,), kind=4)], 64), "GGUF type 4"),
        (_file(GOOD, [_tensor("a", ())], 64), "0 dimensions"),
        (_file(GOOD, [_tensor("a", (1,) * 5)], 64), "5 dimensions"),
        (_file(GOOD, [_string("a") + struct.pack("<I", 0xFFFFFFFF)], 64), "4294967295 dimensions"),
    ],
)  # fmt: skip
def test_lies_are_named_and_cost_nothing(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(path)
    assert "bad.gguf" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = _llama(tmp_path).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (*range(1, 900), *range(900, len(data), 97)):
        path.unlink(missing_ok=True)
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(path)
