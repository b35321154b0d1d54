"""The several answers that a run has to an input, whose best became the training row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ray_si.errors import RunError
from ray_si.export.training_lines import Source
from ray_si.run.ids import training_row_id
from ray_si.run.instance_parts import read_blocks
from ray_si.run.run import Run
from ray_si.run.schemas import AnswerRow, InstanceRow

OTHERS = "others"
"""Column of the outputs that were also written to a row's input, and pass the filters."""

_PASSES = (None, "duplicate")


def answers_of_rows(run: Run) -> Iterator[tuple[str, list[AnswerRow]]]:
    """Id of each instance in pool order, and the answers to its input that pass the filters.

    The one that is the instance comes first, then the others by number, one that says the same as
    another included. Instances that were not asked in steps have none. RunError where the run holds
    rows selected from another, in which the answers are.
    """
    if run.is_selection:
        raise RunError(
            f"{run.location} holds rows selected from {run.header['selected_from']['run']}, where "
            "their other answers are: use that"
        )
    for block in read_blocks(run):
        rows: list[InstanceRow] = block.to_pylist()
        for row in rows:
            answers = row.get("answers") or []
            chosen = [answer for answer in answers if answer["is_chosen"]]
            for place in range(len(row["instances"])):
                yield training_row_id(row["id"], place), _to_one_input(answers, chosen, place)


def _to_one_input(answers: list[AnswerRow], chosen: list[AnswerRow], place: int) -> list[AnswerRow]:
    if not chosen:
        return []
    others = [
        answer
        for answer in answers
        if answer["place"] == chosen[place]["place"]
        and not answer["is_chosen"]
        and answer["rejected_for"] in _PASSES
    ]
    return [chosen[place], *others]


ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("is_classification", pa.bool_()),
        ("instruction_id", pa.string()),
        ("output_logprob", pa.float64()),
    ]
)
"""An answer, as far as it has what a training row has; ``id`` is its `answer_id`."""


def answer_id(row_id: str, number: int) -> str:
    """The id of an answer to the input of a training row, by its number among them."""
    return f"{row_id}:{number}"


def answer_tables(run: Run, rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """For tables of training rows, in order, all answers to their inputs, of `ANSWERS`.

    Those of one row follow each other, the row's own first.
    """
    answered = answers_of_rows(run)
    for table in rows:
        made = []
        for row in table.to_pylist():
            for answer in _of_row(run, answered, row["id"]):
                more = {
                    "id": answer_id(row["id"], answer["answer"]),
                    "output": answer["output"],
                    "output_logprob": answer["mean_logprob"],
                }
                made.append(row | more)
        yield pa.Table.from_pylist(made, ANSWERS)


def with_others(run: Run, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of training rows, in order, with the column `OTHERS`.

    RunError where a row has no instance.
    """
    answered = answers_of_rows(run)
    for table in tables:
        others = [
            [answer["output"] for answer in _of_row(run, answered, id_)[1:]]
            for id_ in table["id"].to_pylist()
        ]
        yield table.append_column(OTHERS, pa.array(others, pa.list_(pa.string())))


def _of_row(run: Run, answered: Iterator[tuple[str, list[AnswerRow]]], id_: str) -> list[AnswerRow]:
    """The answers to a row's input, from an iterator that has not come to it yet."""
    for other, answers in answered:
        if other == id_:
            return answers
    raise RunError(f"{run.location} is damaged: no instance block has the row {id_}")


class AnswerSource(Source):
    """The answers to the inputs of a run's training rows, in place of these.

    RunError where there are none: where instances were not asked in steps.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._of = run
        self.rows = sum(len(table) for table in self.tables(["id"]))
        if not self.rows:
            raise RunError(
                f"{run.location} keeps no answers by themselves: that takes instances.method steps "
                "and instances.answers"
            )

    @property
    def schema(self) -> pa.Schema:
        """`ANSWERS`."""
        return ANSWERS

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The answers, a shard's rows at a time."""
        texts = ["id", "instruction", "input", "is_classification", "instruction_id"]
        for table in answer_tables(self._of, super().tables(texts)):
            yield table.select(list(columns))
