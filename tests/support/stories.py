"""The trained stories260K model: as it is, and embedded exactly into a model wide enough for K-quants.

Random weights hide errors that trained ones show, and a K-quant needs rows of 256 values where stories260K has 64. So
the residual stream is padded to 256 and turned by a random rotation, which RMSNorm without gains does not notice: the
rows become dense, and the logits stay what they were.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from pronk.config import ModelConfig
from support.random_models import Shape, write_gguf_file

State = dict[str, np.ndarray]

STORIES = ModelConfig(
    dim=64, n_layers=5, n_heads=8, n_kv_heads=4, head_dim=8, ffn_dim=172, vocab_size=512, context_length=512,
    norm_eps=1e-5, tied_output=True,
)  # fmt: skip
WIDE = ModelConfig(
    dim=256, n_layers=5, n_heads=32, n_kv_heads=16, head_dim=8, ffn_dim=256, vocab_size=512, context_length=512,
    norm_eps=1e-5 * 64 / 256,
)  # fmt: skip


def stories_folder(shared_data: Path) -> Path:
    return shared_data / "weights" / "stories260K"


def documented_text(shared_data: Path) -> str:
    """What greedy sampling of 256 tokens prints, by llama2.c's own page."""
    page = (stories_folder(shared_data) / "stories260K.md").read_text(encoding="utf-8")
    block = page.split("-t 0.0\n")[1]
    return block.split("\n```")[0]


def stories_state(shared_data: Path) -> State:
    """The arrays of stories260K.bin by Meta's names, read here without our reader (llama2.c, `memory_map_weights`)."""
    data = (stories_folder(shared_data) / "stories260K.bin").read_bytes()
    values = np.frombuffer(data, np.float32, offset=28)
    c, layers = STORIES, STORIES.n_layers
    assert struct.unpack("<7i", data[:28]) == (c.dim, c.ffn_dim, layers, c.n_heads, c.n_kv_heads, 512, 512)
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    state: State = {"tok_embeddings.weight": values[: 512 * c.dim].reshape(512, c.dim)}
    at = 512 * c.dim
    for name, shape in (
        ("attention_norm", (c.dim,)), ("attention.wq", (q, c.dim)), ("attention.wk", (kv, c.dim)),
        ("attention.wv", (kv, c.dim)), ("attention.wo", (c.dim, q)), ("ffn_norm", (c.dim,)),
        ("feed_forward.w1", (c.ffn_dim, c.dim)), ("feed_forward.w2", (c.dim, c.ffn_dim)),
        ("feed_forward.w3", (c.ffn_dim, c.dim)),
    ):  # fmt: skip
        for layer in range(layers):
            count = math.prod(shape)
            state[f"layers.{layer}.{name}.weight"] = values[at : at + count].reshape(shape)
            at += count
    state["norm.weight"] = values[at : at + c.dim]
    return state


def widened_stories(shared_data: Path, seed: int = 0) -> tuple[ModelConfig, State]:
    """WIDE and its arrays by Meta's names: the same function of the tokens as stories260K.

    The heads and feed-forward rows that are added multiply by zeros in wv and w3; what meets those zeros is filled with
    noise, so that no block of a quantized row is trivial for want of values.
    """
    small, random = stories_state(shared_data), np.random.default_rng(seed)
    rotation = np.linalg.qr(random.standard_normal((WIDE.dim, WIDE.dim)))[0]
    wide: State = {"tok_embeddings.weight": _pad(small["tok_embeddings.weight"], columns=WIDE.dim) @ rotation.T}

    def reading(weight: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """(out, 64) after a gained norm -> (out, 256) after a plain one, whose mean is over four times the values."""
        return (
            _pad(weight * (gain.astype(np.float64) * math.sqrt(STORIES.dim / WIDE.dim)), columns=WIDE.dim) @ rotation.T
        )

    def writing(weight: np.ndarray) -> np.ndarray:
        return rotation @ _pad(weight, rows=WIDE.dim)

    def noisy(weight: np.ndarray, **size: int) -> np.ndarray:
        scale = float(weight.std())
        return _pad(weight, **size, fill=lambda shape: scale * random.standard_normal(shape))

    q, kv = WIDE.n_heads * WIDE.head_dim, WIDE.n_kv_heads * WIDE.head_dim
    for i in range(WIDE.n_layers):
        at = f"layers.{i}."
        layer = {name.removeprefix(at).removesuffix(".weight"): array for name, array in small.items() if at in name}
        gain = layer["attention_norm"]
        wide[at + "attention.wq.weight"] = noisy(reading(layer["attention.wq"], gain), rows=q)
        wide[at + "attention.wk.weight"] = noisy(reading(layer["attention.wk"], gain), rows=kv)
        wide[at + "attention.wv.weight"] = _pad(reading(layer["attention.wv"], gain), rows=kv)
        wide[at + "attention.wo.weight"] = noisy(writing(layer["attention.wo"]), columns=q)
        gain = layer["ffn_norm"]
        wide[at + "feed_forward.w1.weight"] = noisy(reading(layer["feed_forward.w1"], gain), rows=WIDE.ffn_dim)
        wide[at + "feed_forward.w3.weight"] = _pad(reading(layer["feed_forward.w3"], gain), rows=WIDE.ffn_dim)
        wide[at + "feed_forward.w2.weight"] = noisy(writing(layer["feed_forward.w2"]), columns=WIDE.ffn_dim)
        wide[at + "attention_norm.weight"] = wide[at + "ffn_norm.weight"] = np.ones(WIDE.dim)
    wide["output.weight"] = reading(small["tok_embeddings.weight"], small["norm.weight"])
    wide["norm.weight"] = np.ones(WIDE.dim)
    return WIDE, {name: array.astype(np.float32) for name, array in wide.items()}


def _pad(weight: np.ndarray, rows: int = 0, columns: int = 0, fill=np.zeros) -> np.ndarray:  # type: ignore[no-untyped-def]
    """weight in the upper left corner of (rows, columns); a size of 0 stays as it is."""
    out = fill((rows or weight.shape[0], columns or weight.shape[1]))
    out[: weight.shape[0], : weight.shape[1]] = weight
    return np.asarray(out, np.float64)


_GGUF = {
    "attention_norm": "attn_norm", "attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v",
    "attention.wo": "attn_output", "ffn_norm": "ffn_norm", "feed_forward.w1": "ffn_gate", "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up", "tok_embeddings": "token_embd", "norm": "output_norm", "output": "output",
}  # fmt: skip


def write_stories_gguf(path: Path, shared_data: Path, config: ModelConfig, state: State) -> Path:
    """An F32 GGUF with stories260K's own vocabulary of 512 pieces, by the gguf package."""
    pieces, scores = _pieces(stories_folder(shared_data) / "tok512.bin")
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 259)]
    shape = Shape(
        dim=config.dim, n_layers=config.n_layers, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim, ffn_dim=config.ffn_dim, vocab_size=config.vocab_size, context=config.context_length,
        eps=config.norm_eps,
    )  # fmt: skip
    renamed = {}
    for name, array in state.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("layers."):
            _, layer, part = stem.split(".", 2)
            renamed[f"blk.{layer}.{_GGUF[part]}.weight"] = array
        else:
            renamed[f"{_GGUF[stem]}.weight"] = array
    return write_gguf_file(path, shape, renamed, pieces, scores, kinds)


def _pieces(path: Path) -> tuple[list[bytes], list[float]]:
    """llama2.c's flat vocabulary -> sentencepiece's spelling, as GGUF holds it."""
    data, at = path.read_bytes(), 4
    pieces, scores = [], []
    for i in range(512):
        score, length = struct.unpack_from("<fi", data, at)
        piece = data[at + 8 : at + 8 + length]
        at += 8 + length
        pieces.append([b"<unk>", b"<s>", b"</s>"][i] if i < 3 else piece.replace(b" ", "\u2581".encode()))
        scores.append(score)
    return pieces, scores
