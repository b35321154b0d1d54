"""Scores against grades: the area, its interval, and where the scores of a run's rows come from."""

from __future__ import annotations

import random

import pytest

from ray_si.config.scores import scores_of
from ray_si.export.training_lines import Source
from ray_si.scores.compute import compute
from tests.pages import ROOT
from tests.run.finished import finished_run


@pytest.fixture
def score_auc(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import score_auc

    return score_auc


def graded(grades, **columns):
    row = {"run": "new-0", "row": "r", "id": "i", "place": 0, "instruction": "Say so."}
    row |= {"input": "", "output": "It is so.", "grades": dict(zip("ab", grades, strict=True))}
    return row | columns


def test_the_area_is_how_often_an_acceptable_row_is_above_another(score_auc):
    assert score_auc.auc([3, 4], [1, 2]) == 1
    assert score_auc.auc([1, 2], [1, 2]) == 0.5
    assert score_auc.auc([1, 1], [1, 2]) == 0.25


def test_a_row_is_acceptable_where_most_raters_say_so(score_auc):
    assert score_auc.is_acceptable(graded("AB"))
    assert not score_auc.is_acceptable(graded("BC"))


def test_the_interval_covers_the_true_area_about_as_often_as_it_says(score_auc):
    rng = random.Random(0)
    for shift, area in ((0.0, 0.5), (1.0, 0.7602), (2.0, 0.9214)):  # of two normal distributions
        covered = 0
        for _ in range(400):
            good = [rng.gauss(shift, 1) for _ in range(12)]
            bad = [rng.gauss(0, 1) for _ in range(20)]
            low, high = score_auc.interval(score_auc.auc(good, bad), 12, 20)
            covered += low <= area <= high
        assert 0.92 <= covered / 400 <= 0.985


def test_the_interval_narrows_with_rows_and_does_not_vanish_at_the_ends(score_auc):
    low, high = score_auc.interval(1.0, 2, 2)
    assert low < 0.5
    assert high == 1
    few, many = score_auc.interval(0.7, 10, 10), score_auc.interval(0.7, 100, 100)
    assert few[0] < many[0] < 0.7 < many[1] < few[1]
    assert score_auc.interval(0.0, 5, 9)[0] == 0


def test_rows_without_a_score_are_left_out_and_parts_with_too_few_are_not_shown(score_auc):
    rows = [graded("AA"), graded("AB"), graded("CD"), graded("DD"), graded("AA", input="x")]
    measured = score_auc.measure(rows, {"mine": [3.0, 2.0, 1.0, None, 5.0], "yours": [1.0] * 5})
    assert {(item["part"], item["score"]) for item in measured} == {
        ("all", "yours"), ("no input", "yours"),
    }  # fmt: skip
    assert score_auc.table(measured).splitlines()[-1].startswith("| yours | 0.50 [")


def test_scores_of_a_run_are_those_of_the_rows_that_come_from_it(score_auc, tmp_path):
    run = finished_run(tmp_path / "run", rows_per_shard=200)
    compute(run, scores_of({"length": {}}))
    (table,) = Source(run).tables(["id", "instruction_id", "output"])
    kept = table.to_pylist()[:3]
    rows = [
        graded("AA", id=row["instruction_id"], place=int(row["id"].rpartition("-")[2]))
        for row in kept
    ]
    rows.append(graded("DD", run="other-0"))
    found = score_auc.of_runs(rows, {"new-0": run.location})
    words = [float(len(row["output"].split())) for row in kept]
    assert found == {"length (stored)": [*words, None]}
