"""A run's folder: what is refused, and what is said of damage."""

from __future__ import annotations

import json

import pytest

from ray_si.errors import RunError, StorageError
from ray_si.run.run import LAYOUT, Run
from ray_si.run.seeds import load_seeds
from ray_si.storage.objects import open_objects

HEADER = {"config": {"target_instructions": 5}, "identity": {"seed": 0}}


@pytest.fixture
def created(location):
    run = Run.prepare(location, HEADER, "fingerprint")
    run.create(load_seeds("bundled")[0])
    return run


def test_preparing_a_run_writes_nothing(location):
    Run.prepare(location, HEADER, "fingerprint")
    assert list(open_objects(location).list()) == []


def test_a_created_run_is_opened_and_not_written_again(created):
    before = {key: created.objects.get(key) for key in created.objects.list()}
    again = Run.prepare(created.location, HEADER | {"ray_si": "newer"}, "fingerprint")
    again.create([])
    assert again.header == created.header
    assert {key: created.objects.get(key) for key in created.objects.list()} == before


def test_a_run_that_was_cut_short_as_it_was_created_can_be_created(created):
    created.objects.delete("seeds.parquet")
    Run.prepare(created.location, HEADER, "fingerprint").create(load_seeds("bundled")[0])
    assert created.read("seeds.parquet").num_rows == len(load_seeds("bundled")[0])


def test_foreign_content_is_refused(location):
    objects = open_objects(location)
    objects.put("thesis.txt", b"precious")
    with pytest.raises(RunError, match="not empty and not a run"):
        Run.prepare(location, HEADER, "fingerprint")
    assert list(objects.list()) == ["thesis.txt"]


def test_a_neighbour_whose_name_begins_alike_is_not_foreign_content(location):
    open_objects(location + "-2").put("thesis.txt", b"precious")
    Run.prepare(location, HEADER, "fingerprint")


def test_a_run_of_another_configuration_is_refused(created):
    with pytest.raises(RunError, match="different: seed"):
        Run.prepare(created.location, HEADER | {"identity": {"seed": 1}}, "another")


@pytest.mark.parametrize("place", ["/proc/run", "x" * 300])
def test_a_place_that_takes_no_folder_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="cannot be"):
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
def test_a_damaged_header_is_named(created, header, message):
    created.objects.put("run.json", header)
    with pytest.raises(RunError, match=message) as caught:
        Run.open(created.location)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["bootstrap/round-00000/manifest.json", "instances/block-00000.parquet", "stats.json"]
)
def test_damage_behind_the_header_is_named(created, name):
    created.objects.put(name, b"{")
    with pytest.raises(RunError, match=name) as caught:
        Run.open(created.location).status()
    assert "\n" not in str(caught.value)


def test_where_there_is_no_run_that_is_said(location):
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json"):
        Run.open(location)
