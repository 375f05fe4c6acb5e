"""Logits of random models against transformers' LlamaForCausalLM, from the three formats, on both backends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.checkpoints.open import open_checkpoint
from pronk.model.llama import load_model
from support.random_models import (
    Shape,
    config_of,
    lazy_tensors,
    linear_scaling,
    llama3_scaling,
    meta_state,
    random_llama,
    write_gguf,
    write_hf,
    write_meta,
)
from support.running import relative_error, run, run_ragged

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

BOUND = 1e-4
SHAPES = {
    "grouped heads": Shape(),
    "one kv head, tied": Shape(n_kv_heads=1, tied=True),
    "all kv heads, llama3 rope": Shape(n_kv_heads=8, theta=5e5, scaling=llama3_scaling()),
    "heads of 6": Shape(dim=48, n_kv_heads=4),
    "heads of 80": Shape(dim=160, n_heads=2, n_kv_heads=1, ffn_dim=176),
    "heads wider than dim / n_heads": Shape(head_dim=20, n_heads=4, tied=True),
    "linear rope, biases": Shape(scaling=linear_scaling(4.0), attention_bias=True, mlp_bias=True, head_dim=6),
    "short llama3 rope": Shape(theta=5e5, scaling=llama3_scaling(original=64), head_dim=16),
}
# Meta's params.json has no word for these.
NOT_META = {"heads wider than dim / n_heads", "linear rope, biases", "short llama3 rope"}
FORMS = ("hf", "gguf", "meta1", "meta2")
BACKENDS = [
    "cpu",
    "torch",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
]
CASES = [(shape, form) for shape in SHAPES for form in FORMS if "meta" not in form or shape not in NOT_META]
TOKENS = np.random.default_rng(0).integers(3, 320, 100).tolist()


@pytest.fixture(scope="module")
def models():  # type: ignore[no-untyped-def]
    """Each shape's model and its logits, made once."""
    made = {}

    def get(name: str):  # type: ignore[no-untyped-def]
        if name not in made:
            model = random_llama(SHAPES[name])
            with torch.no_grad():
                made[name] = model, model.double()(torch.tensor([TOKENS])).logits[0].numpy()
            model.float()
        return made[name]

    return get


def _backend(name: str):  # type: ignore[no-untyped-def]
    return make_backend(name, dtype=None if name == "cpu" else "float32")


def _write(model, shape: Shape, form: str, folder: Path) -> Path:  # type: ignore[no-untyped-def]
    if form == "hf":
        return write_hf(model, folder / "hf")
    if form == "gguf":
        return write_gguf(model, shape, folder / "model.gguf")
    return write_meta(model, shape, folder / "meta", shards=int(form[-1]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "form"), CASES, ids=[f"{s}-{f}" for s, f in CASES])
def test_logits_equal_transformers(name: str, form: str, backend: str, models, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, expected = models(name)
    checkpoint = open_checkpoint(_write(model, SHAPES[name], form, tmp_path))
    ours = load_model(checkpoint.config, checkpoint.tensors, _backend(backend))
    assert relative_error(run(ours, TOKENS), expected) < BOUND


@pytest.mark.parametrize("name", SHAPES)
def test_the_oracle_equals_transformers_in_float64(name: str, models) -> None:  # type: ignore[no-untyped-def]
    model, expected = models(name)
    shape = SHAPES[name]
    ours = load_model(config_of(shape), lazy_tensors(meta_state(model, shape)), make_backend("torch", dtype="float64"))
    assert relative_error(run(ours, TOKENS), expected) < 2e-5  # what transformers' float32 rotary tables leave


@pytest.mark.parametrize("name", SHAPES)
def test_cpu_prefill_in_chunks_and_decode_are_bit_for_bit_the_whole(name: str, models) -> None:  # type: ignore[no-untyped-def]
    model, _ = models(name)
    shape = SHAPES[name]
    ours = load_model(config_of(shape), lazy_tensors(meta_state(model, shape)), make_backend("cpu"))
    for kv_type in ("f32", "f16"):
        whole = run(ours, TOKENS, kv_type=kv_type)
        np.testing.assert_array_equal(run(ours, TOKENS, [1, 37, 16, 2, 30], kv_type), whole)
        np.testing.assert_array_equal(run(ours, TOKENS[:20], [1], kv_type), whole[:20])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ragged_batch_equals_each_sequence_alone(backend: str, models) -> None:  # type: ignore[no-untyped-def]
    """Prompts, chunks of prompts and decoding sequences in one step."""
    model, expected = models("grouped heads")
    shape = SHAPES["grouped heads"]
    ours = load_model(config_of(shape), lazy_tensors(meta_state(model, shape)), _backend(backend))
    sequences = [TOKENS, TOKENS[10:47], TOKENS[:50], TOKENS[:3]]
    steps = [[20, 30, 0, 0], [60, 1, 1, 0], [18, 1, 40, 1], [1, 5, 9, 1], [1, 0, 0, 1]]
    together = run_ragged(ours, sequences, steps)
    for tokens, logits in zip(sequences, together, strict=True):
        alone = run(ours, tokens)
        if backend == "cpu":
            np.testing.assert_array_equal(logits, alone)
        else:
            assert relative_error(logits, alone) < 1e-5
    assert relative_error(together[2], expected[:50]) < BOUND


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantized_rows_are_invariant_to_the_batch_too(backend: str, models) -> None:  # type: ignore[no-untyped-def]
    shape = Shape(dim=256, n_heads=4, n_kv_heads=2, ffn_dim=256, n_layers=1)
    state = meta_state(random_llama(shape), shape)
    from pronk.tensors import types

    ours = load_model(config_of(shape), lazy_tensors(state, types.Q8_0), _backend(backend))
    whole = run(ours, TOKENS)
    chunked = run(ours, TOKENS, [1, 2, 3, 4, 5, 6, 7, 8, 9, 40])
    if backend == "cpu":
        np.testing.assert_array_equal(chunked, whole)
    assert relative_error(chunked, whole) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scaling", ["llama3", "linear"])
def test_long_positions(backend: str, scaling: str) -> None:
    """The last tokens of a context eight times the original one."""
    rope = llama3_scaling(original=1024) if scaling == "llama3" else linear_scaling(8.0)
    shape = Shape(n_layers=1, context=8192, theta=5e5, scaling=rope, head_dim=64, n_heads=2, n_kv_heads=1)
    model = random_llama(shape)
    tokens = np.random.default_rng(1).integers(3, 320, 8192).tolist()
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        expected = model(torch.tensor([tokens]), logits_to_keep=64).logits[0].numpy()
    ours = load_model(config_of(shape), lazy_tensors(meta_state(model, shape)), _backend(backend))
    logits = run(ours, tokens, [4096, 4000, 32])[-64:]
    assert relative_error(logits, expected) < BOUND
