"""What a build selects by while it is under way."""

from __future__ import annotations

from pydantic import Field

from ray_si.config.sections.base import Section as _Section


class During(_Section):
    """When phase 1 has brought enough: so many rows that hold a condition."""

    by: str = Field(min_length=1)
    """The condition, as ``ray-si select --by`` takes it, over length, logprob and checks with their
    default settings and is_classification. Rows that do not hold it stay in the run."""
    rows: int = Field(ge=1)
    """How many rows are to hold it; target_instructions, a plateau and the budget still bound the
    run."""


class Select(_Section):
    """Selection while a run is built; `ray-si select` chooses from a finished one."""

    during: During | None = None
    """Ends phase 1 once so many rows hold a condition; none goes on to target_instructions."""
