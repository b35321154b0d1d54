"""A run's folder: what is refused, and what is said of damage."""

from __future__ import annotations

import json

import pytest

from ray_si.errors import RunError
from ray_si.storage.run import LAYOUT, Run
from ray_si.storage.seeds import load_seeds

HEADER = {"config": {"target_instructions": 5}, "identity": {"seed": 0}}


@pytest.fixture
def location(tmp_path):
    path = tmp_path / "run"
    Run.prepare(str(path), HEADER, "fingerprint").create(load_seeds("bundled")[0])
    return path


def test_preparing_a_run_writes_nothing(tmp_path):
    Run.prepare(str(tmp_path / "run"), HEADER, "fingerprint")
    assert list(tmp_path.iterdir()) == []


def test_a_created_run_is_opened_and_not_written_again(location):
    before = {path: path.stat().st_mtime_ns for path in location.iterdir()}
    Run.prepare(str(location), HEADER, "fingerprint").create([])
    assert {path: path.stat().st_mtime_ns for path in location.iterdir()} == before


@pytest.mark.parametrize("place", ["/proc/run", "x" * 300])
def test_a_place_that_takes_no_folder_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="cannot be"):
        Run.prepare(place, HEADER, "fingerprint").create(load_seeds("bundled")[0])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[]", "not the header of a run"),
        (b"{}", "not the header of a run"),
        (json.dumps({"layout": LAYOUT}).encode(), "no config, fingerprint, identity"),
        (json.dumps({"layout": LAYOUT + 1}).encode(), "another version"),
    ],
)
def test_a_damaged_header_is_named(location, header, message):
    (location / "run.json").write_bytes(header)
    with pytest.raises(RunError, match=message) as caught:
        Run.open(str(location))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["bootstrap/round-00000/manifest.json", "instances/block-00000.parquet", "stats.json"]
)
def test_damage_behind_the_header_is_named(location, name):
    (location / name).parent.mkdir(parents=True, exist_ok=True)
    (location / name).write_bytes(b"{")
    with pytest.raises(RunError, match=name) as caught:
        Run.open(str(location)).status()
    assert "\n" not in str(caught.value)
