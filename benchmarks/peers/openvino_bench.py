"""OpenVINO's speed on one GGUF, which openvino-genai turns into a model of its own as it opens it. One JSON object.

Q4_0, Q4_1 and Q8_0 stay the integers they are; K types become integers of 4 or 8 bits; other types it refuses. Keys and
values are in its own default type. Prompts are random each time, so that its prefix cache finds nothing.

usage: openvino_bench.py FILE [-p 512] [-n 128] [-d 0] [-b 1] [-r 3] [--threads 2] [--sdpa]
"""

from __future__ import annotations

import json

import numpy as np
import openvino
import openvino_genai
from bench_script import parser, row


class Pipeline:
    """The opened model; generate() tells the seconds to the first tokens, and those of all that follow."""

    def __init__(self, path: str, *, threads: int, sdpa: bool) -> None:
        attention = {"ATTENTION_BACKEND": "SDPA"} if sdpa else {}
        self._pipeline = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads, **attention)
        self._random = np.random.default_rng(0)

    def generate(self, prompt: int, sequences: int, tokens: int) -> tuple[float, float]:
        """`tokens` for each of `sequences` after a prompt of ids from 0 to 255, which every vocabulary has."""
        ids = self._random.integers(0, 256, (sequences, prompt))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        metrics = self._pipeline.generate(inputs, config).perf_metrics
        first = metrics.get_ttft().mean / 1e3
        return first, metrics.get_generate_duration().mean / 1e3 - first


def measure(
    pipeline: Pipeline, prompt: int, decode: int, depth: int, sequences: int, repeats: int
) -> list[dict[str, object]]:
    """llama-bench's tests, but that tg follows on one token at least, and samples greedily."""
    if prompt and depth:
        raise SystemExit("a prompt after other tokens is not measured here")
    rows: list[dict[str, object]] = []
    pipeline.generate(32, sequences, 2)
    for name, count in ((f"pp{prompt}", prompt), (f"tg{decode}", decode)):
        if not count:
            continue
        speeds = []
        for _ in range(repeats):
            if name.startswith("pp"):
                seconds, _ = pipeline.generate(count, sequences, 1)
            else:
                _, seconds = pipeline.generate(max(depth, 1), sequences, count + 1)
            speeds.append(count * sequences / seconds)
        rows.append(row(name, depth, sequences, speeds))
    return rows


def main() -> None:
    options = parser(first_token="open, read eight tokens, make one, exit")
    options.add_argument("--sdpa", action="store_true", help="plain attention instead of its paged one")
    args = options.parse_args()
    pipeline = Pipeline(args.file, threads=args.threads, sdpa=args.sdpa)
    if args.first_token:
        pipeline.generate(8, 1, 1)
        return
    print(json.dumps({"rows": measure(pipeline, args.p, args.n, args.d, args.b, args.r)}))


if __name__ == "__main__":
    main()
