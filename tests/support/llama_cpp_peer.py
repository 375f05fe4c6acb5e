"""llama.cpp as a peer: quantizes a GGUF, and scores a text by llama-perplexity's method.

Each call is a process of its own: a crash of the peer then fails one test and not the run, and its OpenMP does not meet
PyTorch's. Weights are not repacked: on some machines with AMX, llama.cpp's repacked kernels crash.
"""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K": 14,
    "Q5_K": 16,
    "Q6_K": 18,
}


@dataclass(frozen=True)
class Scored:
    tokens: list[int]  # of the whole text, bos in front
    scores: list[float]  # minus the log probability of each scored token

    @property
    def perplexity(self) -> float:
        return math.exp(sum(self.scores) / len(self.scores))


def quantize(source: Path, target: Path, type: str) -> Path:
    """Every matrix as `type`, by llama_model_quantize."""
    _run("quantize", source, target, type)
    return target


def score(model: Path, text: str, window: int) -> Scored:
    text_file = model.with_suffix(".txt")
    text_file.write_text(text, encoding="utf-8")
    return Scored(**json.loads(_run("score", model, text_file, window).splitlines()[-1]))


def _run(*words: object) -> str:
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"llama.cpp failed ({done.returncode}): {done.stderr[-2000:]}"
    return done.stdout


def _quantize(source: str, target: str, type: str) -> None:
    from llama_cpp import llama_cpp as lib

    params = lib.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = FILE_TYPES[type], True, 1
    sys.exit(lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


def _score(path: str, text_file: str, window: int) -> None:
    import numpy as np
    from llama_cpp import llama_cpp as lib

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.n_gpu_layers, model_params.use_extra_bufts = 0, False
    model = lib.llama_model_load_from_file(path.encode(), model_params)
    vocabulary = lib.llama_model_get_vocab(model)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = window
    params.n_threads = params.n_threads_batch = 1  # threads that wait for each other crawl on a busy machine
    context = lib.llama_init_from_model(model, params)

    data = Path(text_file).read_bytes()
    room = (lib.llama_token * (len(data) + 2))()
    tokens = list(room[: lib.llama_tokenize(vocabulary, data, len(data), room, len(room), True, False)])
    bos, size = lib.llama_vocab_bos(vocabulary), lib.llama_vocab_n_tokens(vocabulary)
    first, batch, scores = window // 2, lib.llama_batch_init(window, 0, 1), []
    for start in range(0, len(tokens) - window + 1, window):
        part = [bos, *tokens[start + 1 : start + window]]
        for i, token in enumerate(part):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
            batch.seq_id[i][0] = 0
        batch.n_tokens = window
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        if lib.llama_decode(context, batch):
            sys.exit("llama_decode failed")
        logits = np.ctypeslib.as_array(lib.llama_get_logits(context), (window, size))[first:-1].astype(np.float64)
        top = logits.max(-1, keepdims=True)
        chosen = logits[np.arange(len(logits)), part[first + 1 :]]
        scores += (np.log(np.exp(logits - top).sum(-1)) + top[:, 0] - chosen).tolist()
    print(json.dumps({"tokens": tokens, "scores": scores}))


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        _quantize(*sys.argv[2:5])
    _score(sys.argv[2], sys.argv[3], int(sys.argv[4]))
