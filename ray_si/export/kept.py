"""Which instances of a run become training rows, where its configuration leaves some out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_si.errors import RunError
from ray_si.run.instance_parts import read_blocks
from ray_si.run.run import Run
from ray_si.run.schemas import AnswerRow, InstanceRow


@dataclass(frozen=True)
class Kept:
    """Rows that are kept, as (instruction id, place), and why the others are not, counted.

    Reasons: per_instruction, per_opening (there were enough likelier ones), beyond_rows.
    """

    rows: frozenset[tuple[str, int]]
    left_out: dict[str, int]


@dataclass(frozen=True)
class Row:
    """An instance that may become a training row, with what it is ranked by."""

    id: str
    place: int
    opening: str | None
    has_input: bool
    answer_logprob: float | None
    instruction_logprob: float | None


def kept_rows(run: Run) -> Kept | None:
    """What ``output.keep`` keeps of a complete instance phase; None where it keeps everything.

    Memory grows with the rows, their texts apart.
    """
    config = run.header["config"]
    options = config.get("output", {}).get("keep")
    if options is None:
        return None
    return choose(_rows(run, config.get("bootstrap", {}).get("openings", ())), options)


def choose(rows: Sequence[Row], options: Mapping[str, Any]) -> Kept:
    """The rows that ``options``, the values of ``output.keep``, keep.

    Rows are ranked by the standardised log-probability of the answer; without an input that of the
    completion which gave the instruction is added. Ties stay in order. With ``input_share`` rows
    with an input are ranked apart, and where there are too few of one kind, the other fills up.
    """
    share = options["input_share"]
    kinds = [rows] if share is None else [[r for r in rows if r.has_input == k] for k in (1, 0)]
    parts = [_ranked(part) for part in kinds]
    left_out: Counter[str] = Counter()
    for limit, key in _LIMITS.items():
        if options[limit] is not None:
            within = [_first_of_each(part, key, options[limit]) for part in parts]
            left_out[limit] = sum(map(len, parts)) - sum(map(len, within))
            parts = within
    every = sum(map(len, parts))
    most = min(every, options["rows"] or every)
    if share is None:
        taken = parts[0][:most]
    else:
        given, alone = parts
        count = max(min(round(share * most), len(given)), most - len(alone))
        taken = given[:count] + alone[: most - count]
    left_out["beyond_rows"] = every - len(taken)
    counts = {reason: count for reason, count in sorted(left_out.items()) if count}
    return Kept(frozenset((row.id, row.place) for row in taken), counts)


_LIMITS: dict[str, Callable[[Row], str | None]] = {
    "per_instruction": lambda row: row.id,
    "per_opening": lambda row: row.opening,
}
"""Key of ``output.keep`` -> of what a row is one; None for none."""


def chosen_answers(run: Run, row: InstanceRow) -> list[AnswerRow]:
    """The answers that became a row's instances, one each; none where answers are not asked apart.

    Raises RunError where they are not as many as the instances.
    """
    chosen = [answer for answer in row.get("answers", ()) if answer["is_chosen"]]
    if chosen and len(chosen) != len(row["instances"]):
        raise RunError(
            f"{run.location} is damaged: chosen answers and instances disagree at {row['id']}"
        )
    return chosen


def _rows(run: Run, openings: list[str]) -> list[Row]:
    by_length = sorted(openings, key=len, reverse=True)
    accepted = (row for table in run.accepted(["mean_logprob"]) for row in table.to_pylist())
    decided = (row for block in read_blocks(run) for row in block.to_pylist())
    rows: list[Row] = []
    for source, row in zip(accepted, decided, strict=True):
        text = row["instruction"]
        opening = next((start for start in by_length if text.startswith(start)), None)
        chosen = chosen_answers(run, row)
        for place, instance in enumerate(row["instances"]):
            logprob = chosen[place]["mean_logprob"] if chosen else None
            has_input = bool(instance["input"])
            rows.append(Row(row["id"], place, opening, has_input, logprob, source["mean_logprob"]))
    return rows


def _ranked(rows: Sequence[Row]) -> list[Row]:
    worth = _standardised([row.answer_logprob for row in rows])
    of_instructions = _standardised([row.instruction_logprob for row in rows])
    worth += np.where([row.has_input for row in rows], 0.0, of_instructions)
    return [rows[i] for i in np.argsort(-worth, kind="stable")]


def _standardised(values: Sequence[float | None]) -> np.ndarray:
    """In standard deviations from the mean, shape (n,); the unknown below all others."""
    numbers = np.array(values, np.float64)
    is_known = np.isfinite(numbers)
    known = numbers[is_known]
    if not known.size:
        return np.zeros(len(numbers))
    scaled: np.ndarray = (numbers - known.mean()) / (known.std() or 1.0)
    scaled[~is_known] = scaled[is_known].min() - 1.0
    return scaled


def _first_of_each(ranked: list[Row], key: Callable[[Row], str | None], limit: int) -> list[Row]:
    seen: Counter[str] = Counter()
    kept = []
    for row in ranked:
        name = key(row)
        if name is None or seen[name] < limit:
            kept.append(row)
            seen[name or ""] += name is not None
    return kept
