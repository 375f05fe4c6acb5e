"""Random LoRA adapters, in the files that PEFT and llama.cpp write, by the safetensors and gguf packages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pronk.checkpoints.names import to_gguf, to_hf
from pronk.config import ModelConfig
from support.random_models import interleave

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # weight, such as layers.0.attention.wq: A (rank, in), B (out, rank)

PROJECTIONS = {
    "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv", "o_proj": "attention.wo",
    "gate_proj": "feed_forward.w1", "down_proj": "feed_forward.w2", "up_proj": "feed_forward.w3",
}  # fmt: skip


def random_pairs(
    config: ModelConfig,
    *,
    rank: int | Mapping[str, int] = 4,
    targets: tuple[str, ...] = tuple(PROJECTIONS),
    seed: int = 0,
    size: float = 1.0,
) -> Pairs:
    """Rows of B as transformers has them. `size` 1: the product is about as large as a usual weight's."""
    rng = np.random.default_rng(seed)
    shapes = config.tensor_shapes()
    wanted = [f"layers.{i}.{PROJECTIONS[t]}" for i in range(config.n_layers) for t in targets if t != "lm_head"]
    pairs: Pairs = {}
    for name in [*wanted, *(["output"] if "lm_head" in targets else [])]:
        out, width = shapes.get(f"{name}.weight", (config.vocab_size, config.dim))
        r = rank if isinstance(rank, int) else rank.get(name, 4)
        a = rng.normal(size=(r, width)) / np.sqrt(width)
        b = rng.normal(size=(out, r)) * size / np.sqrt(r)
        pairs[name] = a.astype(np.float32), b.astype(np.float32)
    return pairs


def module(name: str) -> str:
    """layers.0.attention.wq -> model.layers.0.self_attn.q_proj"""
    return to_hf(f"{name}.weight").removesuffix(".weight")


def peft_config(pairs: Pairs, **changes: Any) -> dict[str, Any]:
    """As PEFT 0.17 writes it."""
    first = next(iter(pairs.values()))[0]
    plain = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "meta-llama/Llama-3.2-1B", "bias": "none",
        "corda_config": None, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 2 * len(first), "lora_bias": False,
        "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "peft_type": "LORA", "qalora_group_size": 16, "r": len(first), "rank_pattern": {}, "revision": None,
        "target_modules": sorted({module(name).rpartition(".")[2] for name in pairs}), "target_parameters": None,
        "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False, "use_qalora": False,
        "use_rslora": False,
    }  # fmt: skip
    return {**plain, **changes}


def peft_tensors(pairs: Pairs) -> dict[str, np.ndarray]:
    return {
        f"base_model.model.{module(name)}.lora_{kind}.weight": array
        for name, (a, b) in pairs.items()
        for kind, array in (("A", a), ("B", b))
    }


def write_peft(directory: Path, pairs: Pairs, tensors: Mapping[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """`tensors` instead of those of the pairs; `changes` to the config."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(peft_config(pairs, **changes)), encoding="utf-8")
    save_file(dict(tensors or peft_tensors(pairs)), directory / "adapter_model.safetensors")
    return directory


def write_gguf_adapter(
    path: Path, pairs: Pairs, config: ModelConfig, *, alpha: float | None = None, dtype: Any = np.float32,
    **changes: str,
) -> Path:  # fmt: skip
    """As llama.cpp's convert_lora_to_gguf.py does: rows of wq and wk interleaved. `changes`: other strings by key, with
    _ for the dots."""
    import gguf

    texts = {"general_type": "adapter", "adapter_type": "lora", **changes}
    writer = gguf.GGUFWriter(path, texts.pop("general_architecture", "llama"))
    for key, text in texts.items():
        writer.add_string(key.replace("_", ".", 1) if key.count("_") == 1 else key.replace("_", "."), text)
    rank = len(next(iter(pairs.values()))[0])
    writer.add_float32("adapter.lora.alpha", 2.0 * rank if alpha is None else alpha)
    heads = {"wq": config.n_heads, "wk": config.n_kv_heads}
    for name, (a, b) in pairs.items():
        of = heads.get(name.rpartition(".")[2])
        for kind, array in (("a", a), ("b", interleave(b, of) if of else b)):
            writer.add_tensor(f"{to_gguf(name + '.weight')}.lora_{kind}", np.ascontiguousarray(array, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def scales(pairs: Pairs, alpha: float | None = None) -> dict[str, float]:
    """PEFT's default: alpha / r, with alpha twice the first rank."""
    rank = len(next(iter(pairs.values()))[0])
    return {name: (2.0 * rank if alpha is None else alpha) / len(a) for name, (a, _) in pairs.items()}


def merged(model: Any, pairs: Pairs, scales: Mapping[str, float]) -> Any:
    """transformers' model with W + scale * B A in the place of each W. An output matrix that was the embedding table is
    one of its own then: PEFT's adapter on it leaves the embeddings alone."""
    import torch

    with torch.no_grad():
        for name, (a, b) in pairs.items():
            layer = model.get_submodule(module(name))
            added = torch.from_numpy((scales[name] * (b.astype(np.float64) @ a)).astype(np.float32))
            layer.weight = torch.nn.Parameter(layer.weight + added)
    return model
