"""How much the other answers to the same input agree with the output."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from ray_si.config.scores import AgreementScore
from ray_si.dedup.rouge import rouge_l
from ray_si.engines import registry
from ray_si.scores.answers import OTHERS
from ray_si.scores.base import Row, Scored

_EMPHASIS = re.compile(r"([*_`]{1,3})(.+)\1")
_MARKS = {"Po", "Pi", "Pf", "Ps", "Pe"}
"""Unicode's categories of marks that end and enclose sentences, in all scripts."""

_MEANT = "#%&*/@\\[]{}"
"""Of these categories, but part of a label: C#, 50%, A*."""

NO_OTHER = "one_answer"
"""Reason of a row to whose input there is no other answer."""


class Agreement:
    """The mean over the other answers of a measure of likeness with the output, 0 to 1.

    Of labels, the share that is the same but for case, spacing, and marks and quotes around them;
    of texts, ROUGE-L F over words or the cosine of embeddings.
    """

    columns = ("output", "is_classification", OTHERS)

    def __init__(self, settings: AgreementScore) -> None:
        """Raises EngineError where the embedder is not there."""
        self._measure = settings.measure
        self.version = 2 if settings.measure in ("auto", "exact") else 1
        self._embedder = None
        if settings.measure == "cosine":
            registry.check_embedder(settings.embedder)
            self._embedder = registry.embedder(settings.embedder)

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """See `RowScorer`."""
        if self._embedder is not None:
            return self._by_cosine(rows)
        return [
            Scored(float(np.mean([self._likeness(row, other) for other in row[OTHERS]])))
            if row[OTHERS]
            else Scored(None, NO_OTHER)
            for row in rows
        ]

    def _likeness(self, row: Row, other: str) -> float:
        exact = self._measure == "exact"
        if exact or (self._measure == "auto" and row["is_classification"]):
            return float(_normal(row["output"]) == _normal(other))
        return float(rouge_l(row["output"], other))

    def _by_cosine(self, rows: Sequence[Row]) -> list[Scored]:
        assert self._embedder is not None
        texts = dict.fromkeys(text for row in rows for text in (row["output"], *row[OTHERS]))
        vectors = dict(zip(texts, self._embedder.encode(list(texts)), strict=True)) if texts else {}
        return [
            Scored(
                float(np.mean([vectors[row["output"]] @ vectors[other] for other in row[OTHERS]]))
            )
            if row[OTHERS]
            else Scored(None, NO_OTHER)
            for row in rows
        ]


def _normal(text: str) -> str:
    """A label as it is compared; one that is nothing but marks stays what it is."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = _bare(folded)
    if emphasised := _EMPHASIS.fullmatch(bare):
        bare = _bare(emphasised[2])
    return bare or folded


def _bare(text: str) -> str:
    """Without marks at either end; a point before a number is none."""
    start, end = 0, len(text)
    while start < end and text[start] != "." and _is_mark(text[start]):
        start += 1
    while start < end and _is_mark(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_mark(character: str) -> bool:
    is_space = character.isspace()
    return is_space or (unicodedata.category(character) in _MARKS and character not in _MEANT)
