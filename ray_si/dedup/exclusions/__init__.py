"""Texts that nothing may resemble or hold."""

from ray_si.dedup.exclusions.ngrams import NgramIndex
from ray_si.dedup.exclusions.texts import (
    CONTAMINATED,
    EMBEDDED,
    ExcludedTexts,
    GuardedGate,
    decide_rest,
)

__all__ = [
    "CONTAMINATED",
    "EMBEDDED",
    "ExcludedTexts",
    "GuardedGate",
    "NgramIndex",
    "decide_rest",
]
