"""What two checkpoints must have in common after a conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_path

TEXTS = ("Once upon a time, a llama", "hi <|eot_id|> \n\n 12345 ü𝄞 </s>", "")


def converted(source: Checkpoint, path: Path, to: str, **options: object) -> Checkpoint:
    convert(source, path, to, **options)  # type: ignore[arg-type]
    return open_path(path)


def assert_same_weights(a: Checkpoint, b: Checkpoint, *, exact_types: bool = True) -> None:
    """The same tensors; with exact_types bit for bit, else by value (a norm may have changed its float type)."""
    assert set(a.tensors) == set(b.tensors)
    for name, tensor in a.tensors.items():
        other = b.tensors[name]
        assert tensor.shape == other.shape, name
        if exact_types:
            assert tensor.type == other.type, name
            assert np.array_equal(tensor.load(), other.load()), name
        else:
            assert np.array_equal(tensor.array(), other.array()), name


def assert_same_tokenizer(a: Checkpoint, b: Checkpoint) -> None:
    ours, theirs = a.load_tokenizer(), b.load_tokenizer()
    for text in TEXTS:
        ids = ours.encode(text, bos=True)
        assert ids == theirs.encode(text, bos=True)
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.bos_id == theirs.bos_id
    assert ours.vocab_size == theirs.vocab_size
    assert ours.special_ids == theirs.special_ids
