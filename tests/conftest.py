"""Fixtures that any test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test depends on how fast the machine is at that moment; hypothesis would fail one that takes 200 ms.
settings.register_profile("pronk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pronk")

sys.path.insert(0, str(Path(__file__).parent))  # tests/support is importable as `support`

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tokenizers, weights and texts that lie beside the repository; tests that need them skip without."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no test data at {SHARED_DATA.name} beside the repository")
    return SHARED_DATA
