"""stories260K, a trained model: 256 greedy tokens give the text on llama2.c's page, whatever the format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pronk.backends import make_backend
from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint
from pronk.model.llama import load_model
from support.running import greedy
from support.stories import documented_text, stories_folder


def tell(checkpoint: Checkpoint, backend: str) -> str:
    model = load_model(checkpoint.config, checkpoint.tensors, make_backend(backend))
    tokenizer = checkpoint.load_tokenizer()
    ids = greedy(model, tokenizer.encode("", bos=True), 256)
    return tokenizer.decode(ids).strip()


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_the_documented_text_from_the_original_file(backend: str, shared_data: Path) -> None:
    checkpoint = open_checkpoint(stories_folder(shared_data) / "stories260K.bin")
    assert tell(checkpoint, backend) == documented_text(shared_data)


@pytest.mark.parametrize("form", ["gguf", "hf", "meta 1", "meta 2", "meta 4"])
def test_the_documented_text_after_conversion(form: str, shared_data: Path, tmp_path: Path) -> None:
    from pronk.checkpoints.convert import convert

    to, _, shards = form.partition(" ")
    source = open_checkpoint(stories_folder(shared_data) / "stories260K.bin")
    target = tmp_path / ("model.gguf" if to == "gguf" else "model")
    convert(source, target, to, shards=int(shards or 1))
    converted = open_checkpoint(target)
    assert converted.format == to
    context = source.config.context_length  # Meta's params.json has no word for it
    assert replace(converted.config, context_length=context) == source.config
    assert tell(converted, "cpu") == documented_text(shared_data)
