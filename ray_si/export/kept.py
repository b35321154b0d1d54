"""Which instances of a run become training rows, where its configuration leaves some out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_si.errors import RunError
from ray_si.run.instance_parts import read_blocks
from ray_si.run.run import Run
from ray_si.run.schemas import AnswerRow, InstanceRow


@dataclass(frozen=True, eq=False)
class Kept:
    """Which instances are kept, and why the others are not, counted.

    ``is_kept`` is of all in pool order, shape (instances,); those of the accepted instruction at a
    place begin at ``starts[place]``, of shape (instructions + 1,). Reasons: per_instruction,
    per_opening (there were enough likelier ones), beyond_rows.
    """

    is_kept: np.ndarray
    starts: np.ndarray
    left_out: dict[str, int]

    @property
    def rows(self) -> int:
        """Instances that are kept."""
        return int(np.count_nonzero(self.is_kept))

    def of(self, place: int, count: int = 1) -> np.ndarray:
        """Whether each instance of ``count`` instructions is kept, from that at a place on.

        Of as many of these as there are.
        """
        first, last = self.starts[np.minimum([place, place + count], len(self.starts) - 1)]
        found: np.ndarray = self.is_kept[first:last]
        return found


@dataclass(frozen=True, eq=False)
class Ranked:
    """By what instances are ranked and limited, in pool order; each of shape (instances,).

    ``instruction`` and ``opening`` number theirs, -1 for no opening. Log-probabilities are those of
    the answer, and of the completion that gave the instruction; NaN where they are unknown.
    """

    instruction: np.ndarray
    opening: np.ndarray
    has_input: np.ndarray
    answer_logprob: np.ndarray
    instruction_logprob: np.ndarray


def kept_rows(run: Run) -> Kept | None:
    """What ``output.keep`` keeps of a complete instance phase; None where it keeps everything.

    Memory grows with the instances, their texts apart. Raises RunError where blocks and accepted
    instructions do not agree.
    """
    config = run.header["config"]
    options = config.get("output", {}).get("keep")
    if options is None:
        return None
    ranked, starts = _read(run, config.get("bootstrap", {}).get("openings", ()))
    is_kept, left_out = choose(ranked, options)
    return Kept(is_kept, starts, left_out)


def choose(instances: Ranked, options: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, int]]:
    """Which instances ``options`` keep, the values of ``output.keep``, and the others counted.

    They are ranked by the standardised log-probability of the answer; without an input that of the
    completion which gave the instruction is added. Ties stay in order. With ``input_share`` those
    with an input are ranked apart, and where there are too few of one kind, the other fills up.
    """
    share, with_input = options["input_share"], instances.has_input
    kinds = [np.ones_like(with_input)] if share is None else [with_input, ~with_input]
    parts = [_by_rank(instances, np.flatnonzero(kind)) for kind in kinds]
    left_out: dict[str, int] = {}
    limits = {"per_instruction": instances.instruction, "per_opening": instances.opening}
    for limit, numbers in limits.items():
        if options[limit] is not None:
            within = [part[_is_early(numbers[part], options[limit])] for part in parts]
            left_out[limit] = sum(map(len, parts)) - sum(map(len, within))
            parts = within
    every = sum(map(len, parts))
    most = min(every, options["rows"] or every)
    counts = [most]
    if share is not None:
        given, alone = map(len, parts)
        count = max(min(round(share * most), given), most - alone)
        counts = [count, most - count]
    is_kept = np.zeros(len(with_input), bool)
    for part, count in zip(parts, counts, strict=True):
        is_kept[part[:count]] = True
    left_out["beyond_rows"] = every - most
    return is_kept, {reason: count for reason, count in sorted(left_out.items()) if count}


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


def _read(run: Run, openings: Sequence[str]) -> tuple[Ranked, np.ndarray]:
    """What instances are ranked by, and where those of each instruction begin."""
    by_length = sorted(openings, key=len, reverse=True)
    parts = [_of_block(run, [], by_length)]
    parts += (_of_block(run, block.to_pylist(), by_length) for block in read_blocks(run))
    counts, of_openings, has_input, logprobs = map(np.concatenate, zip(*parts, strict=True))
    tables = run.accepted(["mean_logprob"])
    accepted = np.concatenate([np.empty(0), *(t["mean_logprob"].to_numpy() for t in tables)])
    if len(accepted) != len(counts):
        raise RunError(
            f"{run.location} is damaged: {len(accepted)} instructions were accepted, and instance "
            f"blocks have {len(counts)}"
        )
    instruction = np.repeat(np.arange(len(counts)), counts)
    ranked = Ranked(
        instruction, of_openings[instruction], has_input, logprobs, accepted[instruction]
    )
    return ranked, np.concatenate([[0], np.cumsum(counts)])


def _of_block(
    run: Run, rows: Sequence[InstanceRow], openings: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each instruction its instances, counted, and its opening; of each instance whether it has
    an input, and its answer's log-probability."""
    of_openings, has_input = [], []
    logprobs: list[float | None] = []
    for row in rows:
        text = row["instruction"]
        begins = (number for number, start in enumerate(openings) if text.startswith(start))
        of_openings.append(next(begins, -1))
        has_input += [bool(instance["input"]) for instance in row["instances"]]
        chosen = chosen_answers(run, row)
        logprobs += [answer["mean_logprob"] for answer in chosen] or [None] * len(row["instances"])
    return (
        np.array([len(row["instances"]) for row in rows], np.int64),
        np.array(of_openings, np.int32),
        np.array(has_input, bool),
        np.array(logprobs, np.float64),
    )


def _by_rank(instances: Ranked, chosen: np.ndarray) -> np.ndarray:
    """These instances, by their places among all, likeliest first."""
    worth = _standardised(instances.answer_logprob[chosen])
    of_instructions = _standardised(instances.instruction_logprob[chosen])
    worth += np.where(instances.has_input[chosen], 0.0, of_instructions)
    return chosen[np.argsort(-worth, kind="stable")]


def _standardised(values: np.ndarray) -> np.ndarray:
    """In standard deviations from the mean, shape (n,); the unknown below all others."""
    is_known = np.isfinite(values)
    known = values[is_known]
    if not known.size:
        return np.zeros(len(values))
    scaled: np.ndarray = (values - known.mean()) / (known.std() or 1.0)
    scaled[~is_known] = scaled[is_known].min() - 1.0
    return scaled


def _is_early(numbers: np.ndarray, limit: int) -> np.ndarray:
    """Whether each is among the first so many of its number; -1 always is."""
    by_number = np.argsort(numbers, kind="stable")
    in_order = numbers[by_number]
    begins = np.searchsorted(in_order, in_order)
    is_early = np.empty(len(numbers), bool)
    is_early[by_number] = (np.arange(len(numbers)) - begins < limit) | (in_order < 0)
    return is_early
