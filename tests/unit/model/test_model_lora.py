"""LoRA adapters: what they add, held against transformers with merged weights; rows of a batch that use different ones;
and rows that use none, whose bits know nothing of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.checkpoints.lora_reader import open_lora
from pronk.checkpoints.open import open_checkpoint
from pronk.errors import RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel, load_model
from pronk.model.lora import Adapters, everywhere
from support.adapters import merged, random_pairs, scales, write_gguf_adapter, write_peft
from support.random_models import Shape, config_of, lazy_tensors, meta_state, random_llama
from support.running import BLOCK, pages_for, relative_error, run

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

SHAPE = Shape(dim=64, n_layers=2, n_heads=8, n_kv_heads=2, ffn_dim=96)
TIED = Shape(dim=64, n_layers=1, tied=True, attention_bias=True)
TOKENS = list(range(3, 43))


def loaded(shape: Shape = SHAPE, backend: str = "cpu", dtype: str | None = None) -> LlamaModel:
    tensors = lazy_tensors(meta_state(random_llama(shape), shape))
    return load_model(config_of(shape), tensors, make_backend(backend, dtype=dtype))


def with_adapter(model: LlamaModel, path: Path, scale: float = 1.0) -> LlamaModel:
    adapters = Adapters(model).add("only", open_lora(path, model.config, scale=scale))
    return everywhere(adapters.model, adapters.number("only"))


def theirs(model: Any) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.tensor([TOKENS])).logits[0])


# --- the arithmetic ---


CASES: dict[str, tuple[Shape, dict[str, Any], dict[str, Any], Any]] = {
    "all projections": (SHAPE, {}, {}, scales),
    "two projections, half the rank as alpha": (
        SHAPE, {"targets": ("q_proj", "v_proj"), "rank": 8}, {"lora_alpha": 4}, lambda p: scales(p, 4.0)
    ),
    "rank-stabilized": (
        SHAPE, {"rank": 8}, {"lora_alpha": 4, "use_rslora": True}, lambda p: dict.fromkeys(p, 4 / np.sqrt(8))
    ),
    "the output matrix, which is the embedding table": (TIED, {"targets": ("q_proj", "lm_head")}, {}, scales),
    "other ranks and alphas for some": (
        SHAPE, {"rank": {"layers.1.attention.wq": 2, "layers.0.feed_forward.w2": 3}},
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {".*k_proj": 2.0, "down_proj": 6},
         "rank_pattern": {"layers.1.self_attn.q_proj": 2, r"model\.layers\.0\.mlp\.down_proj": 3}},
        lambda pairs: {
            name: (2.0 if name.endswith("wk") else 6.0 if name.endswith("w2") else 8.0) / len(a)
            for name, (a, _) in pairs.items()
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_with_the_adapter_merged(case: str, tmp_path: Path) -> None:
    shape, how, config, expected = CASES[case]
    pairs = random_pairs(config_of(shape), **how)
    path = write_peft(tmp_path / "adapter", pairs, **config)
    wanted = theirs(merged(random_llama(shape), pairs, expected(pairs)))
    assert relative_error(run(with_adapter(loaded(shape), path), TOKENS), wanted) < 2e-5
    assert relative_error(run(loaded(shape), TOKENS), wanted) > 1e-2, "the adapter changes next to nothing"


def test_ones_own_scale_multiplies_the_adapters(tmp_path: Path) -> None:
    pairs = random_pairs(config_of(SHAPE))
    path = write_peft(tmp_path, pairs)
    half = {name: scale / 2 for name, scale in scales(pairs).items()}
    wanted = theirs(merged(random_llama(SHAPE), pairs, half))
    assert relative_error(run(with_adapter(loaded(), path, 0.5), TOKENS), wanted) < 2e-5


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_the_gguf_form_of_an_adapter_gives_the_same_bits(backend: str, tmp_path: Path) -> None:
    config = config_of(SHAPE)
    pairs = random_pairs(config, targets=("q_proj", "k_proj", "o_proj", "gate_proj", "lm_head"))
    peft, gguf = write_peft(tmp_path / "peft", pairs), write_gguf_adapter(tmp_path / "a.gguf", pairs, config)
    model = loaded(backend=backend)
    assert np.array_equal(run(with_adapter(model, peft), TOKENS), run(with_adapter(model, gguf), TOKENS))


def test_a_gguf_without_alpha_takes_the_product_as_it_is(tmp_path: Path) -> None:
    config = config_of(SHAPE)
    pairs = random_pairs(config)
    none = write_gguf_adapter(tmp_path / "none.gguf", pairs, config, alpha=0.0)
    rank = write_gguf_adapter(tmp_path / "rank.gguf", pairs, config, alpha=4.0)
    assert np.array_equal(run(with_adapter(loaded(), none), TOKENS), run(with_adapter(loaded(), rank), TOKENS))


def test_halves_are_used_as_they_are_stored(tmp_path: Path) -> None:
    config = config_of(SHAPE)
    pairs = {
        name: (a.astype(np.float16).astype(np.float32), b.astype(np.float16).astype(np.float32))
        for name, (a, b) in random_pairs(config).items()
    }
    half = write_gguf_adapter(tmp_path / "half.gguf", pairs, config, dtype=np.float16)
    whole = write_gguf_adapter(tmp_path / "whole.gguf", pairs, config)
    assert np.array_equal(run(with_adapter(loaded(), half), TOKENS), run(with_adapter(loaded(), whole), TOKENS))


# --- several in a batch ---

LENGTHS = (7, 1, 20, 3, 1, 12)
USED = (0, -1, 1, -1, 1, 0)


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    config = config_of(SHAPE)
    one = write_peft(tmp_path / "one", random_pairs(config, seed=1))
    other = random_pairs(config, seed=2, rank=7, targets=("v_proj", "up_proj", "lm_head"))
    return [one, write_gguf_adapter(tmp_path / "other.gguf", other, config)]


def carrying(model: LlamaModel, paths: Sequence[Path]) -> Adapters:
    adapters = Adapters(model)
    for path in paths:
        adapters = adapters.add(path.stem, open_lora(path, model.config))
    return adapters


def mixture(model: LlamaModel, used: Sequence[int], logit_rows: Sequence[int]) -> list[np.ndarray]:
    """A prompt of each length, read in two steps where it is long; then logits of so many last rows."""
    tables, first = [], 0
    for length in LENGTHS:
        tables.append(pages_for(length, first))
        first += len(tables[-1])
    cache = model.ops.cache(model.config, first, BLOCK, "f32")
    prompts = [TOKENS[s : s + length] for s, length in enumerate(LENGTHS)]
    heads = [(p[:-3], 0, t) for p, t in zip(prompts, tables, strict=True) if len(p) > 3]
    begun = [n for n, p in zip(used, prompts, strict=True) if len(p) > 3]
    model.forward(make_batch(heads, BLOCK, wants_logits=[0] * len(heads), adapters=begun), cache)
    rest = [(p[-3:], max(len(p) - 3, 0), t) for p, t in zip(prompts, tables, strict=True)]
    wanted = [min(rows, len(chunk)) for rows, (chunk, _, _) in zip(logit_rows, rest, strict=True)]
    logits = model.forward(make_batch(rest, BLOCK, wants_logits=wanted, adapters=used), cache)
    return np.split(logits, np.cumsum(wanted)[:-1])


@pytest.mark.parametrize("rows", [(1, 1, 1, 1, 1, 1), (3, 3, 3, 3, 3, 3), (1, 0, 2, 3, 1, 0)])
def test_rows_of_a_mixture_are_those_that_they_are_alone(rows: tuple[int, ...], adapters: list[Path]) -> None:
    plain = loaded()
    both = carrying(plain, adapters).model
    together = mixture(both, USED, rows)
    alone: Mapping[int, list[np.ndarray]] = {
        -1: mixture(plain, [-1] * 6, rows),  # the model itself, with nothing loaded
        0: mixture(both, [0] * 6, rows),
        1: mixture(both, [1] * 6, rows),
    }
    for s, number in enumerate(USED):
        assert np.array_equal(together[s], alone[number][s]), f"sequence {s}"
        if rows[s]:
            assert all(not np.array_equal(together[s], alone[other][s]) for other in alone if other != number)


def test_both_backends_compute_the_same_mixture(adapters: list[Path]) -> None:
    rows = (1, 1, 2, 3, 1, 0)
    ours = mixture(carrying(loaded(), adapters).model, USED, rows)
    exact = mixture(carrying(loaded(backend="torch", dtype="float64"), adapters).model, USED, rows)
    assert relative_error(np.concatenate(ours), np.concatenate(exact)) < 2e-5


def test_a_quantized_model_takes_an_adapter_too(tmp_path: Path) -> None:
    checkpoint = open_checkpoint("cria")
    pairs = random_pairs(checkpoint.config, targets=("q_proj", "down_proj"), rank=3)
    path = write_peft(tmp_path, pairs)
    tokens = TOKENS[:9]
    kernels = load_model(checkpoint.config, checkpoint.tensors, make_backend("cpu"))
    exact = load_model(checkpoint.config, checkpoint.tensors, make_backend("torch", dtype="float64"))
    off = relative_error(run(kernels, tokens), run(exact, tokens))  # activations are quantized
    assert relative_error(run(with_adapter(kernels, path), tokens), run(with_adapter(exact, path), tokens)) < 3 * off


# --- loading and unloading ---


def test_an_adapter_that_is_removed_is_gone_and_its_number_is_not_given_again(adapters: list[Path]) -> None:
    model = loaded()
    before = run(model, TOKENS)
    carried = carrying(model, adapters)
    assert carried.numbers == {"one": 0, "other": 1}
    left = carried.remove("one")
    assert left.numbers == {"other": 1}
    assert np.array_equal(run(everywhere(left.model, 1), TOKENS), run(everywhere(carried.model, 1), TOKENS))
    assert np.array_equal(run(everywhere(left.model, 0), TOKENS), before), "nothing is left of it"
    again = left.add("one", open_lora(adapters[0], model.config))
    assert again.numbers == {"other": 1, "one": 2}
    assert np.array_equal(run(everywhere(again.model, 2), TOKENS), run(everywhere(carried.model, 0), TOKENS))


def test_names_are_unique_and_not_empty(adapters: list[Path]) -> None:
    carried = carrying(loaded(), adapters)
    lora = open_lora(adapters[0], carried.model.config)
    with pytest.raises(RequestError, match="'one' is loaded already; give this one another name"):
        carried.add("one", lora)
    with pytest.raises(RequestError, match="no name"):
        carried.add("", lora)
    with pytest.raises(RequestError, match="no adapter 'two', expected one that is loaded: 'one', 'other'"):
        carried.remove("two")
