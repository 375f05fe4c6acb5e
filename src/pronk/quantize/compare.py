"""What quantizing cost: how far a model's predictions are from those of the model it was made of.

Both read the same windows, and for each token of a window's second half (as for perplexity) their distributions are
compared, as llama.cpp's `llama-perplexity --kl-divergence` does. Natural logarithms; probabilities are 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.lora_reader import LoraSpec
from pronk.errors import RequestError
from pronk.model.llama import LlamaModel, load_model
from pronk.model.lora import applied
from pronk.model.ops import Backend
from pronk.model.perplexity import PAGE, second_half

Floats = NDArray[np.float64]

PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0)
_ROWS = 64  # of logits that are widened to float64 at a time


@dataclass(frozen=True)
class Comparison:
    """One model against the base. Arrays have one value a token scored.

    `kl` is the divergence KL(base || model), `agrees` whether both have the same most likely token, `shift` the
    model's probability of the text's own token minus the base's; `nll` and `base_nll` are -log of those probabilities.
    """

    name: str
    nbytes: int  # of the tensors
    bits_per_weight: float
    kl: Floats
    agrees: NDArray[np.bool_]
    shift: Floats
    nll: Floats
    base_nll: Floats

    @property
    def tokens(self) -> int:
        return len(self.kl)

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll.mean())

    @property
    def perplexity_ratio(self) -> float:
        return math.exp((self.nll - self.base_nll).mean())

    @property
    def perplexity_ratio_stderr(self) -> float:
        return self.perplexity_ratio * _stderr(self.nll - self.base_nll)

    def facts(self) -> dict[str, Any]:
        """All figures as JSON has them."""
        agreement = self.agrees.astype(np.float64)
        return {
            "model": self.name,
            "bytes": self.nbytes,
            "bits_per_weight": self.bits_per_weight,
            "tokens": self.tokens,
            "perplexity": self.perplexity,
            "perplexity_ratio": self.perplexity_ratio,
            "perplexity_ratio_stderr": self.perplexity_ratio_stderr,
            "kl": _spread(self.kl),
            "top1": float(agreement.mean()),
            "top1_stderr": _stderr(agreement),
            "shift": {**_spread(self.shift), "rms": math.sqrt(float(np.square(self.shift).mean())),
                      "largest": float(np.abs(self.shift).max())},
        }  # fmt: skip


def compare(
    base: Checkpoint,
    models: Sequence[Checkpoint],
    backend: Backend[Any],
    windows: Sequence[Sequence[int]],
    *,
    labels: Sequence[str] | None = None,
    kv_type: str = "f16",
    lora: LoraSpec | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Comparison]:
    """Each model against `base`, whose tokens the windows are; with `lora`, all of them with this adapter. `progress`
    is called with windows done, in all, and the first model's mean divergence. Raises RequestError for a vocabulary of
    another size."""
    for model in models:
        if model.config.vocab_size != base.config.vocab_size:
            raise RequestError(
                f"{model.path} has {model.config.vocab_size} tokens and {base.path} {base.config.vocab_size};"
                " their predictions cannot be compared"
            )
    running = [_Running(c, backend, max(map(len, windows)), kv_type, lora) for c in (base, *models)]
    rows: list[list[_Rows]] = [[] for _ in models]
    for done, window in enumerate(windows, 1):
        for reference, *others in zip(*(r.logits(window) for r in running), strict=True):
            logits, targets = reference
            for gathered, (other, _) in zip(rows, others, strict=True):
                gathered.append(compare_rows(logits, other, targets))
        if progress:
            progress(done, len(windows), float(np.concatenate([r.kl for r in rows[0]]).mean()))
    names = labels or [str(model.path) for model in models]
    return [_comparison(name, m, gathered) for name, m, gathered in zip(names, models, rows, strict=True)]


def divergence(
    reference: Sequence[NDArray[np.float32]], model: LlamaModel, cache: object, windows: Sequence[Sequence[int]]
) -> float:
    """The mean KL divergence of a loaded model from logits that were kept, one array (R, V) for each piece."""
    pieces = (piece for window in windows for piece in second_half(model, cache, window))
    kl = [compare_rows(kept, logits, targets).kl for kept, (logits, targets) in zip(reference, pieces, strict=True)]
    return float(np.concatenate(kl).mean())


@dataclass(frozen=True)
class _Rows:
    kl: Floats
    agrees: NDArray[np.bool_]
    shift: Floats
    nll: Floats
    base_nll: Floats


def compare_rows(base: NDArray[np.float32], model: NDArray[np.float32], targets: Sequence[int]) -> _Rows:
    """Logits (R, V) of both, and the tokens (R) that came."""
    at = np.asarray(targets)
    parts = [
        _compare_some(base[i : i + _ROWS], model[i : i + _ROWS], at[i : i + _ROWS]) for i in range(0, len(at), _ROWS)
    ]
    return _joined(parts)


def _compare_some(base: NDArray[np.float32], model: NDArray[np.float32], at: NDArray[np.int_]) -> _Rows:
    p, q = _log_softmax(base), _log_softmax(model)
    rows = np.arange(len(at))
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    own_p, own_q = p[rows, at], q[rows, at]
    return _Rows(
        kl=np.maximum(kl, 0.0),  # a rounding may be below
        agrees=p.argmax(axis=1) == q.argmax(axis=1),
        shift=np.exp(own_q) - np.exp(own_p),
        nll=-own_q,
        base_nll=-own_p,
    )


def _log_softmax(logits: NDArray[np.float32]) -> Floats:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def _joined(parts: Sequence[_Rows]) -> _Rows:
    names = ("kl", "agrees", "shift", "nll", "base_nll")
    return _Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _comparison(name: str, model: Checkpoint, gathered: Sequence[_Rows]) -> Comparison:
    rows = _joined(gathered)
    bits = 8 * model.nbytes / model.config.parameter_count()
    return Comparison(name, model.nbytes, bits, rows.kl, rows.agrees, rows.shift, rows.nll, rows.base_nll)


class _Running:
    def __init__(
        self, checkpoint: Checkpoint, backend: Backend[Any], window: int, kv_type: str, lora: LoraSpec | None
    ) -> None:
        model = load_model(checkpoint.config, checkpoint.tensors, backend)
        self._model = applied(model, lora) if lora else model
        self._cache = backend.cache(checkpoint.config, -(-window // PAGE), PAGE, kv_type)

    def logits(self, window: Sequence[int]) -> Any:
        return second_half(self._model, self._cache, window)


def _spread(values: Floats) -> dict[str, float]:
    """Mean, its standard error, extremes, and percentiles by names such as p99.9."""
    marks = np.percentile(values, PERCENTILES)
    return {
        "mean": float(values.mean()),
        "stderr": _stderr(values),
        "max": float(values.max()),
        **{f"p{percent:g}": float(mark) for percent, mark in zip(PERCENTILES, marks, strict=True)},
        "min": float(values.min()),
    }


def _stderr(values: Floats) -> float:
    return float(values.std() / math.sqrt(max(len(values) - 1, 1)))
