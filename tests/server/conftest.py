"""One server of the built-in model for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pronk
from support.serving import Running, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with pronk.load("cria") as llama, serving(llama) as running:
        yield running
