"""Packages of an optional part are asked for before any of its work."""

from __future__ import annotations

import pytest

from ray_si.errors import EngineError
from ray_si.experiments.extras import need


def test_missing_packages_are_named_with_what_to_install():
    need("json")
    with pytest.raises(EngineError, match=r"needs absent_one, absent_two: pip install 'ray_si\["):
        need("absent_one", "json", "absent_two")
