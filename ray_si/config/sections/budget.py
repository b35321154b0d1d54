"""Section of the limits at which a run stops by itself."""

from __future__ import annotations

from pydantic import Field

from ray_si.config.sections.base import Section as _Section


class Budget(_Section):
    """Where a run stops by itself; with a higher limit the same build goes on."""

    tokens: int | None = Field(None, ge=1)
    """Most prompt and completion tokens of the whole run, resumes included."""
    dollars: float | None = Field(None, gt=0)
    """Most that they may cost, by ``generator.prices``."""
    hours: float | None = Field(None, gt=0)
    """Time after which a build asks for nothing more. One that was cut off leaves the rest of it to
    the next; after one that used it up, the next has as much again."""
    dollars_per_hour: float | None = Field(None, gt=0)
    """Most that the nodes of a cluster may cost an hour, by the prices that they tell (Ray's label
    ray-si/dollars-per-hour): where replicas would need more nodes than that, fewer are started."""
    unattended_minutes: float = Field(10.0, gt=0)
    """Time without a living driver after which its replicas and its requests for nodes end; a build
    that resumes within it goes on with them."""
