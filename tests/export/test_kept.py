"""Which instances become training rows where a configuration leaves some out."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
from hypothesis import given, strategies as st

from ray_si.config.sections.output import Keep
from ray_si.export.kept import Row, choose, kept_rows
from ray_si.run.run import Run
from tests.run.finished import finished_run


def options(**values):
    return Keep(**values).model_dump()


def row(id_, logprob, *, place=0, opening=None, has_input=False, instruction=-1.0):
    return Row(id_, place, opening, has_input, logprob, instruction)


def ids(kept):
    return sorted(id_ for id_, _ in kept.rows)


def test_the_likeliest_rows_are_kept_and_the_others_counted():
    rows = [row("a", -3.0), row("b", -1.0), row("c", None), row("d", -2.0)]
    kept = choose(rows, options(rows=2))
    assert ids(kept) == ["b", "d"]
    assert kept.left_out == {"beyond_rows": 2}
    assert choose(rows, options()).left_out == {}


def test_without_an_input_the_likelihood_of_the_instruction_counts_too():
    rows = [row("a", -1.0, instruction=-5.0), row("b", -1.1, instruction=-0.1)]
    assert ids(choose(rows, options(rows=1))) == ["b"]
    with_input = [row(r.id, r.answer_logprob, has_input=True) for r in rows]
    assert ids(choose(with_input, options(rows=1))) == ["a"]


def test_no_more_rows_of_an_opening_or_an_instruction_than_the_limits():
    rows = [row("a", -1, place=0, opening="Why"), row("a", -2, place=1, opening="Why")]
    rows += [row("b", -3, opening="Why"), row("c", -4), row("d", -5)]
    kept = choose(rows, options(per_opening=1, per_instruction=1))
    assert kept.rows == {("a", 0), ("c", 0), ("d", 0)}
    assert kept.left_out == {"per_instruction": 1, "per_opening": 1}


def test_a_share_has_an_input_and_the_other_kind_fills_up_where_there_are_too_few():
    rows = [row(f"i{k}", -k, has_input=True) for k in range(4)] + [
        row(f"n{k}", -9) for k in range(8)
    ]
    assert ids(choose(rows, options(rows=6, input_share=0.5)))[:4] == ["i0", "i1", "i2", "n0"]
    few = choose(rows, options(rows=10, input_share=0.9))
    assert Counter(id_[0] for id_ in ids(few)) == {"i": 4, "n": 6}
    many = choose(rows, options(rows=12, input_share=0.1))
    assert len(many.rows) == 12


KINDS = st.tuples(
    st.sampled_from("abc"), st.none() | st.floats(-9, 0), st.sampled_from(["x", "y", None]),
    st.booleans(),
)  # fmt: skip
LIMIT = st.none() | st.integers(1, 5)


@given(st.lists(KINDS), LIMIT, LIMIT, LIMIT, st.none() | st.floats(0, 1))
def test_every_row_is_kept_or_counted_and_no_limit_is_passed(
    kinds, most, per_opening, per_instruction, share
):
    rows = [row(i, lp, place=k, opening=o, has_input=h) for k, (i, lp, o, h) in enumerate(kinds)]
    values = options(
        rows=most, per_opening=per_opening, per_instruction=per_instruction, input_share=share
    )
    kept = choose(rows, values)
    assert len(kept.rows) + sum(kept.left_out.values()) == len(rows)
    assert most is None or len(kept.rows) <= most
    taken = [item for item in rows if (item.id, item.place) in kept.rows]
    if share is None:
        for limit, names in ((per_opening, "opening"), (per_instruction, "id")):
            counts = Counter(getattr(item, names) for item in taken)
            del counts[None]
            assert limit is None or max(counts.values(), default=0) <= limit
    assert choose(rows, values) == kept


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
