"""Sections of what is written in the end: the rows, and the card that tells of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ray_si.config.sections.base import Section as _Section


class Keep(_Section):
    """Which instances become training rows, the likeliest first; all stay in the run."""

    rows: int | None = Field(None, ge=1)
    """Most rows; none keeps all that the limits below let pass."""
    input_share: float | None = Field(None, ge=0, le=1)
    """Share of those rows that have an input, as far as there are enough of either; none ranks
    both kinds together."""
    per_opening: int | None = Field(None, ge=1)
    """Most rows whose instruction begins with the same one of bootstrap.openings."""
    per_instruction: int | None = Field(None, ge=1)
    """Most rows of an instruction."""


class Output(_Section):
    """Phase 4: the training rows."""

    format: Literal["parquet", "jsonl", "both"] = "parquet"
    """File format of the shards."""
    rows_per_shard: int = Field(10_000, ge=1)
    """Rows in a shard; the last has fewer."""
    keep: Keep | None = None
    """Leaves rows out, by rank; none keeps every instance. Needs instances.method steps."""


class Card(_Section):
    """What only you can say in the dataset's card; results do not depend on it."""

    title: str | None = Field(None, min_length=1)
    """Title of the dataset; none names it after its fingerprint."""
    license: str | None = Field(None, min_length=1)
    """Identifier as the hub knows it, such as cc-by-4.0; none says that none was chosen."""
    language: tuple[str, ...] = ()
    """Codes of the languages of its texts, such as en."""
    tags: tuple[str, ...] = ()
    """Tags besides synthetic and self-instruct."""
    description: str = ""
    """Markdown that the card begins with."""

    @field_validator("language", "tags", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value
