"""Adapters' files: how one is named, and what is refused by name. What a sound one computes: test_model_lora.py."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.checkpoints.lora_reader import LoraSpec, open_lora, parse_spec
from pronk.config import ModelConfig
from pronk.errors import CheckpointError, PronkError
from support.adapters import Pairs, peft_tensors, random_pairs, write_gguf_adapter, write_peft

CONFIG = ModelConfig(
    dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=4, ffn_dim=24, vocab_size=32, context_length=64
)
PAIRS = random_pairs(CONFIG, rank=2, targets=("q_proj", "v_proj"))
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


# --- names ---


def test_a_spec_is_a_path_with_a_name_before_and_a_scale_behind(tmp_path: Path) -> None:
    odd = tmp_path / "poet=v2:0.5"
    odd.mkdir()
    assert parse_spec(str(odd)) == LoraSpec(odd, "poet=v2:0.5")
    assert parse_spec(odd) == LoraSpec(odd, "poet=v2:0.5")
    assert parse_spec("some/poet") == LoraSpec(Path("some/poet"), "poet")
    assert parse_spec("some/poet/:0.25") == LoraSpec(Path("some/poet"), "poet", 0.25)
    assert parse_spec("a=some/poet.gguf:-2") == LoraSpec(Path("some/poet.gguf"), "a", -2.0)
    assert parse_spec("poet-1.5.gguf") == LoraSpec(Path("poet-1.5.gguf"), "poet-1.5")
    assert parse_spec("some/a=b/poet:latest") == LoraSpec(Path("some/a=b/poet:latest"), "poet:latest")
    assert parse_spec("some/poet/adapter_model.safetensors").name == "poet"


@pytest.mark.parametrize("spec", ["", "name=", ":0.5", "name=:1"])
def test_a_spec_without_a_path_is_refused(spec: str) -> None:
    with pytest.raises(CheckpointError, match=r"names no adapter, expected \[NAME=\]PATH\[:SCALE\]"):
        parse_spec(spec)


def test_a_directory_opens_by_any_of_its_files_and_reads_no_matrix(tmp_path: Path) -> None:
    directory = write_peft(tmp_path / "poet", PAIRS)
    whole = open_lora(directory, CONFIG)
    assert set(whole.weights) == set(PAIRS)
    assert {weight.scale for weight in whole.weights.values()} == {2.0}
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        again = open_lora(directory / file, CONFIG, scale=0.5)
        assert (again.path, {weight.scale for weight in again.weights.values()}) == (directory, {1.0})
    value = whole.weights["layers.0.attention.wv"]
    assert (value.a.shape, value.b.shape, value.b.mapped) == ((2, 16), (8, 2), True)


def test_an_adapter_in_pytorchs_format_opens(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    write_peft(tmp_path, PAIRS)
    state = {name: torch.from_numpy(array) for name, array in peft_tensors(PAIRS).items()}
    torch.save(state, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    b = open_lora(tmp_path, CONFIG).weights["layers.1.attention.wv"].b
    assert np.array_equal(b.array(), PAIRS["layers.1.attention.wv"][1])


# --- what changes the arithmetic ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected 'LORA'"),
        ({"use_dora": True}, "use_dora is True, which changes what the adapter computes"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is a list of 1 values"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"a_key_of_tomorrow": 0.5}, "a_key_of_tomorrow is 0.5"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"r": 3}, r"r of model\.layers\.0\.self_attn\.q_proj is 3, its tensors have rank 2"),
        ({"rank_pattern": {"layers.1.self_attn.v_proj": 4}}, r"r of model\.layers\.1\.self_attn\.v_proj is 4"),
        ({"target_modules": ["v_proj"]}, r"target_modules does not name model\.layers\.0\.self_attn\.q_proj"),
        ({"target_modules": 7}, "target_modules is 7, expected a list"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": 1e40}, "lora_alpha"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much', expected a number"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes', expected true or false"),
        ({"alpha_pattern": {"(a+)+": 1}}, "a simpler expression"),
        ({"alpha_pattern": {"(a|a)(a|a)(a|a)": 1}}, "a simpler expression"),
        ({"alpha_pattern": {"[": 1}}, "is no expression"),
        ({"alpha_pattern": {"q_proj": None}}, "q_proj"),
    ],
)
def test_a_config_that_says_something_else_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_lora(write_peft(tmp_path, PAIRS, **changes), CONFIG)


def test_what_is_harmless_or_switched_off_is_not_refused(tmp_path: Path) -> None:
    changes = {
        "a_key_of_tomorrow": False, "and_another": {}, "lora_dropout": 0.1, "layers_to_transform": [0, 1],
        "target_modules": r"(?:.*?)+(?:q_proj|v_proj)", "init_lora_weights": "gaussian",
    }  # fmt: skip
    assert len(open_lora(write_peft(tmp_path, PAIRS, **changes), CONFIG).weights) == len(PAIRS)
    more = {"target_modules": ["q_proj", "v_proj", "query_key_value"]}  # PEFT passes over what the model does not have
    assert len(open_lora(write_peft(tmp_path, PAIRS, **more), CONFIG).weights) == len(PAIRS)


# --- tensors that do not fit ---


def without(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, *shape: int, dtype: Any = np.float32) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda tensors: tensors.__setitem__(name, np.ones(shape, dtype))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(f"{Q0}.lora_A.weight", 2, 20),
         r"layers\.0\.attention\.wq\.lora_a is \(2, 20\), expected \(2, 16\) .* load the adapter with the model"),
        (put(f"{Q0}.lora_B.weight", 20, 2), r"wq\.lora_b is \(20, 2\), expected \(16, 2\)"),
        (put(f"{Q0}.lora_B.weight", 16, 3), r"wq\.lora_b is \(16, 3\), expected \(16, 2\) .* at rank 2"),
        (put(f"{Q0}.lora_B.weight", 16), r"wq\.lora_b is \(16,\), expected \(16, 2\)"),
        (put(f"{Q0}.lora_B.weight", 16, 2, dtype=np.float64), "is F64, expected one of F32, F16, BF16"),
        (put(f"{Q0}.lora_B.weight", 16, 2, dtype=np.int8), "is I8, expected one of F32, F16, BF16"),
        (without(f"{Q0}.lora_B.weight"), r"has no layers\.0\.attention\.wq\.lora_b, only the other half"),
        (put(f"{Q0.replace('0', '2')}.lora_A.weight", 2, 16), "which this model of 2 layers does not have"),
        (put("base_model.model.model.layers.0.mlp.router.lora_A.weight", 2, 16), "does not have"),
        (put("base_model.model.model.embed_tokens.lora_A.weight", 2, 16), "attention, feed-forward and output"),
        (put("base_model.model.model.norm.lora_A.weight", 2, 16), "attention, feed-forward and output matrices"),
        (put("base_model.model.model.embed_tokens.lora_embedding_A", 2, 16), "LoRA on the embeddings"),
        (put(f"{Q0}.lora_magnitude_vector", 16), "belongs to DoRA"),
        (put(f"{Q0}.lora_B.bias", 16), "is a bias"),
        (put("base_model.model.lm_head.modules_to_save.weight", 32, 16), "replaces a whole module"),
        (put("something.else", 2, 16), "is no tensor of a LoRA"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_this_models_are_refused(
    change: Callable[[dict[str, np.ndarray]], None], said: str, tmp_path: Path
) -> None:
    tensors = peft_tensors(PAIRS)
    change(tensors)
    with pytest.raises(CheckpointError, match=said):
        open_lora(write_peft(tmp_path, PAIRS, tensors), CONFIG)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no adapter at .*nowhere"):
        open_lora(tmp_path / "nowhere", CONFIG)
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        open_lora(tmp_path, CONFIG)
    write_peft(tmp_path, PAIRS)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        open_lora(tmp_path, CONFIG)
    (tmp_path / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="has no tensors"):
        open_lora(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="scaled by nan"):
        open_lora(tmp_path, CONFIG, scale=float("nan"))


# --- GGUF ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"general_type": "model"}, "general.type is 'model', expected 'adapter'"),
        ({"general_architecture": "qwen2"}, "general.architecture is 'qwen2', expected 'llama'"),
        ({"adapter_type": "control_vector"}, "adapter.type is 'control_vector', expected 'lora'"),
        ({"adapter_alora_invocation_tokens": "x"}, "adapter.alora.invocation.tokens changes what the adapter computes"),
    ],
)
def test_a_gguf_that_is_no_plain_lora_is_refused(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_lora(write_gguf_adapter(tmp_path / "a.gguf", PAIRS, CONFIG, **changes), CONFIG)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"layers.0.attention.wv": (np.ones((2, 16)), np.ones((9, 2)))}, r"wv\.lora_b is \(9, 2\), expected \(8, 2\)"),
        (
            {"layers.0.attention.wv": (np.ones((16, 2)), np.ones((2, 8)))},
            r"wv\.lora_a is \(16, 2\), expected \(16, 16\)",
        ),
        ({"layers.5.attention.wv": (np.ones((2, 16)), np.ones((8, 2)))}, r"blk\.5\.attn_v\.weight.*2 layers"),
        ({"tok_embeddings": (np.ones((2, 16)), np.ones((32, 2)))}, r"token_embd\.weight.*not supported"),
    ],
)
def test_a_gguf_of_other_shapes_is_refused(pairs: Pairs, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        open_lora(write_gguf_adapter(tmp_path / "a.gguf", pairs, CONFIG), CONFIG)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    from pronk.checkpoints.convert import convert
    from pronk.checkpoints.random import random_checkpoint

    tiny = random_checkpoint("tiny")
    convert(tiny, tmp_path / "tiny.gguf", "gguf")
    with pytest.raises(CheckpointError, match=r"general\.type is .*, expected 'adapter'"):
        open_lora(tmp_path / "tiny.gguf", tiny.config)
    convert(tiny, tmp_path / "tiny", "hf")
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        open_lora(tmp_path / "tiny", tiny.config)


@pytest.mark.parametrize("form", ["adapter_config.json", "adapter_model.safetensors", "a.gguf"])
def test_a_damaged_adapter_is_refused_or_read_and_nothing_else(form: str, tmp_path: Path) -> None:
    path = write_peft(tmp_path, PAIRS) / form
    if form == "a.gguf":
        write_gguf_adapter(path, PAIRS, CONFIG)
    sound = path.read_bytes()
    header = min(len(sound), 1500)

    @settings(max_examples=150)
    @given(st.lists(st.tuples(st.integers(0, header - 1), st.integers(0, 255)), max_size=3), st.integers(0, len(sound)))
    def damaged(changes: list[tuple[int, int]], length: int) -> None:
        data = bytearray(sound)
        for at, value in changes:
            data[at] = value
        path.write_bytes(data[:length] if len(changes) == 3 else data)
        with contextlib.suppress(PronkError):
            for weight in open_lora(path, CONFIG).weights.values():
                weight.b.load()

    damaged()


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = write_peft(tmp_path, PAIRS) / "adapter_config.json"
    file.write_text('{"r": 1, ' + json.dumps(json.loads(file.read_text()))[1:])
    with pytest.raises(CheckpointError, match="'r' is there twice"):
        open_lora(tmp_path, CONFIG)
