"""All answers of a run: scored like rows, agreed with, and made pairs of."""

from __future__ import annotations

import pytest

from ray_si.config.scores import scores_of
from ray_si.errors import RunError
from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.scores.answers import AnswerSource
from ray_si.scores.compute import compute
from ray_si.scores.stored import StoredScores
from ray_si.scores.subset import select
from tests.run.finished import finished_run


def answers(number):
    """A likely answer, a shorter and less likely one, and the first again."""
    return [(f"A whole answer {number}.", -0.5), (f"Short {number}.", -1.5)] + (
        [(f"A whole answer {number}.", -0.6)] if number % 2 else []
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "run"
    return finished_run(folder, 30, answers=answers, rows_per_shard=7)


def test_all_answers_that_pass_are_there_the_rows_own_first(run):
    rows = [row for t in AnswerSource(run).tables(["id", "output"]) for row in t.to_pylist()]
    assert len(rows) == 30 * 2 + 15
    assert rows[:5] == [
        {"id": "r00000-00000-00-0:0", "output": "A whole answer 0."},
        {"id": "r00000-00000-00-0:1", "output": "Short 0."},
        {"id": "r00000-00001-00-0:0", "output": "A whole answer 1."},
        {"id": "r00000-00001-00-0:1", "output": "Short 1."},
        {"id": "r00000-00001-00-0:2", "output": "A whole answer 1."},
    ]


def test_scores_of_answers_are_apart_from_those_of_rows(run):
    [rows] = compute(run, scores_of({"length": None}))
    [all_answers] = compute(run, scores_of({"length": None}), of_answers=True)
    assert (rows.rows, all_answers.rows) == (30, 75)
    assert StoredScores(run).names == StoredScores(run, of_answers=True).names == ["length"]
    assert len(StoredScores(run, of_answers=True).table("length")) == 75


def test_likelihood_and_agreement_are_scores_of_rows(run, tmp_path):
    place = str(tmp_path / "scores")
    summaries = compute(run, scores_of({"logprob": None, "agreement": None}), place)
    assert all(summary.scored == 30 for summary in summaries)
    ids = next(Source(run).tables(["id"]))["id"]
    scores = StoredScores(run, place)
    assert set(scores.values("logprob", ids)) == {-0.5}
    agreement = scores.values("agreement", ids)
    assert agreement[0] == 0  # every fifth is a classification task
    assert agreement[5] == 0.5
    assert 0 < agreement[2] < agreement[1] < 1


def test_a_run_without_answers_by_themselves_says_so(tmp_path, run):
    plain = finished_run(tmp_path / "run")
    with pytest.raises(RunError, match="keeps no answers by themselves"):
        AnswerSource(plain)
    with pytest.raises(RunError, match="logprob needs output_logprob"):
        compute(plain, scores_of({"logprob": None}))
    [summary] = compute(plain, scores_of({"agreement": None}))
    assert summary.unscored == {"one_answer": 120}
    compute(run, scores_of({"length": None}))
    select(run, str(tmp_path / "some"), by="length")
    with pytest.raises(RunError, match="where their other answers are"):
        AnswerSource(Run.open(str(tmp_path / "some")))
