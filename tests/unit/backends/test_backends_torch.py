"""The torch backend's borders: devices, types, memory, and the cases of its attention."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pronk.backends import make_backend
from pronk.errors import BackendError, RequestError
from pronk.model.batch import make_batch
from pronk.model.llama import load_model
from pronk.tensors import codec, types
from pronk.tensors.lazy import LazyTensor
from support.random_models import Shape, config_of, lazy_tensors, meta_state, random_llama
from support.running import BLOCK, run, run_ragged

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

SHAPE = Shape(n_layers=1)
TOKENS = list(range(3, 43))


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return meta_state(random_llama(SHAPE), SHAPE)


def lazy(array: np.ndarray, type: types.TensorType = types.F32) -> LazyTensor:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    data.flags.writeable = False
    return LazyTensor("w", array.shape, type, lambda: data, mapped=True)


def test_names_and_defaults() -> None:
    backend = make_backend("torch")
    assert backend.name == "torch"
    assert backend.dtype == torch.float32
    assert make_backend("torch", dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("tpu", {}, "unknown backend 'tpu', expected one of cpu, torch, cuda, mps"),
        ("mps:3", {}, "unknown backend 'mps:3'"),
        ("cpu", {"dtype": "float32"}, "computes in the types of the file"),
        ("torch", {"dtype": "int8"}, "unknown dtype 'int8', expected one of float64, float32"),
        ("cuda:99", {}, "no device 'cuda:99' .* which has: .*cpu"),
        ("cuda:x", {}, "no device 'cuda:x'"),
    ],
)
def test_what_is_not_here_is_refused(name: str, more: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        make_backend(name, **more)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_gpu_says_what_is_there() -> None:
    with pytest.raises(BackendError, match=r"no device 'cuda' for PyTorch .* which has: cpu"):
        make_backend("cuda")


def test_without_pytorch_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["torch"] = None
from pronk.backends import make_backend
from pronk.errors import BackendError, RequestError
try:
    make_backend("torch")
except BackendError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'pronk[torch]'" in answer.stdout


def test_choosing_a_backend_imports_no_other() -> None:
    code = "import sys, pronk.backends, pronk.model.llama; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_float32_weights_stay_where_the_file_is_mapped() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = lazy(array)
    weight = make_backend("torch").weight(tensor)
    assert weight.value.shape == (3, 4)
    assert weight.value.data_ptr() == tensor.load().ctypes.data


def test_weights_at_an_odd_address_are_read_right() -> None:
    room = np.zeros(4 * 6 + 1, np.uint8)
    room[1:] = np.arange(6, dtype=np.float32).view(np.uint8)
    weight = make_backend("torch").weight(LazyTensor("w", (2, 3), types.F32, lambda: room[1:]))
    assert weight.value.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_sixteen_bit_weights_keep_their_bits() -> None:
    values = torch.tensor([[1.0, -2.5], [3.140625, 1e-8]])
    bf16 = lazy(values.to(torch.bfloat16).view(torch.int16).numpy(), types.BF16)
    assert torch.equal(make_backend("torch", dtype="bfloat16").weight(bf16).value, values.to(torch.bfloat16))
    f16 = lazy(values.to(torch.float16).numpy(), types.F16)
    assert torch.equal(make_backend("torch", dtype="float64").weight(f16).value, values.half().double())


def test_the_caches_type() -> None:
    config = config_of(SHAPE)

    def dtype(kv_type: str, compute: str) -> object:
        cache = make_backend("torch", dtype=compute).cache(config, 3, BLOCK, kv_type)
        assert cache.keys[0].data.shape == cache.values[0].data.shape == (3, 2, BLOCK, 8)
        return cache.keys[0].data.dtype

    assert dtype("f16", "float32") == torch.float16
    assert dtype("f16", "bfloat16") == torch.bfloat16
    assert dtype("f32", "float16") == torch.float32
    assert dtype("f16", "float64") == torch.float64
    with pytest.raises(RequestError, match=r"'q4_0', expected one of f16, f32, q8_0"):
        make_backend("torch").cache(config, 1, BLOCK, "q4_0")


def test_a_q8_0_cache_holds_what_a_file_would() -> None:
    pages = make_backend("torch").cache(config_of(Shape(head_dim=64)), 4, BLOCK, "q8_0").keys[0]
    x = np.random.default_rng(0).standard_normal((9, 2, 64), np.float32)
    x[3], x[5, 0], x[6, 0, :6] = 0, 1e-9, [127, 0.5, -0.5, 1.5, -2.5, 126.5]
    places = torch.arange(9)
    pages.write(places % 4, places, torch.from_numpy(x))
    kept = codec.decode(codec.encode(x, types.Q8_0), types.Q8_0).reshape(x.shape)
    found = pages.read(places % 4, torch.float32)[places, :, places]
    np.testing.assert_array_equal(found.numpy(), kept)
    assert pages.data.nbytes + pages.scales.nbytes == 4 * BLOCK * 2 * 64 * 34 // 32


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_q8_0_is_near_in_every_cut(dtype: str) -> None:
    config = config_of(Shape(n_layers=2, dim=64, head_dim=32))
    random = np.random.default_rng(1)
    state = {name: random.standard_normal(size).astype(np.float32) / 8 for name, size in config.tensor_shapes().items()}
    model = load_model(config, lazy_tensors(state), make_backend("torch", dtype=dtype))
    exact = run(model, TOKENS)
    for chunks in ([], [1], [20, 7]):
        assert np.abs(run(model, TOKENS, chunks, "q8_0") - exact).max() < 0.05 * np.abs(exact).max()


def test_too_little_memory_is_an_error_with_a_remedy() -> None:
    with pytest.raises(BackendError, match=r"too little memory for the key/value cache of .* smaller --ctx"):
        make_backend("torch").cache(config_of(SHAPE), 1 << 46, BLOCK, "f32")


def test_only_the_wanted_logits_are_computed(state: dict[str, np.ndarray]) -> None:
    model = load_model(config_of(SHAPE), lazy_tensors(state), make_backend("torch"))
    cache = model.ops.cache(model.config, 8, BLOCK, "f32")
    chunks = [(TOKENS[:9], 0, [0]), (TOKENS[:12], 0, [1]), (TOKENS[5:6], 0, [2])]
    every = model.forward(make_batch(chunks, BLOCK, all_logits=True), cache)
    some = model.forward(make_batch(chunks, BLOCK, wants_logits=[1, 0, 1]), cache)
    np.testing.assert_allclose(some, every[[8, 21]], rtol=1e-5, atol=1e-5)
    none = model.forward(make_batch(chunks, BLOCK, wants_logits=[0, 0, 0]), cache)
    assert none.shape == (0, 320)
    assert none.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_near(state: dict[str, np.ndarray], dtype: str) -> None:
    config, tensors = config_of(SHAPE), lazy_tensors(state)
    exact = run(load_model(config, tensors, make_backend("torch", dtype="float64")), TOKENS)
    half = load_model(config, tensors, make_backend("torch", dtype=dtype))
    for logits in (run(half, TOKENS, kv_type="f16"), run(half, TOKENS, [20], kv_type="f16")):
        assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_float64_is_the_same_in_every_cut(state: dict[str, np.ndarray]) -> None:
    model = load_model(config_of(SHAPE), lazy_tensors(state), make_backend("torch", dtype="float64"))
    whole = run(model, TOKENS)
    np.testing.assert_allclose(run(model, TOKENS, [1, 17, 16]), whole, rtol=1e-6, atol=1e-6)
    parts = run_ragged(model, [TOKENS, TOKENS[:20], TOKENS[:2]], [[1, 19, 0], [30, 1, 1], [8, 0, 0], [1, 0, 1]])
    np.testing.assert_allclose(parts[0], whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(parts[1], whole[:20], rtol=1e-6, atol=1e-6)


def test_a_page_that_was_used_before_leaves_no_trace(state: dict[str, np.ndarray]) -> None:
    model = load_model(config_of(SHAPE), lazy_tensors(state), make_backend("torch"))
    cache = model.ops.cache(model.config, 2, BLOCK, "f32")
    batch = make_batch([(TOKENS[:5], 0, [1])], BLOCK)
    fresh = model.forward(batch, cache)
    model.forward(make_batch([(TOKENS[::-1][:30], 0, [1, 0])], BLOCK), cache)
    np.testing.assert_allclose(model.forward(batch, cache), fresh, rtol=1e-6, atol=1e-6)
