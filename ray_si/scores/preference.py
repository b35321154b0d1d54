"""Pairs of answers to one prompt, the better and the worse by a score, as preference data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from ray_si.errors import RunError
from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.scores.answers import AnswerSource
from ray_si.scores.stored import StoredScores, Values
from ray_si.self_instruct.formats import Layout

LIKELIHOOD = "logprob"
"""Mean log-probability of an answer while it was written, which is stored with it."""

PAIRS = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("instruction_id", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
    ]
)
"""A prompt with two answers; ``id`` is that of its training row."""

_ANSWERS = ["id", "instruction", "input", "output", "instruction_id", "output_logprob"]


class PairSource(Source):
    """For each input with two different answers, the best and the worst by a score.

    ``by`` is `LIKELIHOOD`, or a score of all answers (`ray-si score --answers`), stored beside the
    run or at ``scores_at``. ``alone`` counts inputs without two answers that have different
    scores and say different things. Memory grows with the texts of the pairs.

    Raises RunError where there is no pair, ConfigError where there is no such score.
    """

    def __init__(self, run: Run, by: str = LIKELIHOOD, scores_at: str | None = None) -> None:
        super().__init__(run)
        answers = AnswerSource(run)
        scores = StoredScores(run, scores_at, of_answers=True)
        is_stored = by != LIKELIHOOD or by in scores.names
        stored = Values(scores.table(by)) if is_stored else None
        self.alone = 0
        self._pairs = [self._pairs_of(table, stored) for table in answers.tables(_ANSWERS)]
        self.rows = sum(len(table) for table in self._pairs)
        if not self.rows:
            raise RunError(
                f"{run.location} has no two different answers with a score to any of its "
                f"{self.alone} inputs: set instances.answers to 2 or more"
            )
        ids = pa.concat_tables(self._pairs)["instruction_id"]
        self.instructions = len(ids.unique())

    @property
    def schema(self) -> pa.Schema:
        """`PAIRS`."""
        return PAIRS

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The pairs, a shard's rows at a time."""
        for table in self._pairs:
            yield table.select(list(columns))

    def _pairs_of(self, answers: pa.Table, stored: Values | None) -> pa.Table:
        column = answers["output_logprob"]
        values = column.to_numpy() if stored is None else stored.of(answers["id"])
        scored = zip(answers.to_pylist(), values.tolist(), strict=True)
        pairs = []
        for row_id, group in groupby(scored, key=lambda item: item[0]["id"].rpartition(":")[0]):
            pair = _pair(row_id, [item for item in group if not np.isnan(item[1])])
            self.alone += pair is None
            if pair:
                pairs.append(pair)
        return pa.Table.from_pylist(pairs, PAIRS)


def _pair(row_id: str, scored: list[tuple[dict[str, Any], float]]) -> dict[str, Any] | None:
    """The best and the worst of the answers to an input; None where they do not differ."""
    if not scored:
        return None
    (best, high), (worst, low) = (pick(scored, key=lambda item: item[1]) for pick in (max, min))
    if high <= low or best["output"] == worst["output"]:
        return None
    return {
        **{name: best[name] for name in ("instruction", "input", "instruction_id")},
        "id": row_id,
        "chosen": best["output"],
        "rejected": worst["output"],
        "chosen_score": high,
        "rejected_score": low,
    }


def preference() -> Layout:
    """``prompt``, ``chosen`` and ``rejected`` as turns, and ``margin``, the difference in score.

    What TRL's DPO and reward trainers take, the latter with the margin in its loss.
    """
    columns = ("instruction", "input", "chosen", "rejected", "chosen_score", "rejected_score")
    return Layout("preference", columns, _rows)


def _rows(columns: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    names = ("instruction", "input", "chosen", "rejected", "chosen_score", "rejected_score")
    for instruction, input_, chosen, rejected, high, low in zip(
        *(columns[name] for name in names), strict=True
    ):
        yield {
            "prompt": [
                {"role": "user", "content": "\n\n".join(filter(None, (instruction, input_)))}
            ],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "margin": high - low,
        }
