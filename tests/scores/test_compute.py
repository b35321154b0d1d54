"""Scores that need no model: stored once, resumed block by block, and nothing else changed."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ray_si.config.scores import scores_of
from ray_si.errors import ConfigError, RunError
from ray_si.export.training_lines import Source
from ray_si.run.run import Run
from ray_si.scores import compute as computing, job
from ray_si.scores.compute import compute
from ray_si.scores.overview import overview
from ray_si.scores.stored import BLOCKS, MANIFEST, StoredScores
from ray_si.storage.objects import open_objects
from tests.command import ENVIRONMENT
from tests.run.finished import finished_run

SCORER = """
import os, signal, time

def letters(rows):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{rows[0]['id']}\\n")
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return [len(row["output"]) for row in rows]

def some(rows):
    return [None if row["input"] else 1 for row in rows]

def infinite(rows):
    return [float("-inf"), float("inf"), *range(2, len(rows))]

def short(rows):
    return [1]

def broken(rows):
    raise KeyError("politeness")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("source") / "run")


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    """A folder with the module `mine`, which this process can import too."""
    (tmp_path / "mine.py").write_text(SCORER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path


def small_blocks(monkeypatch):
    monkeypatch.setattr(computing, "_BLOCK", 25)


def contents(location):
    """Key -> digest of every object there, leases aside."""
    objects = open_objects(str(location))
    keys = [key for key in objects.list() if "lease/" not in key]
    return {key: hashlib.sha256(objects.get(key)).hexdigest() for key in keys}


def test_a_score_is_a_column_that_joins_by_id(tmp_path, run, monkeypatch):
    small_blocks(monkeypatch)
    told = []
    place = str(tmp_path / "scores")
    [summary] = compute(
        run, scores_of({"length": None}), place, listen=lambda *step: told.append(step)
    )
    table = next(Source(run).tables(["id", "output"]))
    stored = StoredScores(run, place)
    expected = [len(text.split()) for text in table["output"].to_pylist()]
    ids = table["id"]
    assert stored.values("length", ids)[: len(expected)].tolist() == expected
    assert stored.values("length", ids.take([3, 1])).tolist() == [expected[3], expected[1]]
    other = pa.chunked_array([pa.array(["of another run", ids[2].as_py()])])
    values = stored.values("length", other)
    assert np.isnan(values[0])
    assert values[1] == expected[2]
    assert (summary.rows, summary.scored, summary.unscored) == (120, 120, {})
    assert told[-1] == ("length", 120, 120)


def test_what_is_stored_is_not_computed_again_and_the_run_stays_as_it_was(run, scorer):
    before = contents(run.location)
    sections = scores_of({"mine": {"kind": "function", "path": "mine:letters"}})
    first = compute(run, sections)
    assert compute(run, sections) == first
    assert len((scorer / "calls").read_text().splitlines()) == 1
    after = contents(run.location)
    assert {key: after[key] for key in before} == before
    assert all(key.startswith("scores/mine-") for key in after.keys() - before.keys())


def test_other_settings_are_another_score_and_both_have_a_name(tmp_path, run):
    place = str(tmp_path / "scores")
    compute(run, scores_of({"length": None}), place)
    compute(run, scores_of({"length": {"unit": "characters"}}), place)
    stored = StoredScores(run, place)
    assert len(stored.names) == 2
    assert all(name.startswith("length_") for name in stored.names)
    with pytest.raises(ConfigError, match=r"length was scored 2 times: use length_\w{8}, length_"):
        stored.find("length")
    with pytest.raises(ConfigError, match=r"did you mean length\?"):
        stored.find("lenght")


def test_rows_that_cannot_be_scored_are_counted_and_stay(tmp_path, run, scorer):
    sections = scores_of({"some": {"kind": "function", "path": "mine:some"}})
    [summary] = compute(run, sections, str(tmp_path / "scores"))
    assert summary.scored + summary.unscored["no_value"] == summary.rows == 120
    ids = next(Source(run).tables(["id"]))["id"]
    assert np.isnan(StoredScores(run, str(tmp_path / "scores")).values("some", ids)).any()


def test_infinite_values_are_none_and_those_of_older_versions_too(
    tmp_path, run, scorer, monkeypatch
):
    ids = next(Source(run).tables(["id"]))["id"]
    sections = scores_of({"mine": {"kind": "function", "path": "mine:infinite"}})
    [summary] = compute(run, sections, str(tmp_path / "scores"))
    assert (summary.scored, summary.unscored) == (118, {"not_finite": 2})
    monkeypatch.setattr(job, "math", SimpleNamespace(isfinite=lambda value: True))
    [summary] = compute(run, sections, str(tmp_path / "older"))
    assert (summary.scored, summary.unscored) == (120, {})
    for folder in ("scores", "older"):
        values = StoredScores(run, str(tmp_path / folder)).values("mine", ids)
        assert np.isnan(values[:2]).all()
        assert np.isfinite(values[2:]).all()
        [told] = overview(run, str(tmp_path / folder))["scores"]
        assert (told["scored"], told["best"][0]["value"]) == (118, 119)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mine:short", "returned 1 values for"),
        ("mine:broken", "failed with KeyError: 'politeness'"),
        ("mine:absent", "mine:absent is not there"),
        ("nowhere:f", "nowhere:f is not there"),
    ],
)
def test_a_function_that_cannot_score_is_named(tmp_path, run, scorer, path, message):
    sections = scores_of({"mine": {"kind": "function", "path": path}})
    with pytest.raises(ConfigError, match=message):
        compute(run, sections, str(tmp_path / "scores"))
    assert not list(tmp_path.rglob(MANIFEST))


def test_a_run_that_is_not_finished_is_refused(tmp_path, run):
    header = {"config": {}, "identity": {}}
    unfinished = Run.prepare(str(tmp_path / "run"), header, "fingerprint")
    with unfinished.held():
        unfinished.create([])
    with pytest.raises(RunError, match="not finished"):
        compute(Run.open(str(tmp_path / "run")), scores_of({"length": None}))


def test_scoring_killed_at_any_block_goes_on_and_ends_with_the_same_bytes(scorer, tmp_path):
    program = textwrap.dedent("""
        import sys
        from ray_si.config.scores import scores_of
        from ray_si.run.run import Run
        from ray_si.scores import compute
        compute._BLOCK = 20
        section = {"mine": {"kind": "function", "path": "mine:letters"}}
        compute.compute(Run.open(sys.argv[1]), scores_of(section))
    """)
    run = finished_run(tmp_path / "run")
    environment = ENVIRONMENT | {"CALLS": str(tmp_path / "calls"), "PAUSE": "0.3"}

    def start():
        command = [sys.executable, "-c", program, run.location]
        return subprocess.Popen(command, env=environment, cwd=scorer, stderr=subprocess.PIPE)

    def calls():
        path = Path(environment["CALLS"])
        return path.read_text().splitlines() if path.exists() else []

    killed = start()
    deadline = time.monotonic() + 120
    while len(calls()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 3 <= len(calls()) < 6
    assert not list((tmp_path / "run").rglob(f"scores/*/{MANIFEST}"))
    resumed = start()
    assert resumed.wait(120) == 0, resumed.communicate()[1]
    again = calls()
    assert len(set(again)) == 6  # 120 rows, 20 to a block
    assert len(again) <= 7  # at most the block in flight is computed twice
    other = finished_run(tmp_path / "other")
    environment |= {"PAUSE": "0"}
    assert (
        subprocess.run(
            [sys.executable, "-c", program, other.location],
            env=environment,
            cwd=scorer,
            check=False,
        ).returncode
        == 0
    )
    assert contents(tmp_path / "run") == contents(tmp_path / "other")


def test_settings_are_checked_with_the_nearest_right_key():
    for given, message in (
        (
            {"lenght": None},
            r"scores\.lenght: there is no kind of score lenght \(did you mean length",
        ),
        ({"length": {"units": "words"}}, r"there is no key units \(did you mean unit\?\)"),
        ({"length": {"unit": "lines"}}, r"scores\.length: unit: "),
        ({"a-b": {"kind": "length"}}, "cannot name a score"),
        ({"mine": {"kind": "function"}}, "path: Field required"),
        ({"length": 3}, "write a mapping"),
    ):
        with pytest.raises(ConfigError, match=message):
            scores_of(given)


def test_a_scores_blocks_are_read_ahead_when_it_ends(tmp_path, run, monkeypatch):
    small_blocks(monkeypatch)
    [section] = scores_of({"length": None}).values()
    made, scorer = computing.job_of(run, "length", section, str(tmp_path / "scores"), False)
    together, get = threading.Barrier(5, timeout=20), made.folder.objects.get

    def waiting_get(key):
        if key.startswith(BLOCKS):
            together.wait()
        return get(key)

    with made.held():
        for number, block in made.blocks():
            made.store(number, block, scorer.score(block.to_pylist()))
        monkeypatch.setattr(made.folder.objects, "get", waiting_get)
        assert made.finish().scored == 120


def test_manifests_say_what_a_score_is(tmp_path, run):
    compute(run, scores_of({"words": {"kind": "length", "of": "input"}}), str(tmp_path / "scores"))
    [path] = tmp_path.rglob(MANIFEST)
    manifest = json.loads(path.read_text())
    assert manifest["identity"]["settings"] == {"of": "input", "unit": "words"}
    assert manifest["identity"]["kind"] == "length"
    assert manifest["identity"]["run"] == "fingerprint"
    assert manifest["identity"]["version"] == 1
