"""`import pronk` loads nothing heavy, and every name it promises is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pronk

HEAVY = {
    "numpy",
    "torch",
    "transformers",
    "tiktoken",
    "sentencepiece",
    "tokenizers",
    "jinja2",
    "rich",
    "prompt_toolkit",
}


def test_importing_pronk_loads_nothing_heavy() -> None:
    script = "import sys, pronk; pronk.__version__; dir(pronk); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
    assert [name for name in loaded if name.startswith("pronk")] == ["pronk"]


def test_the_api_works_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import pronk.api, pronk.meta; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"transformers", "rich", "prompt_toolkit", "jinja2", "huggingface_hub"} & set(loaded)


@pytest.mark.parametrize("name", pronk.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(pronk, name) is not None
    assert name in dir(pronk)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pronk' has no attribute 'nonsense'"):
        _ = pronk.nonsense


def test_the_version_is_the_package_s() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    assert found[1] == pronk.__version__
