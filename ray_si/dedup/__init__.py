"""Global near-duplicate gates for text corpora: exact ROUGE-L, and embeddings.

A library of its own: nothing here knows of the rest of ray_si.

`RougeIndex`, `CosineIndex` and `EmbeddingIndex` search, `Deduplicator` decides, `ExcludedTexts`
keeps evaluation sets out, `NgramIndex` finds texts inside longer ones.
"""

from ray_si.dedup.cosine import CosineIndex
from ray_si.dedup.deduplicator import Deduplicator, warm_up
from ray_si.dedup.embedding_index import EmbeddingIndex
from ray_si.dedup.exclusions import (
    CONTAMINATED,
    EMBEDDED,
    ExcludedTexts,
    GuardedGate,
    NgramIndex,
    decide_rest,
)
from ray_si.dedup.result import DedupResult, Duplicate, Neighbours
from ray_si.dedup.rouge_index import RougeIndex, Similar

__all__ = [
    "CONTAMINATED",
    "EMBEDDED",
    "CosineIndex",
    "DedupResult",
    "Deduplicator",
    "Duplicate",
    "EmbeddingIndex",
    "ExcludedTexts",
    "GuardedGate",
    "Neighbours",
    "NgramIndex",
    "RougeIndex",
    "Similar",
    "decide_rest",
    "warm_up",
]
