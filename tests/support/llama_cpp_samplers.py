"""llama.cpp's samplers, run on rows of logits in a process of their own (see `llama_cpp_peer.py`)."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def apply(cases: list[dict[str, Any]], vocabulary: Path) -> list[dict[int, float]]:
    """What is left of each case's "logits" after its "chain" of (name, arguments): logits by token id.

    "history": tokens that the samplers have accepted before. `vocabulary` is a GGUF, which DRY's breakers need.
    """
    words = [sys.executable, __file__, str(vocabulary)]
    done = subprocess.run(words, input=json.dumps(cases), capture_output=True, text=True)
    assert done.returncode == 0, f"llama.cpp failed ({done.returncode}): {done.stderr[-2000:]}"
    return [{int(i): z for i, z in row} for row in json.loads(done.stdout.splitlines()[-1])]


def _main(path: str) -> None:
    from llama_cpp import llama_cpp as lib

    params = lib.llama_model_default_params()
    params.vocab_only = True
    vocabulary = lib.llama_model_get_vocab(lib.llama_model_load_from_file(path.encode(), params))

    def make(name: str, arguments: list[Any]) -> Any:
        if name == "dry":
            *numbers, breakers = arguments
            texts = (ctypes.c_char_p * len(breakers))(*(text.encode() for text in breakers))
            return lib.llama_sampler_init_dry(vocabulary, *numbers, texts, len(breakers))
        return getattr(lib, f"llama_sampler_init_{name}")(*arguments)

    results = []
    for case in json.load(sys.stdin):
        logits = case["logits"]
        data = (lib.llama_token_data * len(logits))()
        for i, logit in enumerate(logits):
            data[i].id, data[i].logit, data[i].p = i, logit, 0.0
        row = lib.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
        for name, arguments in case["chain"]:
            sampler = make(name, arguments)
            for token in case.get("history", ()):
                lib.llama_sampler_accept(sampler, token)
            lib.llama_sampler_apply(sampler, ctypes.byref(row))
            lib.llama_sampler_free(sampler)
        left = [(row.data[i].id, row.data[i].logit) for i in range(row.size)]
        results.append([(i, z) for i, z in left if z > -1e30])
    print(json.dumps(results))


if __name__ == "__main__":
    _main(sys.argv[1])
