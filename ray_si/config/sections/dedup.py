"""Sections of what decides which instructions are new: the gate and its embedder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ray_si.config.sections.base import Section as _Section

_Share = Annotated[float, Field(ge=0, le=1)]
"""Of a GPU, for what can use no more than one."""


class EmbedderSection(_Section):
    """The model whose cosine similarity the second gate uses."""

    model: str = "all-minilm-l6-v2"
    """A bundled name, a folder, or a sentence-transformers name on the hub."""
    replicas: int = Field(1, ge=1)
    """Serve replicas; candidates are dealt to them block by block, as these are answered."""
    cpus: float = Field(0.5, ge=0)
    """Processor cores reserved for a replica."""
    gpus: _Share = 0.0
    """GPUs reserved for a replica; a share of one, which others may use too, or one."""


class Dedup(_Section):
    """The gate: what is too close to an earlier instruction is refused."""

    rouge: float = Field(0.7, gt=0, le=1)
    """Highest ROUGE-L F with any earlier instruction."""
    cosine: float | None = Field(0.9, gt=0, le=1)
    """Highest cosine similarity with any earlier instruction; off leaves this gate out."""
    tokenizer: Literal["auto", "reference", "unicode"] = "auto"
    """What ROUGE-L compares: auto, the words of any script, for ASCII the same as the paper's;
    reference, the paper's (a-z, 0-9) and nothing else; unicode, as earlier versions had it."""
    embedding_index: str = "exact"
    """How the cosine gate searches: exact, for what is above the threshold; or a FAISS factory
    string, for the nearest of all, whose cosine accepted rows then carry: Flat exactly too, at many
    times the cost, all others approximately."""
    most_similar: int = Field(0, ge=0, le=1000)
    """Nearest earlier instructions kept with each accepted one, and its mean ROUGE-L with the whole
    pool, with which it is compared for that (cost: benchmarks/gate.json). 0 is off."""
    shards: int = Field(1, ge=1)
    """Parts of the pool, each searched by an actor of its own; 1 is searched by the driver."""
    gpus: _Share = 0.0
    """GPUs, one or a share of it, reserved for each shard, which compares embeddings there; even a
    single shard is an actor then. 0 compares on processors; the decisions are the same."""

    @field_validator("cosine", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return None if value is False else value  # YAML reads "off" as false

    @model_validator(mode="after")
    def _consistent(self) -> Dedup:
        if self.gpus and self.cosine is None:
            raise ValueError("gpus is for the cosine: set cosine, or leave gpus out")
        if self.gpus and self.embedding_index != "exact":
            raise ValueError(
                f"gpus: embedding_index {self.embedding_index} is searched on processors; set it "
                "to exact, or leave gpus out"
            )
        return self
