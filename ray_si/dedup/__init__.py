"""Global near-duplicate gates for text corpora: exact ROUGE-L, and embeddings.

A library of its own: nothing here knows of the rest of ray_si.

`RougeIndex` and `EmbeddingIndex` search, `Deduplicator` decides, `Forbidden` keeps test sets out.
"""

from ray_si.dedup.deduplicator import Deduplicator, DedupResult, Duplicate, Neighbours, warm_up
from ray_si.dedup.embedding_index import EmbeddingIndex
from ray_si.dedup.forbidden import CONTAMINATED, Forbidden, GuardedGate, decide_rest
from ray_si.dedup.rouge_index import RougeIndex, Similar

__all__ = [
    "CONTAMINATED",
    "DedupResult",
    "Deduplicator",
    "Duplicate",
    "EmbeddingIndex",
    "Forbidden",
    "GuardedGate",
    "Neighbours",
    "RougeIndex",
    "Similar",
    "decide_rest",
    "warm_up",
]
