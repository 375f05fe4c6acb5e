"""Perplexity on wikitext-2 against llama.cpp, on the same file, quantized by llama.cpp.

The model is stories260K, trained, in a form wide enough for K-quants. Both engines quantize the activations, each in
its own way, so the figures are near and not equal; ours may not be the worse by more than a thousandth.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pronk.backends import make_backend
from pronk.checkpoints.open import open_checkpoint
from pronk.model.llama import load_model
from pronk.model.perplexity import perplexity
from support.llama_cpp_peer import FILE_TYPES, Scored, quantize, score
from support.random_models import lazy_tensors
from support.running import relative_error, run
from support.stories import STORIES, stories_state, widened_stories, write_stories_gguf

if find_spec("llama_cpp") is None:  # not imported here: it opens files at import and never closes them
    pytest.skip("llama-cpp-python is not installed", allow_module_level=True)
pytest.importorskip("gguf", reason="the gguf package is not installed")

WINDOW = 256
HELD = {"F32", "F16", "Q8_0", "Q6_K", "Q4_K"}  # the older types' coarse steps leave more to chance
CHARACTERS = 16000  # some ten thousand tokens of this small vocabulary


@pytest.fixture(scope="module")
def wide_f32(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "wide-F32.gguf"
    return write_stories_gguf(path, shared_data, *widened_stories(shared_data))


@pytest.fixture(scope="module")
def peer(wide_f32: Path, shared_data: Path):  # type: ignore[no-untyped-def]
    """The file in a type and what llama.cpp says of it, made once for each type."""
    text = (shared_data / "text" / "wikitext-2" / "test.txt").read_text(encoding="utf-8")[:CHARACTERS]
    made: dict[str, tuple[Path, Scored]] = {}

    def get(type: str) -> tuple[Path, Scored]:
        if type not in made:
            path = wide_f32
            if type != "F32":
                path = quantize(wide_f32, wide_f32.with_name(f"wide-{type}.gguf"), type)
            made[type] = path, score(path, text, WINDOW)
        return made[type]

    return get


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_the_wide_model_is_the_trained_one(backend: str, shared_data: Path) -> None:
    """What all figures here rest on: widening changed nothing."""
    ops = make_backend(backend)
    small = load_model(STORIES, lazy_tensors(stories_state(shared_data)), ops)
    config, state = widened_stories(shared_data)
    tokens = [1, *range(260, 460)]
    wide = load_model(config, lazy_tensors(state), ops)
    assert relative_error(run(wide, tokens), run(small, tokens)) < 1e-5


@pytest.mark.parametrize(
    ("backend", "type"),
    [("torch", "F32"), ("torch", "Q8_0"), *(("cpu", type) for type in FILE_TYPES)],
)
def test_perplexity_is_llama_cpps(backend: str, type: str, peer) -> None:  # type: ignore[no-untyped-def]
    path, theirs = peer(type)
    checkpoint = open_checkpoint(path)
    types = {tensor.type.name for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2}
    assert types == {type}
    model = load_model(
        checkpoint.config, checkpoint.tensors, make_backend(backend, threads=1 if backend == "torch" else None)
    )
    ours = perplexity(model, theirs.tokens, WINDOW, bos_id=1)
    assert ours.tokens == len(theirs.scores)
    difference = ours.perplexity / theirs.perplexity - 1
    assert -3e-3 < difference < (1e-3 if type in HELD else 3e-3), f"{ours.perplexity}, theirs {theirs.perplexity}"
