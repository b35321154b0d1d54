"""Exact search by cosine similarity above a threshold."""

from ray_si.dedup.cosine.index import CosineIndex

__all__ = ["CosineIndex"]
