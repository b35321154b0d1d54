"""The verbs score and select."""

from __future__ import annotations

import json

import pytest

from ray_si.cli.scoring import _sections
from ray_si.run.run import Run
from tests.command import assert_one_line_error, invoke
from tests.report.made import made_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = made_run(tmp_path_factory.mktemp("source") / "run")
    assert invoke("score", made.location, "length", "checks").returncode == 0
    return made.location


def test_score_says_what_it_came_to(run, tmp_path):
    done = invoke("score", run, "length", "--set", "length.unit=characters", "--to", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "length: 60 of 60 rows scored" in done.stdout
    listed = json.loads(invoke("score", run, "checks", "--json").stdout)
    assert listed[0]["rows"] == 60


def test_a_key_that_is_set_leaves_the_others_as_the_run_has_them(run, monkeypatch):
    opened = Run.open(str(run))
    scores = {"length": {"of": "instruction"}, "checks": None}
    monkeypatch.setitem(opened.header["config"], "scores", scores)
    (section,) = _sections(opened, ["length"], None, ["length.unit=characters"]).values()
    assert (section.of, section.unit) == ("instruction", "characters")
    assert set(_sections(opened, [], None, [])) == {"length", "checks"}
    (section,) = _sections(opened, ["checks"], None, ["checks.code=true"]).values()
    assert section.code
    assert scores == {"length": {"of": "instruction"}, "checks": None}


def test_score_takes_a_file_and_names_of_ones_own(run, tmp_path):
    (tmp_path / "scores.yaml").write_text(
        "scores:\n  asked: {kind: length, of: instruction}\n  answered: {kind: length}\n"
    )
    done = invoke("score", run, "--config", tmp_path / "scores.yaml", "--to", tmp_path / "s")
    assert "asked: 60 of 60" in done.stdout
    assert "answered: 60 of 60" in done.stdout


def test_select_writes_a_run_and_its_control(run, tmp_path):
    done = invoke(
        "select", run, "--by", "length > 3 and checks", "--top", 9, "--to", tmp_path / "a"
    )
    assert done.returncode == 0, done.stderr
    assert "9 of 60 rows" in done.stdout
    assert (tmp_path / "a-random" / "stats.json").is_file()
    exported = invoke("export", tmp_path / "a", "--format", "alpaca", "--to", tmp_path / "out")
    assert "9 rows written" in exported.stdout
    assert invoke("verify", tmp_path / "a").returncode == 0
    assert invoke("status", tmp_path / "a", "--json").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select", "--by", "lenght > 3"], "did you mean length"),
        (["select", "--by", "length > 9999"], "no row of 60 holds"),
        (["select"], "give --by"),
        (["score"], "name a score"),
        (["score", "politeness"], "there is no kind of score politeness"),
        (["score", "length", "--set", "length.units=words"], "did you mean unit?"),
        (
            ["score", "mine", "--set", "mine.kind=function", "--set", "mine.path=no:f"],
            "no:f is not",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(run, tmp_path, arguments, message):
    verb, *rest = arguments
    where = ["--to", tmp_path / "x"]
    assert_one_line_error(invoke(verb, run, *rest, *where), message)
    assert list(tmp_path.iterdir()) == []
