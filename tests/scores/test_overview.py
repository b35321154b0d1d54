"""What scores come to: distributions, thresholds, both ends, and how they agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ray_si.config.scores import scores_of
from ray_si.report.files import write_report
from ray_si.scores.compute import compute
from ray_si.scores.overview import EXTREMES, overview, spearman
from tests.report.made import HOSTILE, made_run
from tests.run.finished import finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = finished_run(tmp_path_factory.mktemp("source") / "run", rows_per_shard=13)
    compute(made, scores_of({"words": {"kind": "length"}, "checks": None}))
    letters = {"kind": "function", "path": "tests.scores.brevity:brevity"}
    compute(made, scores_of({"brevity": letters}))
    return made


def test_each_score_is_told_with_its_two_ends(run):
    told = {item["name"]: item for item in overview(run)["scores"]}
    assert list(told) == ["brevity", "checks", "words"]
    brevity = told["brevity"]
    assert brevity["rows"] == brevity["scored"] == 120
    assert sum(item["count"] for item in brevity["histogram"]) == 120
    best = [row["value"] for row in brevity["best"]]
    worst = [row["value"] for row in brevity["worst"]]
    assert len(best) == len(worst) == EXTREMES
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert min(best) >= max(worst)
    assert all(row["value"] == -len(row["output"]) for row in brevity["best"])
    for threshold in brevity["thresholds"]:
        assert 0 < threshold["kept"] <= 120
    assert told["checks"]["thresholds"] == [{"at": 1.0, "kept": 120}]


def test_a_score_agrees_with_itself_and_a_constant_with_nothing(run):
    agreement = overview(run)["agreement"]
    assert agreement[0][0] == agreement[2][2] == 1
    assert agreement[0][2] == agreement[2][0] < 0
    assert agreement[1] == [None, None, None]


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.5, 7.0, np.nan])] * 2), min_size=3))
def test_spearman_is_scipys(pairs):
    from scipy.stats import spearmanr

    one, other = np.array(pairs, float).T
    both = ~(np.isnan(one) | np.isnan(other))
    found = spearman(one, other)
    if found is None:
        assert both.sum() < 2 or np.ptp(one[both]) == 0 or np.ptp(other[both]) == 0
    else:
        assert found == pytest.approx(spearmanr(one[both], other[both]).statistic, abs=1e-4)


def test_rows_without_a_score_have_no_part_in_it(tmp_path):
    run = finished_run(tmp_path / "run", 1, instances=lambda n: [{"input": "", "output": "One."}])
    assert overview(run) is None
    compute(run, scores_of({"agreement": None, "length": None}))
    agreement, length = overview(run)["scores"]
    assert (agreement["scored"], agreement["mean"], agreement["best"]) == (0, None, [])
    assert agreement["unscored"] == {"one_answer": 1}
    assert len(length["best"]) + len(length["worst"]) == 1


def test_the_page_shows_scores_where_there_are_any(tmp_path):
    run = made_run(tmp_path / "run", outputs=HOSTILE)
    write_report(run.location, str(tmp_path / "before.html"))
    assert b'id="scores"' not in (tmp_path / "before.html").read_bytes()
    compute(run, scores_of({"length": None, "checks": None}))
    write_report(run.location, str(tmp_path / "page.html"), str(tmp_path / "numbers.json"))
    page = (tmp_path / "page.html").read_text()
    assert 'href="#scores"' in page
    assert "Highest 20 rows by length" in page
    assert "How the scores agree" in page
    assert "<script>document.title" not in page
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert [item["name"] for item in numbers["scores"]["scores"]] == ["checks", "length"]


def test_what_hides_the_scores_is_named_and_the_rest_of_the_report_is_made(tmp_path):
    run = made_run(tmp_path / "run")
    compute(run, scores_of({"length": None}))
    (block,) = (tmp_path / "run/scores").glob("*/blocks/*")
    for path in (tmp_path / "run/data/train-00000-of-00003.parquet", block):
        data = path.read_bytes()
        for damaged in (data[:-9] + b"?" + data[-8:], None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            write_report(run.location, str(tmp_path / "page.html"))
            page = (tmp_path / "page.html").read_text()
            assert "This run is damaged" in page
            assert path.name in page
        path.write_bytes(data)
