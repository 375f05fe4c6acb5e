"""Random requests by the server's own schema, right and wrong ones: none of them is the server's fault.

A few of each route by default, since each takes a while; the environment's PRONK_SCHEMA_EXAMPLES asks for more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable, UnsatisfiedAssumption
from schemathesis import GenerationMode

import pronk
from pronk.server.settings import ServerSettings
from support.serving import Running, serving

EXAMPLES = int(os.environ.get("PRONK_SCHEMA_EXAMPLES", "6"))
FORM = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def hurried() -> Iterator[Running]:
    """A server whose answers end early."""
    with (
        pronk.load("cria") as llama,
        serving(llama, settings=ServerSettings(request_seconds=0.05)) as running,
    ):
        yield running


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_the_server_s_fault(hurried: Running, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{hurried.url}/openapi.json")
    seen: Counter[tuple[str, int]] = Counter()
    for operation in (result.ok() for result in schema.get_all_operations()):

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            response = case.call()
            seen[case.path, response.status_code] += 1
            assert response.status_code < 500, response.text
            if response.status_code >= 400 and case.path.startswith("/v1"):
                assert set(response.json()["error"]) == FORM

        try:
            check()
        except (Unsatisfiable, UnsatisfiedAssumption):
            continue  # a route without parameters cannot be asked wrongly
    print(f"{mode.value}: {seen.total()} cases")  # `pytest -rP` shows it
    assert ("/v1/chat/completions", 400) in seen
    assert mode is GenerationMode.NEGATIVE or ("/v1/models", 200) in seen
