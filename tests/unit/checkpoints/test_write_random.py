"""Random models: determined by the seed, of unit size, real in shape and in mix, with a vocabulary that works."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

from pronk.checkpoints import mixes
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.random import SHAPES, random_checkpoint
from pronk.errors import CheckpointError
from pronk.tensors import types

TYPES = [t.name for t in types.ALL if t in types.COMPUTABLE]


@pytest.mark.parametrize("type", TYPES)
def test_weights_have_the_size_that_keeps_activations_at_one(type: str) -> None:
    checkpoint = random_checkpoint("tiny", type)
    layers, dim, ffn = 4, 256, 768
    for name, size in {
        "tok_embeddings.weight": 1.0,
        "output.weight": dim**-0.5,
        "layers.1.attention.wq.weight": dim**-0.5,
        "layers.1.feed_forward.w2.weight": (2 * layers * ffn) ** -0.5,
    }.items():
        tensor = checkpoint.tensors[name]
        assert tensor.type.name == type
        values = tensor.array()
        assert 0.7 * size < values.std() < 1.4 * size
        assert abs(values.mean()) < 0.05 * size
        assert np.abs(values).max() < 6 * size
    assert (checkpoint.tensors["norm.weight"].array() == 1).all()


def test_bytes_depend_on_seed_and_name_alone() -> None:
    first, again, other = (random_checkpoint("tiny", "Q4_K", seed=s).tensors for s in (1, 1, 2))
    wq, wk = "layers.0.attention.wq.weight", "layers.1.attention.wq.weight"
    assert np.array_equal(first[wq].load(), again[wq].load())
    assert not np.array_equal(first[wq].load(), other[wq].load())
    assert not np.array_equal(first[wq].load(), first[wk].load())


def test_bytes_live_as_long_as_they_are_held() -> None:
    tensor = random_checkpoint("tiny", "Q8_0").tensors["output.weight"]
    held = tensor.load()
    assert tensor.load().ctypes.data == held.ctypes.data
    assert not held.flags.writeable
    view, where = held[5:], held.ctypes.data
    del held
    assert tensor.load().ctypes.data == where  # a view keeps them too
    copy = view.copy()
    del view
    gc.collect()
    assert np.array_equal(tensor.load()[5:], copy)


@pytest.mark.parametrize(
    ("shape", "billions"),
    [
        ("llama-2-7b", 6.738), ("llama-2-13b", 13.016), ("llama-2-70b", 68.977), ("llama-3-8b", 8.030),
        ("llama-3.1-70b", 70.554), ("llama-3.1-405b", 405.85), ("llama-3.2-1b", 1.236), ("llama-3.2-3b", 3.213),
        ("tinyllama-1.1b", 1.100),
    ],
)  # fmt: skip
def test_shapes_are_the_real_ones(shape: str, billions: float) -> None:
    assert SHAPES[shape].parameter_count() / 1e9 == pytest.approx(billions, abs=0.006)


def test_unknown_shape_and_type_list_what_there_is() -> None:
    with pytest.raises(CheckpointError, match=r"unknown random shape 'llama-9', expected one of llama-2-7b, .*tiny"):
        open_checkpoint("random:llama-9")
    with pytest.raises(CheckpointError, match=r"unknown type 'Q9', expected one of Q4_K_M, .*Q6_K"):
        open_checkpoint("random:tiny:Q9")
    with pytest.raises(CheckpointError, match="random weights of type NVFP4 cannot be made, expected one of F32, "):
        open_checkpoint("random:tiny:NVFP4")


# --- mixes ---


def layers_of(shape: str, mix: str, part: str, type: types.TensorType) -> list[int]:
    tensors = random_checkpoint(shape, mix).tensors
    return [int(n.split(".")[1]) for n, t in tensors.items() if f".{part}." in n and t.type == type]


def test_q4_k_m_is_llama_cpps() -> None:
    """What llama-quantize prints for Llama 3 8B (32 layers)."""
    better = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    for part in ("wv", "w2"):
        assert layers_of("llama-3-8b", "Q4_K_M", part, types.Q6_K) == better
    for part in ("wq", "wk", "wo", "w1", "w3"):
        assert layers_of("llama-3-8b", "Q4_K_M", part, types.Q4_K) == list(range(32))
    tensors = random_checkpoint("llama-3-8b", "q4_k_m").tensors
    assert tensors["output.weight"].type == types.Q6_K
    assert tensors["tok_embeddings.weight"].type == types.Q4_K
    assert sum(t.nbytes for t in tensors.values()) == pytest.approx(4.92e9, rel=0.01)


def test_q4_k_m_of_fewer_layers_has_no_less_for_wv_than_q4_k_s() -> None:
    assert layers_of("llama-3.2-1b", "Q4_K_M", "wv", types.Q6_K) == [0, 1, 4, 7, 10, 13, 14, 15]
    assert layers_of("llama-3.2-1b", "Q4_K_M", "wv", types.Q5_K) == [2, 3]
    assert layers_of("llama-3.2-1b", "Q4_K_M", "w2", types.Q5_K) == []


def test_tied_embeddings_are_treated_as_the_output() -> None:
    assert random_checkpoint("llama-3.2-1b", "Q4_K_M").tensors["tok_embeddings.weight"].type == types.Q6_K


def test_70b_has_a_better_wv() -> None:
    assert len(layers_of("llama-3.1-70b", "Q4_K_M", "wv", types.Q5_K)) == 40
    assert layers_of("llama-3.1-70b", "Q4_K_M", "wv", types.Q4_K) == []
    assert len(layers_of("llama-3.1-70b", "Q5_K_M", "wv", types.Q5_K)) == 40


def test_rows_that_do_not_divide_get_the_fallback() -> None:
    mix = mixes.resolve("Q4_K_M")
    config = SHAPES["tiny"]
    assert mixes.tensor_type(mix, "layers.1.attention.wq.weight", (64, 96), config) == types.Q5_0
    assert mixes.tensor_type(mix, "output.weight", (64, 96), config) == types.Q8_0


def test_mixes_of_few_bits_are_llama_cpps() -> None:
    """What llama-quantize prints for Llama 3 8B (32 layers, four query heads to a wv)."""
    everywhere = list(range(32))
    assert layers_of("llama-3-8b", "Q3_K_M", "wv", types.Q5_K) == [0, 1]
    assert layers_of("llama-3-8b", "Q3_K_M", "wv", types.Q4_K) == everywhere[2:]
    assert layers_of("llama-3-8b", "Q3_K_M", "w2", types.Q5_K) == [0, 1]
    assert layers_of("llama-3-8b", "Q3_K_M", "wo", types.Q4_K) == everywhere
    assert layers_of("llama-3-8b", "Q3_K_L", "w2", types.Q5_K) == everywhere
    assert layers_of("llama-3-8b", "Q3_K_S", "w2", types.Q3_K) == everywhere
    assert layers_of("llama-3-8b", "Q2_K_S", "w2", types.Q4_K) == everywhere[:4]
    assert layers_of("llama-3-8b", "IQ3_M", "wo", types.Q4_K) == everywhere
    assert layers_of("llama-3-8b", "IQ2_M", "w2", types.IQ3_S) == everywhere[:4]
    tensors = random_checkpoint("llama-3-8b", "IQ2_M").tensors
    assert tensors["output.weight"].type == types.Q5_K
    assert tensors["tok_embeddings.weight"].type == types.IQ3_S
    sizes = {"Q3_K_S": 3.66, "Q3_K_M": 4.02, "Q3_K_L": 4.32, "IQ3_M": 3.78, "IQ2_M": 2.95, "Q2_K_S": 2.99}
    for mix, size in sizes.items():
        total = sum(t.nbytes for t in random_checkpoint("llama-3-8b", mix).tensors.values())
        assert total / 1e9 == pytest.approx(size, rel=0.01), mix


@pytest.mark.parametrize(
    ("type", "number"),
    [("Q4_K_M", 15), ("Q5_K_M", 17), ("Q4_K", 14), ("F16", 1), ("BF16", 32), ("Q3_K_S", 11), ("Q3_K_M", 12),
     ("Q3_K_L", 13), ("IQ3_M", 27), ("IQ3_S", 26), ("IQ4_XS", 30)],
)  # fmt: skip
def test_file_type_numbers(type: str, number: int) -> None:
    assert mixes.file_type(random_checkpoint("llama-3-8b", type).tensors.values()) == number


# --- the vocabulary ---


@pytest.mark.parametrize("shape", ["tiny", "tinyllama-1.1b", "llama-3.2-1b"])
def test_vocabulary_encodes_decodes_and_chats(shape: str) -> None:
    tokenizer = random_checkpoint(shape).load_tokenizer()
    size = SHAPES[shape].vocab_size
    assert tokenizer.vocab_size == size
    for text in ("hello, lama ", "12345 ü 🦙\n\n", " bapize cozalu"):
        assert tokenizer.decode(tokenizer.encode(text, bos=True)) == text
    ids = np.random.default_rng(0).integers(0, size, 300).tolist()
    assert tokenizer.decode(ids)
    assert tokenizer.special_ids["<|eot_id|>"] in tokenizer.stop_ids
    assert len(tokenizer.encode("<|eot_id|>", bos=False)) > 1
    assert tokenizer.encode("<|eot_id|>", bos=False, special=True) == [tokenizer.special_ids["<|eot_id|>"]]


def test_words_are_found_by_merging() -> None:
    tokenizer = random_checkpoint("tinyllama-1.1b").load_tokenizer()
    for token_id in (260, 400, 500, 12_000, 31_000):
        assert tokenizer.encode(tokenizer.decode([token_id]), bos=False) == [token_id]


def test_random_model_computes_finite_logits_of_unit_size() -> None:
    pytest.importorskip("pronk.native._core", reason="the C++ kernels are not built")
    from pronk.backends.cpu import CpuBackend
    from pronk.model.llama import load_model
    from support.running import run

    for type in ("Q4_K_M", "F16", "IQ4_XS", "Q2_K", "IQ1_M", "MXFP4"):
        checkpoint = random_checkpoint("tiny", type)
        model = load_model(checkpoint.config, checkpoint.tensors, CpuBackend())
        logits = run(model, [256, *b"hello, lama"])
        assert np.isfinite(logits).all()
        assert 0.3 < logits.std() < 3
        assert math.isfinite(float(logits.max()))
