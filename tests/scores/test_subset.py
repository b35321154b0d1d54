"""A selection is a run: exported, verified and selected from as any, with its control beside."""

from __future__ import annotations

import json
import shutil

import pytest

from ray_si.audit.regate import regate
from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.config.scores import scores_of
from ray_si.errors import ConfigError, RunError
from ray_si.export.training_lines import Source
from ray_si.report.files import write_report
from ray_si.run.run import Run
from ray_si.scores.compute import compute
from ray_si.scores.subset import select
from tests.report.made import made_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 60 rows with embeddings, scored by length and checks."""
    made = made_run(tmp_path_factory.mktemp("source") / "run")
    compute(made, scores_of({"length": None, "checks": None}))
    return made


def rows_of(location, columns=("id", "instruction_id")):
    source = Source(Run.open(str(location)))
    return [row for table in source.tables(list(columns)) for row in table.to_pylist()]


def findings(location):
    return [f"{c.name}: {f}" for c in verify(str(location)) for f in c.findings]


def test_a_selection_holds_the_rows_that_hold_the_condition_in_their_order(run, tmp_path):
    result = select(run, str(tmp_path / "best"), by="length > 3 and checks")
    columns = ("id", "output")
    expected = [r for r in rows_of(run.location, columns) if len(r["output"].split()) > 3]
    assert rows_of(tmp_path / "best", columns) == expected
    assert 0 < len(expected) == result.chosen < result.rows
    control = rows_of(result.control, columns)
    assert len(control) == result.chosen
    assert control == [row for row in rows_of(run.location, columns) if row in control]
    assert result.control == str(tmp_path / "best-random")


def test_both_are_whole_and_say_where_they_come_from(run, tmp_path):
    result = select(run, str(tmp_path / "best"), by="length > 3", top=7)
    with pytest.raises(RunError, match=f"selected from {run.location}, .*report on that"):
        write_report(str(tmp_path / "best"), str(tmp_path / "best.html"))
    for location in (result.location, result.control):
        assert findings(location) == []
    origin = Run.open(result.location).header["selected_from"]
    assert (origin["run"], origin["by"], origin["top"]) == (run.location, "length > 3", 7)
    assert origin["control"] is False
    assert Run.open(result.control).header["selected_from"]["control"] is True
    selection = Run.open(result.location).selection()
    assert selection.column_names == ["id", "length"]
    assert selection["length"].to_pylist() == sorted(selection["length"].to_pylist(), reverse=True)


def test_scores_beside_a_run_are_verified_with_it(run):
    checks = {check.name: check for check in verify(run.location)}
    assert checks["scores"].ok
    assert checks["scores"].count == 4  # two manifests, a block each
    assert checks["strays"].ok


def test_a_selection_can_be_scored_and_selected_from_again(run, tmp_path):
    select(run, str(tmp_path / "best"), by="checks", top=20)
    first = Run.open(str(tmp_path / "best"))
    compute(first, scores_of({"letters": {"kind": "length", "unit": "characters"}}))
    result = select(first, str(tmp_path / "few"), by="length > 1 and letters > 1", top=5)
    assert result.chosen == len(rows_of(tmp_path / "few")) == 5
    assert findings(tmp_path / "few") == []


def test_clusters_and_diversity_go_by_the_stored_embeddings(run, tmp_path):
    result = select(run, str(tmp_path / "a"), by="length", top=12, per_cluster=True, diverse=0.99)
    assert result.instructions == 12  # rows of one instruction have one embedding
    with pytest.raises(RunError, match="has not the embeddings"):
        select(Run.open(result.location), str(tmp_path / "b"), by="length", top=3, diverse=0.9)


def test_numbers_of_the_rows_are_there_too(run, tmp_path):
    select(run, str(tmp_path / "a"), by="is_classification and round > 0")
    found = rows_of(tmp_path / "a", ("is_classification", "round"))
    assert found
    assert all(row["is_classification"] and row["round"] > 0 for row in found)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"by": "lenght > 3"}, ConfigError, "did you mean length"),
        ({"by": "length > 99999"}, RunError, "no row of 60 holds"),
        ({"by": "length > 3", "top": 9999}, RunError, "for --top 9999"),
        ({"by": "open('x')"}, ConfigError, "is not understood"),
    ],
)
def test_what_leaves_nothing_writes_nothing(run, tmp_path, options, kind, message):
    with pytest.raises(kind, match=message):
        select(run, str(tmp_path / "best"), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_place_in_use_is_refused_before_anything_is_written(run, tmp_path):
    (tmp_path / "best-random").mkdir()
    (tmp_path / "best-random" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="best-random is not empty"):
        select(run, str(tmp_path / "best"), by="checks")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-random"]
    select(run, str(tmp_path / "other"), by="checks")
    with pytest.raises(RunError, match="is or lies inside a run"):
        select(run, str(tmp_path / "other"), by="checks")


def test_a_selection_into_its_own_run_is_refused(run):
    before = list(run.objects.list())
    with pytest.raises(RunError, match="lies inside a run"):
        select(run, f"{run.location}/data/train-best", by="checks")
    assert list(run.objects.list()) == before


def test_a_selection_is_no_run_to_decide_anew(run, tmp_path):
    select(run, str(tmp_path / "best"), by="checks")
    with pytest.raises(RunError, match="holds rows selected from"):
        regate(str(tmp_path / "best"), str(tmp_path / "regated"), {"rouge": 0.6})


def test_a_selection_is_no_run_to_go_on_with(run, tmp_path):
    select(run, str(tmp_path / "best"), by="checks")
    config = parse_config(run.header["config"])
    with pytest.raises(RunError, match="holds rows selected from another run"):
        build(config, str(tmp_path / "best"))


def test_what_is_wrong_with_a_selection_is_found(run, tmp_path):
    select(run, str(tmp_path / "best"), by="length > 3")
    select(run, str(tmp_path / "other"), by="length < 8")
    shutil.copy(tmp_path / "other/selection.parquet", tmp_path / "best/selection.parquet")
    assert any("selection.parquet: has" in finding for finding in findings(tmp_path / "best"))


def test_a_damaged_score_is_found_and_not_used(run, tmp_path):
    shutil.copytree(run.location, tmp_path / "run")
    [block] = (tmp_path / "run/scores").glob("length-*/blocks/*.parquet")
    block.write_bytes(block.read_bytes()[:-1] + b"x")
    assert any(
        finding.startswith("scores: scores/length-") for finding in findings(tmp_path / "run")
    )
    with pytest.raises(RunError, match="is damaged"):
        select(Run.open(str(tmp_path / "run")), str(tmp_path / "best"), by="length > 3")


def test_a_selection_whose_origin_is_gone_still_verifies(run, tmp_path):
    shutil.copytree(run.location, tmp_path / "run")
    select(Run.open(str(tmp_path / "run")), str(tmp_path / "best"), by="length > 3")
    shutil.rmtree(tmp_path / "run")
    assert findings(tmp_path / "best") == []
    notes = [note for check in verify(str(tmp_path / "best")) for note in check.notes]
    assert any("not compared with" in note for note in notes)


def test_the_header_is_plain_json(run, tmp_path):
    select(run, str(tmp_path / "best"), by="length > 3", diverse=0.95, top=3)
    header = json.loads((tmp_path / "best/run.json").read_text())
    assert header["selected_from"]["scores"]["length"].startswith("length-")
