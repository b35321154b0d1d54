"""What every section of a configuration refuses."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ray_si.config.sections.base import Section


class Pool(Section):
    """A section."""

    size: int = 4
    """How many."""
    share: float = 0.5
    is_warm: bool = False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sice": 4}, "Extra inputs"),
        ({"size": True}, "true and false .* are no value here"),
        ({"share": False}, "true and false"),
        ({"share": float("nan")}, "finite number"),
    ],
)
def test_what_was_not_meant_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        Pool(**values)


def test_a_section_is_frozen_and_its_fields_are_described_by_their_docstrings():
    pool = Pool(is_warm=True)
    with pytest.raises(ValidationError, match="frozen"):
        pool.size = 5
    assert Pool.model_fields["size"].description == "How many."
