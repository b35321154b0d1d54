"""What is called a row is one of the dataset, where `output.keep` leaves instances out."""

from __future__ import annotations

import json
import re

import pytest

from ray_si.export.rows import training_rows
from ray_si.report.contents import RunContents
from ray_si.report.rows import LEFT_OUT
from ray_si.report.statistics import collect
from ray_si.run.run import Run
from tests.report.made import made_run

KEEP = {"rows": 30, "input_share": 0.2}
"""Of 40 instances with an input 10, and all 20 without, which stand behind one with."""


@pytest.fixture(scope="module")
def location(tmp_path_factory):
    location = tmp_path_factory.mktemp("kept") / "run"
    made_run(location, keep=KEEP)
    return location


@pytest.fixture(scope="module")
def rows(location):
    return list(training_rows(Run.open(str(location))))


@pytest.fixture(scope="module")
def collected(location):
    return collect(RunContents.open(str(location)))


def test_only_rows_of_the_dataset_count_as_rows(location, rows, collected):
    numbers, stats = collected[0], json.loads((location / "stats.json").read_text())
    with_row = len({row["instruction_id"] for row in rows})
    assert stats["with_instance"] == with_row < 40
    counts = {"with_instance": with_row, "instances_written": 75, "instances": 60, "rows": 30}
    assert numbers["funnel"] | counts == numbers["funnel"]
    assert sum(item["rows"] for item in numbers["rounds"]) == 30
    assert numbers["tokens"]["per_row"] == (3 * 100 + 60 * (7 + 3)) / 30
    assert numbers["lengths"]["input"]["words"]["count"] == 10
    assert numbers["lengths"]["output"]["words"]["count"] == 30


def test_the_browser_shows_what_was_left_out_as_left_out(rows, collected):
    shown = collected[1]["accepted"]
    pairs = {
        (row["id"], pair["input"], pair["output"]) for row in shown for pair in row["instances"]
    }
    assert pairs == {(row["instruction_id"], row["input"], row["output"]) for row in rows}
    reasons = [pair["reason"] for row in shown for pair in row["rejected"]]
    assert (len(pairs), reasons.count(LEFT_OUT), reasons.count("duplicate")) == (30, 30, 15)


def test_the_card_speaks_of_the_rows_and_of_what_was_left_out(location, rows):
    text = (location / "README.md").read_text()
    with_row = len({row["instruction_id"] for row in rows})
    assert f"30 instruction-following examples of {with_row} instructions" in text
    assert "Instances that passed, by `output.keep`, left out: `beyond_rows` 30." in text
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)]
    names = ("instruction", "input", "output")
    assert len(examples) == 3
    assert all(example in [{name: row[name] for name in names} for row in rows]
               for example in examples)  # fmt: skip


def test_a_damaged_run_that_hides_what_is_kept_says_so(tmp_path):
    made_run(tmp_path / "run", keep=KEEP)
    block = sorted((tmp_path / "run" / "instances").rglob("block-*.parquet"))[0]
    block.unlink()
    numbers, _ = collect(RunContents.open(str(tmp_path / "run")))
    assert numbers["run"]["state"] == "damaged"
    assert any("output.keep" in problem for problem in numbers["run"]["problems"])
