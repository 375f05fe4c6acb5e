"""Hugging Face directories: sound ones by transformers and safetensors, lying ones by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.checkpoints import hf_config, safetensors_reader
from pronk.checkpoints.fields import Fields
from pronk.checkpoints.open import open_checkpoint
from pronk.config import ModelConfig, RopeScaling
from pronk.errors import CheckpointError, TokenizerError
from support.random_models import Shape, config_of, linear_scaling, llama3_scaling, meta_state, random_llama, write_hf

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = Shape(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=24, vocab_size=288)


def _edit(path: Path, **changes: Any) -> None:
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(random_llama(SMALL), tmp_path_factory.mktemp("hf") / "small")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    for file in small.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- sound directories ---


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        Shape(dim=16, n_layers=1, n_heads=4, n_kv_heads=1, ffn_dim=24, vocab_size=288, tied=True, head_dim=6),
        Shape(dim=16, n_layers=1, vocab_size=288, attention_bias=True, mlp_bias=True, scaling=linear_scaling(2.0)),
        Shape(dim=16, n_layers=1, vocab_size=288, theta=5e5, context=16384, scaling=llama3_scaling()),
    ],
    ids=["grouped", "tied, wide heads", "biases, linear rope", "llama3 rope"],
)
def test_a_model_of_transformers_opens_with_metas_rows(shape: Shape, tmp_path: Path) -> None:
    model = random_llama(shape)
    checkpoint = open_checkpoint(write_hf(model, tmp_path))
    assert (checkpoint.format, checkpoint.config) == ("hf", config_of(shape))
    expected = meta_state(model, shape)
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.mapped != (".wq." in name or ".wk." in name)
        np.testing.assert_array_equal(tensor.load().view(np.float32).reshape(tensor.shape), expected[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_its_bits(dtype: str, tmp_path: Path) -> None:
    model = random_llama(SMALL, dtype)
    tensor = open_checkpoint(write_hf(model, tmp_path)).tensors["layers.0.attention.wo.weight"]
    bits = model.state_dict()["model.layers.0.self_attn.o_proj.weight"].view(torch.uint8).numpy()
    np.testing.assert_array_equal(tensor.load(), bits.reshape(-1))
    assert tensor.type.name == {"float16": "F16", "bfloat16": "BF16"}[dtype]


def test_shards_open_from_the_directory_the_index_or_a_shard(tmp_path: Path) -> None:
    model = random_llama(SMALL)
    write_hf(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    expected = meta_state(model, SMALL)
    for path in (tmp_path, tmp_path / safetensors_reader.INDEX, shards[1], tmp_path / "config.json"):
        for name, tensor in open_checkpoint(path).tensors.items():
            np.testing.assert_array_equal(tensor.load().view(np.float32), expected[name].reshape(-1))
    alone = tmp_path / "alone.safetensors"  # not in the index: what was asked for is what opens
    alone.write_bytes(shards[0].read_bytes())
    with pytest.raises(CheckpointError, match="is missing, expected"):
        open_checkpoint(alone)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"{shards[1].name} of {len(shards)} shards is missing"):
        open_checkpoint(tmp_path)


def test_pytorch_bins_open_too(copy: Path) -> None:
    model = random_llama(SMALL)
    state = model.state_dict()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)  # as older transformers saved it
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    expected = meta_state(model, SMALL)
    for path in (copy, copy / "pytorch_model.bin"):
        for name, tensor in open_checkpoint(path).tensors.items():
            np.testing.assert_array_equal(tensor.load().view(np.float32), expected[name].reshape(-1))
    torch.save({k: v for k, v in state.items() if "norm" in k}, copy / "a.bin")
    torch.save({k: v for k, v in state.items() if "norm" not in k}, copy / "b.bin")
    places = {k: "a.bin" if "norm" in k else "b.bin" for k in state}
    (copy / "pytorch_model.bin").unlink()
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert len(open_checkpoint(copy).tensors) == len(expected)


def test_advice_and_stop_ids_come_from_generation_config(copy: Path) -> None:
    advice = {"temperature": 0.6, "top_p": 0.9, "top_k": 50, "eos_token_id": [2, 5, 7]}
    (copy / "generation_config.json").write_text(json.dumps(advice))
    checkpoint = open_checkpoint(copy)
    assert (checkpoint.defaults.temperature, checkpoint.defaults.top_p, checkpoint.defaults.top_k) == (0.6, 0.9, 50)
    assert checkpoint.load_tokenizer().stop_ids >= {2, 5, 7}
    (copy / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.6}))
    assert open_checkpoint(copy).defaults.temperature == 0.0
    (copy / "generation_config.json").unlink()
    _edit(copy / "config.json", eos_token_id=9)
    assert 9 in open_checkpoint(copy).load_tokenizer().stop_ids
    _edit(copy / "config.json", eos_token_id="nine")
    with pytest.raises(CheckpointError, match="eos_token_id is 'nine', expected an id"):
        open_checkpoint(copy)


def test_a_model_in_the_hubs_cache_has_its_repositorys_name(copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "models--llamas--Small-1B" / "snapshots" / "0a1b2c"
    path.mkdir(parents=True)
    for file in copy.iterdir():
        if file.is_file():
            (path / file.name).symlink_to(file)
    assert open_checkpoint(path).name == "llamas/Small-1B"
    assert open_checkpoint(copy).name == copy.name


def test_chat_templates_in_every_place(copy: Path) -> None:
    assert open_checkpoint(copy).chat_template is None
    _edit(copy / "tokenizer_config.json", chat_template="plain")
    assert open_checkpoint(copy).chat_template == "plain"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
    _edit(copy / "tokenizer_config.json", chat_template=named)
    assert open_checkpoint(copy).chat_template == "usual"
    (copy / "chat_template.jinja").write_text("from a file ✓", encoding="utf-8")
    assert open_checkpoint(copy).chat_template == "from a file ✓"
    (copy / "chat_template.jinja").unlink()
    _edit(copy / "tokenizer_config.json", chat_template=7)
    with pytest.raises(CheckpointError, match="chat_template is 7, expected a Jinja template"):
        open_checkpoint(copy)


def test_lm_head_beside_a_tied_config_is_ignored_as_transformers_does(copy: Path) -> None:
    _edit(copy / "config.json", tie_word_embeddings=True)
    checkpoint = open_checkpoint(copy)
    assert checkpoint.config.tied_output
    assert "output.weight" not in checkpoint.tensors


def test_a_tokenizer_that_is_missing_or_too_large(copy: Path, tmp_path: Path) -> None:
    made = json.loads((copy / "tokenizer.json").read_text())
    text = "<|extra|>"
    made["added_tokens"].append({**made["added_tokens"][0], "id": 288, "content": text})
    (copy / "tokenizer.json").write_text(json.dumps(made))
    checkpoint = open_checkpoint(copy)
    with pytest.raises(TokenizerError, match=r"289 tokens, and the model's embedding 288 rows"):
        checkpoint.load_tokenizer()
    (copy / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json and no tokenizer\.model"):
        open_checkpoint(copy).load_tokenizer()


# --- config.json ---

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 288,
}  # fmt: skip


def _parse(**changes: Any) -> ModelConfig:
    values = {**LLAMA, **changes}
    return hf_config.parse_config(Fields({k: v for k, v in values.items() if v != "gone"}, "config.json"))


def test_what_an_absent_key_means() -> None:
    """transformers' LlamaConfig defaults"""
    assert _parse() == ModelConfig(16, 2, 4, 4, 4, 24, 288, 2048, norm_eps=1e-6)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"num_key_value_heads": 2}, "n_kv_heads", 2),
        ({"head_dim": 6}, "head_dim", 6),
        ({"rope_theta": 5e5}, "rope_theta", 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": 5.0}, "rope_theta", 7.0),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling", RopeScaling("linear", 4.0)),
        ({"rope_scaling": {"rope_type": "default"}}, "rope_scaling", None),
        ({"rope_scaling": None}, "rope_scaling", None),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192}},
            "rope_scaling", RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        ),
        ({"max_position_embeddings": 131072}, "context_length", 131072),
        ({"hidden_act": "swish", "pretraining_tp": 2, "what_is_this": [1]}, "dim", 16),
        ({"architectures": "gone"}, "dim", 16),
    ],
)  # fmt: skip
def test_keys_that_matter_are_read(changes: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(_parse(**changes), field) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "architecture MistralForCausalLM"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"model_type": "qwen2"}, "model_type qwen2"),
        ({"architectures": "gone", "model_type": "gone"}, r"architecture \(none\)"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is an object of 1 values"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"sliding_window": 4096}, "sliding_window is 4096"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "has the type 'yarn', expected default, linear or llama3"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling has no factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "a rope scaling factor is -1"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "has no low_freq_factor"),
        ({"rope_scaling": [1]}, "rope_scaling is a list of 1 values, expected an object"),
        ({"hidden_size": "gone"}, "has no hidden_size"),
        ({"hidden_size": "16"}, "hidden_size is '16', expected a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 10**40}, "hidden_size is a huge number|dim is 1"),
        ({"num_attention_heads": 0}, "no multiple of 0 heads"),
        ({"num_attention_heads": 3}, "width 16 is no multiple of 3 heads"),
        ({"num_key_value_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf, expected a number"),
        ({"rms_norm_eps": -1}, "norm_eps is -1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected true or false"),
        ({"num_hidden_layers": 10**9}, "n_layers is 1000000000"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
    ],
)
def test_configs_of_other_models_and_nonsense_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        _parse(**changes)
    assert str(error.value).count("\n") == 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_KEYS = [
    *LLAMA, *hf_config._NEUTRAL, "num_key_value_heads", "head_dim", "rope_theta", "rope_scaling", "rope_parameters",
    "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=3))
def test_any_value_is_a_config_or_a_checkpoint_error(changes: dict[str, Any]) -> None:
    try:
        config = _parse(**changes)
    except CheckpointError:
        return
    assert all(0 < f < float("inf") for f in config.inverse_frequencies()) or config.head_dim > 64


# --- safetensors ---


def _st(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0", "truncated or no safetensors"),
        (_st({}, length=1 << 63), "its header would have"),
        (_st({}, length=100), "its header would have 100 bytes"),
        (_st(b"{]"), "is not JSON"),
        (_st(b"[" * 100_000), "is not JSON"),
        (_st(b"[]"), "holds a list"),
        (_st(b'{"a":{},"a":{}}'), "'a' is there twice"),
        (_st({"a": 5}), "'a' is no object"),
        (_st({"a": _entry("F99")}, bytes(8)), "type 'F99'"),
        (_st({"a": _entry(shape=[2.0])}, bytes(8)), "no shape of whole numbers"),
        (_st({"a": _entry(shape=[-2])}, bytes(8)), "no shape"),
        (_st({"a": _entry(shape=[True, 2])}, bytes(8)), "no shape"),
        (_st({"a": _entry(shape=[1] * 9)}, bytes(8)), "no shape"),
        (_st({"a": _entry(shape=[1 << 61, 1 << 61])}, bytes(8)), "F32"),
        (_st({"a": _entry(shape=[3])}, bytes(8)), "12 bytes, but has 8"),
        (_st({"a": _entry(offsets=[8, 0])}, bytes(8)), "no data_offsets"),
        (_st({"a": _entry(offsets=[0])}, bytes(8)), "no data_offsets"),
        (_st({"a": _entry()}, bytes(7)), "truncated"),
        (_st({"a": _entry()}, bytes(9)), "damaged"),
        (_st({"a": _entry(), "b": _entry()}, bytes(8)), "overlap"),
        (_st({"a": _entry(), "b": _entry(offsets=[12, 20])}, bytes(20)), "have a gap between them"),
        (_st({"a": _entry(offsets=[4, 12])}, bytes(12)), "have a gap between them"),
    ],
)
def test_lying_headers_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        safetensors_reader.read_file(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(error.value)


def test_types_that_are_not_used_are_refused_where_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(_st({"a": _entry("F64", [1]), "b": _entry("I64", [0], (8, 8))}, bytes(8)))
    entries = safetensors_reader.read_file(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="'a' is F64, expected one of F32, F16, BF16"):
        entries["a"].lazy("a")


def test_values_at_an_odd_address_are_copied_into_alignment(tmp_path: Path) -> None:
    values = np.arange(2, dtype=np.float32)
    text = json.dumps({"a": _entry()}).encode()
    for padding in range(4):
        path = tmp_path / f"{padding}.safetensors"
        path.write_bytes(_st(text + b" " * padding, values.tobytes()))
        loaded = safetensors_reader.read_file(path)["a"].lazy("a").load()
        assert loaded.ctypes.data % 4 == 0
        np.testing.assert_array_equal(loaded.view(np.float32), values)


def test_an_index_stays_in_its_directory(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "m.safetensors")
    index = copy / safetensors_reader.INDEX
    for name in ("../m.safetensors", "/etc/passwd", "", 5):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match="expected one beside it"):
            open_checkpoint(copy)
    index.write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"m\.safetensors has no a, which"):
        open_checkpoint(copy)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        open_checkpoint(copy)
    index.unlink()
    assert len(open_checkpoint(copy).tensors) == 21  # one file, whatever its name


def test_unknown_and_missing_tensors_are_named(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    save_file({**state, "model.layers.0.self_attn.q_norm.weight": torch.ones(4)}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.self_attn\.q_norm\.weight' is not part of a Llama"):
        open_checkpoint(copy)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.w3\.weight is missing, expected \(24, 16\)"):
        open_checkpoint(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json and no weights"):
        open_checkpoint(copy)
