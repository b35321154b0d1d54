"""Global near-duplicate gates for text corpora: exact ROUGE-L, and embeddings.

A library of its own: nothing here knows of the rest of ray_si.

`RougeIndex` and `EmbeddingIndex` search, `Deduplicator` decides.
"""

from ray_si.dedup.deduplicator import Deduplicator, DedupResult, Duplicate, Neighbours, warm_up
from ray_si.dedup.embedding_index import EmbeddingIndex
from ray_si.dedup.rouge_index import RougeIndex, Similar

__all__ = [
    "DedupResult",
    "Deduplicator",
    "Duplicate",
    "EmbeddingIndex",
    "Neighbours",
    "RougeIndex",
    "Similar",
    "warm_up",
]
