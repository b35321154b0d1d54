"""How long a text is."""

from __future__ import annotations

from collections.abc import Sequence

from ray_si.config.scores import LengthScore
from ray_si.scores.base import Row, Scored


class Length:
    """Words or characters of one of the row's texts."""

    version = 1

    def __init__(self, settings: LengthScore) -> None:
        self.columns = (settings.of,)
        self._words = settings.unit == "words"

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """See `RowScorer`."""
        texts = [row[self.columns[0]] for row in rows]
        return [Scored(float(len(text.split() if self._words else text))) for text in texts]
