"""The gate that a configuration asks for, wherever it decides: in a build, a dry run, an audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_si.config.schema import Dedup, RunConfig
from ray_si.dedup import Deduplicator, GuardedGate
from ray_si.dedup.deduplicator import Encoder
from ray_si.pipeline.contamination import excluded_texts
from ray_si.run.evaluation import EvaluationSet


def gate_options(dedup: Dedup, encode: Encoder | None = None) -> dict[str, Any]:
    """What a `Deduplicator` is made with; ``encode`` is needed where it embeds texts itself."""
    return {
        "rouge": dedup.rouge,
        "cosine": dedup.cosine,
        "encoder": encode,
        "tokenizer": dedup.tokenizer,
        "embedding_index": dedup.embedding_index,
        "most_similar": dedup.most_similar,
    }


def guarded(
    gate: Deduplicator,
    config: RunConfig,
    sets: Sequence[EvaluationSet],
    encode: Encoder | None = None,
) -> Deduplicator | GuardedGate:
    """The gate behind the evaluation sets, where there are any."""
    if not sets:
        return gate
    encoder = None if config.dedup.cosine is None else encode
    return GuardedGate(excluded_texts(config, sets, encoder), gate, encoder)
