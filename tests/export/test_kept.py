"""Which instances become training rows where a configuration leaves some out."""

from __future__ import annotations

from collections import Counter
from itertools import chain, compress
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, strategies as st

from ray_si.config.sections.output import Keep
from ray_si.export.kept import Ranked, choose, kept_rows
from ray_si.run.run import Run
from tests.run.finished import finished_run


class Row(NamedTuple):
    """An instance, of an instruction and an opening by their names."""

    id: str
    answer_logprob: float | None
    opening: str | None = None
    has_input: bool = False
    instruction_logprob: float | None = -1.0


def options(**values):
    return Keep(**values).model_dump()


def chosen(instances, **values):
    """The instances that options keep, in order, and the others counted."""
    names = sorted({row.id for row in instances})
    openings = [None, *sorted({row.opening for row in instances} - {None})]
    ranked = Ranked(
        np.array([names.index(row.id) for row in instances], np.int64),
        np.array([openings.index(row.opening) - 1 for row in instances], np.int32),
        np.array([row.has_input for row in instances], bool),
        np.array([row.answer_logprob for row in instances], np.float64),
        np.array([row.instruction_logprob for row in instances], np.float64),
    )
    is_kept, left_out = choose(ranked, options(**values))
    return [row for row, kept in zip(instances, is_kept, strict=True) if kept], left_out


def ids(instances, **values):
    return [row.id for row in chosen(instances, **values)[0]]


def test_the_likeliest_rows_are_kept_and_the_others_counted():
    rows = [Row("a", -3.0), Row("b", -1.0), Row("c", None), Row("d", -2.0)]
    assert ids(rows, rows=2) == ["b", "d"]
    assert chosen(rows, rows=2)[1] == {"beyond_rows": 2}
    assert chosen(rows) == (rows, {})


def test_without_an_input_the_likelihood_of_the_instruction_counts_too():
    rows = [Row("a", -1.0, instruction_logprob=-5.0), Row("b", -1.1, instruction_logprob=-0.1)]
    assert ids(rows, rows=1) == ["b"]
    assert ids([row._replace(has_input=True) for row in rows], rows=1) == ["a"]


def test_no_more_rows_of_an_opening_or_an_instruction_than_the_limits():
    rows = [Row("a", -1, "Why"), Row("a", -2, "Why"), Row("b", -3, "Why")]
    rows += [Row("c", -4), Row("d", -5)]
    kept, left_out = chosen(rows, per_opening=1, per_instruction=1)
    assert kept == [rows[0], *rows[3:]]
    assert left_out == {"per_instruction": 1, "per_opening": 1}


def test_a_share_has_an_input_and_the_other_kind_fills_up_where_there_are_too_few():
    rows = [Row(f"i{k}", -k, has_input=True) for k in range(4)]
    rows += [Row(f"n{k}", -9) for k in range(8)]
    assert ids(rows, rows=6, input_share=0.5)[:4] == ["i0", "i1", "i2", "n0"]
    few = ids(rows, rows=10, input_share=0.9)
    assert Counter(id_[0] for id_ in few) == {"i": 4, "n": 6}
    assert len(ids(rows, rows=12, input_share=0.1)) == 12


ROWS = st.builds(
    Row, st.sampled_from("abc"), st.none() | st.integers(-9, 0), st.sampled_from(["x", "y", None]),
    st.booleans(), st.just(-1.0),
)  # fmt: skip
LIMIT = st.none() | st.integers(1, 5)


def first_of_each(names, limit):
    """Whether each is among the first of its name; None always is."""
    return [
        limit is None or name is None or names[:place].count(name) < limit
        for place, name in enumerate(names)
    ]


@given(st.lists(ROWS), LIMIT, LIMIT, LIMIT, st.none() | st.floats(0, 1))
def test_the_first_of_each_in_order_are_kept_and_the_others_counted(
    rows, most, per_opening, per_instruction, share
):
    values = {"rows": most, "per_opening": per_opening, "per_instruction": per_instruction}
    kept, left_out = chosen(rows, **values, input_share=share)
    parts = [rows]
    if share is not None:
        parts = [[row for row in rows if row.has_input == kind] for kind in (True, False)]
    for number, part in enumerate(parts):  # all instructions are equally likely
        part = sorted(
            part, key=lambda row: (row.answer_logprob is None, -(row.answer_logprob or 0))
        )
        part = list(compress(part, first_of_each([row.id for row in part], per_instruction)))
        parts[number] = list(
            compress(part, first_of_each([row.opening for row in part], per_opening))
        )
    total = sum(map(len, parts))
    count = total if most is None else min(most, total)
    if share is not None:
        given_, alone = parts
        with_input = max(min(round(share * count), len(given_)), count - len(alone))
        parts = [given_[:with_input], alone[: count - with_input]]
    else:
        parts = [parts[0][:count]]
    assert Counter(kept) == Counter(chain(*parts))
    assert len(kept) + sum(left_out.values()) == len(rows)


def test_a_run_exports_what_it_keeps_and_its_counts_say_so(tmp_path):
    keep = {"output": {"keep": options(rows=20, per_instruction=1)}}
    run = finished_run(tmp_path / "run", 30, config=keep)
    rows = pq.read_table(tmp_path / "run" / "data").to_pylist()
    stats = run.stats()
    assert len(rows) == stats["rows"] == 20
    assert stats["with_instance"] == len({r["instruction_id"] for r in rows}) == 20
    assert stats["left_out"] == {"per_instruction": 30, "beyond_rows": 10}
    assert [r["id"] for r in rows] == sorted(r["id"] for r in rows)
    assert kept_rows(Run.open(str(tmp_path / "run"))).left_out == stats["left_out"]
    assert kept_rows(finished_run(tmp_path / "all", 3)) is None
