"""The formulas of --roofline, against cases that were reckoned by hand."""

from __future__ import annotations

import math

import pytest

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint
from pronk.model.roofline import Roofline, Work, roofline, steps
from pronk.model.speed import Workload
from pronk.native.peaks import Peaks

# cria: width 256, 4 layers, 8 heads of 32 on 4, feed-forward 768, 4096 tokens, tied; matrices in Q8_0, 9 norms in F32.
CRIA_BYTES = 4_465_664
CRIA_INNER = 4 * (256 * 256 + 2 * 128 * 256 + 256 * 256 + 3 * 768 * 256)
CRIA_OUTPUT = 4096 * 256
CRIA_KV = 2 * 4 * 4 * 32 * 2  # bytes of a position in f16

# Llama 3.2 1B: width 2048, 16 layers, 32 heads of 64 on 8, feed-forward 8192, 128256 tokens, tied.
LLAMA_INNER = 16 * (2048 * 2048 + 2 * 512 * 2048 + 2048 * 2048 + 3 * 8192 * 2048)
LLAMA_OUTPUT = 128256 * 2048
LLAMA_NORMS = 33 * 2048 * 4
LLAMA_KV = 2 * 16 * 8 * 64 * 2


def works(checkpoint: Checkpoint, workload: Workload, kv_type: str = "f16") -> list[Work]:
    return list(steps(checkpoint.config, checkpoint.tensors, workload, kv_type))


def attention(layers: int, heads: int, width: int, positions: int) -> int:
    return layers * heads * positions * (2 * width + 2 * width)


def test_cria_decodes() -> None:
    assert (CRIA_INNER, CRIA_OUTPUT) == (3_145_728, 1_048_576)
    found = works(open_checkpoint("cria"), Workload(decode=2, depth=10))
    products = 2 * (CRIA_INNER + CRIA_OUTPUT)
    assert found == [
        Work(CRIA_BYTES + 11 * CRIA_KV, products, attention(4, 8, 32, 11)),
        Work(CRIA_BYTES + 12 * CRIA_KV, products, attention(4, 8, 32, 12)),
    ]


def test_cria_reads_a_prompt_and_then_decodes() -> None:
    prompt, decode = works(open_checkpoint("cria"), Workload(prompt=3, decode=1))
    # three rows with every matrix but the output, which only the last one meets; 1 + 2 + 3 positions
    assert prompt == Work(CRIA_BYTES + 3 * CRIA_KV, 3 * 2 * CRIA_INNER + 2 * CRIA_OUTPUT, attention(4, 8, 32, 6))
    assert decode == Work(CRIA_BYTES + 4 * CRIA_KV, 2 * (CRIA_INNER + CRIA_OUTPUT), attention(4, 8, 32, 4))


def test_sequences_share_the_weights_and_nothing_else() -> None:
    (one,) = works(open_checkpoint("cria"), Workload(decode=1, depth=7))
    (three,) = works(open_checkpoint("cria"), Workload(decode=1, depth=7, sequences=3))
    assert three.bytes - CRIA_BYTES == 3 * (one.bytes - CRIA_BYTES) == 3 * 8 * CRIA_KV
    assert (three.int8, three.float32) == (3 * one.int8, 3 * one.float32)


def test_a_long_prompt_reads_the_weights_once_a_chunk() -> None:
    found = works(open_checkpoint("random:llama-3.2-1b:Q8_0"), Workload(prompt=700, depth=100))
    weights = (LLAMA_INNER + LLAMA_OUTPUT) // 32 * 34 + LLAMA_NORMS
    first, second = 512 * 100 + 512 * 513 // 2, 188 * 612 + 188 * 189 // 2
    assert found == [
        Work(weights + 612 * LLAMA_KV, 512 * 2 * LLAMA_INNER + 2 * LLAMA_OUTPUT, attention(16, 32, 64, first)),
        Work(weights + 800 * LLAMA_KV, 188 * 2 * LLAMA_INNER + 2 * LLAMA_OUTPUT, attention(16, 32, 64, second)),
    ]


def test_float_types_multiply_as_float() -> None:
    (found,) = works(open_checkpoint("random:llama-3.2-1b:BF16"), Workload(decode=1), "f32")
    assert found.bytes == 2 * (LLAMA_INNER + LLAMA_OUTPUT) + LLAMA_NORMS + 2 * LLAMA_KV
    assert found.int8 == 0
    assert found.float32 == 2 * (LLAMA_INNER + LLAMA_OUTPUT) + attention(16, 32, 64, 1)


def test_untied_embeddings_are_not_read() -> None:
    checkpoint = open_checkpoint("random:tiny:Q8_0")  # 4 layers of width 256, 512 tokens
    (found,) = works(checkpoint, Workload(decode=1), "q8_0")
    embeddings = 512 * 256 // 32 * 34
    assert found.bytes == checkpoint.nbytes - embeddings + 2 * 4 * 4 * 32 // 32 * 34


def test_keys_of_q8_0_are_multiplied_as_int8() -> None:
    cria, workload = open_checkpoint("cria"), Workload(decode=1, depth=99)
    (plain,), (rounded,) = works(cria, workload), works(cria, workload, "q8_0")
    assert plain.float32 == attention(4, 8, 32, 100)
    assert rounded.float32 == plain.float32 / 2
    assert rounded.int8 == plain.int8 + plain.float32 / 2


def test_the_least_time_is_the_longer_of_reading_and_computing() -> None:
    peaks = Peaks(bandwidth=100, int8=1000, float32=50)
    assert Work(bytes=200, int8=1000, float32=50).least(peaks) == (2, "bandwidth")
    assert Work(bytes=200, int8=2000, float32=50).least(peaks) == (3, "int8")
    assert Work(bytes=200, int8=1000, float32=100).least(peaks) == (3, "float32")


def test_the_roofline_of_cria() -> None:
    cria = open_checkpoint("cria")

    def of(workload: Workload, peaks: Peaks) -> Roofline:
        return roofline(cria.config, cria.tensors, workload, "f16", peaks)

    slow_memory, slow_products = Peaks(1e9, 1e15, 1e15), Peaks(1e15, 1e9, 1e15)
    decode = of(Workload(decode=2, depth=10), slow_memory)
    assert decode.limit == "bandwidth"
    assert decode.most_tokens_per_second == pytest.approx(2 / ((2 * CRIA_BYTES + 23 * CRIA_KV) / 1e9))
    assert decode.share(decode.most_tokens_per_second / 4) == pytest.approx(0.25)
    prompt = of(Workload(prompt=3, sequences=2), slow_products)
    assert prompt.limit == "int8"
    products = 2 * (3 * 2 * CRIA_INNER + 2 * CRIA_OUTPUT)
    assert prompt.most_tokens_per_second == pytest.approx(6 / (products / 1e9))
    # A prompt that is computed and tokens that are read: the time of both counts, the longer one is named.
    both = of(Workload(prompt=512, decode=1), Peaks(1e9, 1e12, 1e12))
    apart = [
        of(Workload(prompt=512), Peaks(1e9, 1e12, 1e12)),
        of(Workload(decode=1, depth=512), Peaks(1e9, 1e12, 1e12)),
    ]
    seconds = [512 / apart[0].most_tokens_per_second, 1 / apart[1].most_tokens_per_second]
    assert math.isclose(513 / both.most_tokens_per_second, sum(seconds))
    assert both.limit == apart[seconds.index(max(seconds))].limit
