"""What several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)  # a first call may compile
settings.load_profile("default")

REFERENCE = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The published reference data, where this checkout has it beside it."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference data is not here")
    return REFERENCE
