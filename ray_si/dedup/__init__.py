"""Global near-duplicate gates for instruction corpora: exact ROUGE-L, and embeddings."""

from ray_si.dedup.deduplicator import Deduplicator, DedupResult, Duplicate, Nearest

__all__ = ["DedupResult", "Deduplicator", "Duplicate", "Nearest"]
