"""The CPU backend against the float64 oracle, and its promise: a row's bits depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.config import ModelConfig
from pronk.errors import BackendError, RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import LlamaModel, load_model
from pronk.native import runtime
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from support.random_models import Shape, config_of, lazy_tensors
from support.running import BLOCK, relative_error, run, run_ragged

TOKENS = list(range(3, 63))


def random_state(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in config.tensor_shapes().items():
        noise = random.standard_normal(shape)
        if "norm" in name:
            state[name] = 1 + 0.3 * noise
        else:
            state[name] = noise if len(shape) == 1 else 1.5 * noise / np.sqrt(shape[1])
    return {name: array.astype(np.float32) for name, array in state.items()}


def model_of(shape: Shape, type: types.TensorType = types.F32, backend: str = "cpu", **more: str) -> LlamaModel:
    config = config_of(shape)
    return load_model(config, lazy_tensors(random_state(config), type), make_backend(backend, **more))


@pytest.fixture
def threads():  # type: ignore[no-untyped-def]
    before = runtime.threads()
    yield
    runtime.set_threads(before)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(n_layers=1, tied=True, head_dim=6, attention_bias=True, mlp_bias=True),
        Shape(n_layers=1, dim=160, n_heads=2, n_kv_heads=1),
        Shape(n_layers=1, head_dim=40, n_heads=3, n_kv_heads=3, ffn_dim=33, vocab_size=77),
    ],
    ids=["biases", "heads of 80", "odd sizes"],
)
def test_the_oracle_agrees(shape: Shape) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    exact = run(model_of(shape, backend="torch", dtype="float64"), TOKENS)
    assert relative_error(run(model_of(shape), TOKENS), exact) < 1e-5
    assert relative_error(run(model_of(shape), TOKENS, kv_type="f16"), exact) < 5e-3


def test_a_q8_0_cache_is_near_the_oracle() -> None:
    """The oracle keeps the same keys and values; what is left is that this backend's queries are 8 bits wide too."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    shape = Shape(n_layers=2, dim=128, head_dim=32)
    exact = run(model_of(shape, backend="torch", dtype="float64"), TOKENS)
    rounded = run(model_of(shape, backend="torch", dtype="float64"), TOKENS, kv_type="q8_0")
    ours = run(model_of(shape), TOKENS, kv_type="q8_0")
    assert 0 < relative_error(rounded, exact) < 0.06
    assert relative_error(ours, rounded) < 0.06
    assert relative_error(ours, run(model_of(shape), TOKENS)) < 0.06


@pytest.mark.parametrize("type", [types.F16, types.Q8_0, types.Q4_0])
def test_quantized_weights_are_near_the_oracle(type: types.TensorType) -> None:
    """The oracle has the same weights; what is left is the 8-bit activations."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    shape = Shape(n_layers=1, dim=256, head_dim=32)
    exact = run(model_of(shape, type, "torch", dtype="float64"), TOKENS)
    assert relative_error(run(model_of(shape, type), TOKENS), exact) < 0.03


@pytest.mark.parametrize("type", [types.F32, types.F16, types.Q8_0], ids=str)
@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0"])
def test_bits_do_not_depend_on_chunks_batch_or_threads(type: types.TensorType, kv_type: str, threads: None) -> None:
    model = model_of(Shape(n_layers=2, dim=64, n_kv_heads=4, head_dim=32 if kv_type == "q8_0" else None), type)
    whole = run(model, TOKENS, kv_type=kv_type)
    np.testing.assert_array_equal(run(model, TOKENS, [1], kv_type), whole)
    for count in (1, 2, 3):
        runtime.set_threads(count)
        np.testing.assert_array_equal(run(model, TOKENS, [7, 30, 1], kv_type), whole)
    steps = [[1, 0, 25], [30, 5, 1], [28, 1, 1], [1, 2, 1]]
    parts = run_ragged(model, [TOKENS, TOKENS[:8], TOKENS[:28]], steps, kv_type)
    for logits, expected in zip(parts, (whole, whole[:8], whole[:28]), strict=True):
        np.testing.assert_array_equal(logits, expected)


def test_only_the_wanted_logits_are_computed() -> None:
    model = model_of(Shape(n_layers=1))
    cache = model.ops.cache(model.config, 3, BLOCK, "f16")
    chunks = [(TOKENS[:9], 0, [0]), (TOKENS[:12], 0, [1]), (TOKENS[5:6], 0, [2])]
    every = model.forward(make_batch(chunks, BLOCK, all_logits=True), cache)
    np.testing.assert_array_equal(
        model.forward(make_batch(chunks, BLOCK, wants_logits=[1, 0, 1]), cache), every[[8, 21]]
    )
    none = model.forward(make_batch(chunks, BLOCK, wants_logits=[0, 0, 0]), cache)
    assert none.shape == (0, 320)
    assert none.dtype == np.float32


def test_weights_are_the_files_bytes() -> None:
    loads = []
    data = np.zeros(64 * 34 // 32 * 4, np.uint8)
    data.flags.writeable = False

    def load() -> np.ndarray:
        loads.append(1)
        return data

    weight = make_backend("cpu").weight(LazyTensor("w", (4, 64), types.Q8_0, load, mapped=True))
    assert (weight.matrix.rows, weight.matrix.cols, weight.matrix.type_id) == (4, 64, types.Q8_0.id)
    assert len(loads) == 1


def test_the_caches_type() -> None:
    config, backend = config_of(Shape(n_layers=3)), make_backend("cpu")
    cache = backend.cache(config, 5, BLOCK, "f16")
    assert len(cache.keys) == len(cache.values) == 3
    assert {(a.shape, a.dtype.name) for a in cache.keys} == {((5, 2, BLOCK // 16, 8, 16), "float16")}
    assert {(a.shape, a.dtype.name) for a in cache.values} == {((5, 2, BLOCK, 8), "float16")}
    assert backend.cache(config, 1, BLOCK, "f32").keys[0].dtype == np.float32
    with pytest.raises(RequestError, match=r"'q4_0', expected one of f16, f32, q8_0"):
        backend.cache(config, 1, BLOCK, "q4_0")
    with pytest.raises(BackendError, match=r"24 tokens, expected a multiple of 16"):
        backend.cache(config, 1, 24, "f16")


@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0"])
def test_the_cache_takes_what_the_config_says(kv_type: str) -> None:
    config = config_of(Shape(n_layers=3, head_dim=96))
    cache = make_backend("cpu").cache(config, 5, BLOCK, kv_type)
    pages = (*cache.keys, *cache.values)
    assert sum(a.nbytes for a in pages) == 5 * BLOCK * config.kv_bytes_per_token(kv_type)
    assert all(a.ctypes.data % 64 == 0 and not a.any() for a in pages)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_heads_that_q8_0_does_not_fit_are_refused(backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    config = config_of(Shape(head_dim=80))
    with pytest.raises(RequestError, match=r"multiple of 32 values, this model's have 80; choose --kv-type f16"):
        make_backend(backend).cache(config, 1, BLOCK, "q8_0")


def test_too_little_memory_is_an_error_with_a_remedy() -> None:
    with pytest.raises(BackendError, match=r"too little memory for the key/value cache of .* smaller --ctx"):
        make_backend("cpu").cache(config_of(Shape()), 1 << 40, BLOCK, "f32")


def test_a_weight_that_does_not_fit_is_named() -> None:
    def load() -> np.ndarray:
        raise MemoryError

    for name in ("cpu", "torch"):
        if name == "torch":
            pytest.importorskip("torch", reason="the torch extra is not installed")
        with pytest.raises(BackendError, match=r"too little memory for layers\.3\.w"):
            make_backend(name).weight(LazyTensor("layers.3.w", (4, 64), types.Q8_0, load))


def test_threads_are_set_and_checked(threads: None) -> None:
    make_backend("cpu", threads=2)
    assert runtime.threads() == 2
    with pytest.raises(BackendError, match="0 threads"):
        make_backend("cpu", threads=0)


def test_rotary_tables_are_rounded_from_float64() -> None:
    """NumPy's float32 sine differs between processors in its last bit; the text must not."""
    batch = make_batch([([1] * 40, 5000, range(200))], 32)
    config = config_of(Shape())
    prepared = make_backend("cpu").prepare(batch, config, None)
    angles = np.float32(np.arange(5000, 5040))[:, None] * np.float32(config.inverse_frequencies())
    assert np.array_equal(prepared.cos, np.cos(np.float64(angles)).astype(np.float32))
    assert np.array_equal(prepared.sin, np.sin(np.float64(angles)).astype(np.float32))
