"""Runs that commit 36f934d stored, before today's rooms and row types, still serve.

The archive has ``finished``, with both gates; ``unfinished``, which ended when one block of its
second round was stored; and the ``seeds.jsonl`` of both, without their leases. That commit's own
code wrote them in one process without Ray: the same bytes as by a build, which was compared.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.export.training_files import Options, write_training_files
from ray_si.report.files import write_report
from ray_si.run.run import Run
from ray_si.self_instruct.formats import layout

ARCHIVE = Path(__file__).parent / "data" / "runs-36f934d.tar.gz"


@pytest.fixture
def runs(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def files(location):
    """SHA-256 by name of what a run holds but for its leases, of which nothing is promised."""
    return {
        path.relative_to(location).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(location.rglob("*"))
        if path.is_file() and "lease" not in path.parts
    }


def resumed(runs, name, seeds=None):
    """A build of the run with the configuration that it was begun with."""
    location = str(runs / name)
    values = Run.open(location).header["config"] | {"seeds": seeds or str(runs / "seeds.jsonl")}
    return build(parse_config(values), location)


def findings(location):
    return [finding for check in verify(str(location)) for finding in check.findings]


@pytest.mark.parametrize("name", ["finished", "unfinished"])
def test_they_verify(runs, name):
    before = files(runs / name)
    checks = {check.name: check for check in verify(str(runs / name))}
    assert not [finding for check in checks.values() for finding in check.findings]
    for sure in ("objects", "requests", "demonstrations", "rouge gate"):
        assert checks[sure].count, sure
    assert (checks["shards"].count > 0) == (name == "finished")
    assert files(runs / name) == before


def test_a_finished_one_is_left_as_it_is_by_a_build(runs):
    before = files(runs / "finished")
    assert resumed(runs, "finished").stats["accepted"] == 10
    assert files(runs / "finished") == before


def test_one_of_the_bundled_seeds_keeps_those_that_it_began_with(runs):
    path = runs / "finished" / "run.json"
    header = json.loads(path.read_text())
    header["config"]["seeds"] = "bundled"  # as if these had been ours then
    path.write_text(json.dumps(header))
    before = files(runs / "finished")
    assert resumed(runs, "finished", "bundled").stats["accepted"] == 10
    assert files(runs / "finished") == before


def test_a_finished_one_is_exported_and_reported(runs):
    run = Run.open(str(runs / "finished"))
    done = write_training_files(run, str(runs / "export"), layout("alpaca"), Options("rows"), {})
    lines = (runs / "export" / "rows.jsonl").read_text().splitlines()
    stored = [
        row
        for path in sorted((runs / "finished" / "data").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert done.rows == {"train": len(stored)}
    assert [json.loads(line)["output"] for line in lines] == [row["output"] for row in stored]
    assert write_report(str(runs / "finished"), str(runs / "page.html")) == "finished"
    assert (runs / "page.html").stat().st_size > 10_000


@pytest.mark.usefixtures("without_cluster")
def test_an_unfinished_one_resumes_and_repeats_nothing(runs):
    location = runs / "unfinished"
    before = files(location)
    (decided,) = Run.open(str(location)).accepted(["id"])
    result = resumed(runs, "unfinished")
    after = files(location)
    assert any("round-00001/block-" in key for key in before)
    assert before.items() <= after.items()
    pool = [id_ for table in Run.open(str(location)).accepted(["id"]) for id_ in table["id"]]
    assert pool[: decided.num_rows] == list(decided["id"])
    assert len(pool) == result.stats["accepted"] == 20
    assert not findings(location)
    rows = [json.loads(line) for path in location.glob("data/*.jsonl") for line in path.open()]
    assert len(rows) == result.stats["rows"] > 0
