"""A run's folder: what is refused, and what is said of damage."""

from __future__ import annotations

import errno
import json
import os

import pyarrow as pa
import pytest

from ray_si.errors import LeaseLostError, RunError, StorageError
from ray_si.pipeline.decisions import ACCEPTED
from ray_si.run.layout import block_key
from ray_si.run.run import LAYOUT, Run
from ray_si.run.seeds import load_seeds
from ray_si.run.status import status as status_of, written_so_far
from ray_si.run.strays import clean_up, is_clean, strays
from ray_si.storage import lease as lease_module
from ray_si.storage.objects import open_objects
from ray_si.storage.tables import claim_table
from tests.run import finished

HEADER = {"config": {"target_instructions": 5}, "identity": {"seed": 0}}


@pytest.fixture
def created(location):
    run = Run.prepare(location, HEADER, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0])
    return run


def content(run):
    """All but the lease, by key."""
    return {key: run.objects.get(key) for key in run.objects.list() if "lease/" not in key}


def test_preparing_a_run_writes_nothing(location):
    Run.prepare(location, HEADER, "fingerprint")
    assert list(open_objects(location).list()) == []


def test_a_created_run_is_opened_and_not_written_again(created):
    before = content(created)
    again = Run.prepare(created.location, HEADER | {"ray_si": "newer"}, "fingerprint")
    with again.held():
        again.create([])
    assert again.header == created.header
    assert content(created) == before


def test_a_run_that_was_cut_short_as_it_was_created_can_be_created(created):
    created.objects.delete("seeds.parquet")
    again = Run.prepare(created.location, HEADER, "fingerprint")
    with again.held():
        again.create(load_seeds("bundled")[0])
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


def test_a_place_whose_lease_was_never_put_to_use_is_free(location):
    open_objects(location).put("lease/00001.json", b"{}")
    Run.prepare(location, HEADER, "fingerprint")


def test_what_is_made_a_run_of_another_configuration_meanwhile_is_refused_under_the_lease(location):
    first = Run.prepare(location, HEADER, "fingerprint")
    second = Run.prepare(location, HEADER | {"identity": {"seed": 1}}, "another")
    with first.held():
        first.create(load_seeds("bundled")[0])
    with pytest.raises(RunError, match="another configuration"):
        second.held().__enter__()
    with first.held():  # given back
        assert first.lease.number == 3


def test_a_folder_without_hard_links_is_refused_and_left_as_it_was(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as FAT answers

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="its file system has no hard links"):
        Run.prepare(str(tmp_path / "run"), HEADER, "fingerprint")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def paused(tmp_path, monkeypatch):
    """A driver that passed its last check before another took over, and that other one's run.

    The run is finished by then.
    """
    location = tmp_path / "run"
    first = Run.prepare(str(location), finished.HEADER, "fingerprint")
    lease = first.held()
    lease.__enter__()
    monkeypatch.setattr(first.lease, "check", lambda: None)
    lease_module._held.clear()  # as if that process had ended
    second = finished.finished_run(location)
    yield first, second
    first.lease.lost.cancel()
    lease.__exit__(None, None, None)


def test_what_a_paused_driver_commits_to_a_finished_run_does_not_count_and_goes(paused):
    late, run = paused
    before, status = content(run), status_of(run)
    table = pa.Table.from_pylist([], ACCEPTED)
    counts = {"accepted": 0, "candidates": 0, "rejected": {}, "requests": 1, "completion_tokens": 0}
    late.commit_round(1, [], table, table, {"round": 1, **counts})
    for commit in (
        lambda: late.commit_round(0, [], table, table, {"round": 0, **counts}),
        lambda: late.commit_instances([], {"blocks": 0, "instructions": 0, "instances": 0}),
        lambda: late.commit_stats({"rows": 0}),
    ):
        with pytest.raises(LeaseLostError, match="was written by another driver meanwhile"):
            commit()
    claim_table(late.objects, block_key("instances", 0, late.lease.number), table)
    again = Run.open(run.location)
    assert (status_of(again), len(again.rounds())) == (status, 1)
    assert {key: run.objects.get(key) for key in before} == before
    assert len(strays(run)) == 6  # two rounds' parts, a manifest and a block
    with again.held():
        clean_up(again)
    assert content(run) == before
    assert is_clean(again)


def test_what_a_paused_driver_exports_again_changes_no_byte(paused):
    late, run = paused
    before = content(run)
    for key in [key for key in before if key.startswith("data/")]:
        late.publish(key, before[key])
    assert content(run) == before


@pytest.mark.parametrize(
    "act",
    [lambda run: run.publish("data/train-00000-of-00005.parquet", b"late"), clean_up],
    ids=["exports", "deletes"],
)
def test_a_driver_that_was_succeeded_neither_exports_nor_deletes(tmp_path, act):
    late = Run.prepare(str(tmp_path / "run"), finished.HEADER, "fingerprint")
    with late.held():
        lease_module._held.clear()  # as if that process had ended
        run = finished.finished_run(tmp_path / "run")
        run.objects.put(block_key("bootstrap/round-00001", 0), b"begun by the successor")
        before = content(run)
        with pytest.raises(LeaseLostError):
            act(late)
        assert content(run) == before


def test_what_a_lost_manifest_may_name_is_no_stray(paused):
    _, run = paused
    folder = "bootstrap/round-00000"
    run.objects.put(f"{folder}/accepted-00007.parquet", b"")
    assert strays(run) == [f"{folder}/accepted-00007.parquet"]
    run.objects.delete(f"{folder}/manifest.json")
    assert strays(run) == []


def test_of_blocks_that_were_asked_again_the_last_counts(created):
    folder = "bootstrap/round-00000"
    table = pa.table({"finish_reason": ["error"]})
    for number, fencing in ((0, None), (0, 2), (0, 11), (1, None), (100_000, None), (100_000, 3)):
        claim_table(created.objects, block_key(folder, number, fencing), table)
    assert created.finished_blocks(folder) == {
        0: f"{folder}/block-00000-00011.parquet",
        1: f"{folder}/block-00001.parquet",
        100_000: f"{folder}/block-100000-00003.parquet",
    }
    assert created.sound_block(f"{folder}/block-00001.parquet") is None
    assert created.objects.get(f"{folder}/block-00001.parquet")  # what failed is still there


def test_a_run_of_another_configuration_is_refused(created):
    with pytest.raises(RunError, match="different: seed"):
        Run.prepare(created.location, HEADER | {"identity": {"seed": 1}}, "another")


@pytest.mark.parametrize("place", ["/proc/run", "x" * 300])
def test_a_place_that_takes_no_folder_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="cannot be"):
        Run.prepare(place, HEADER, "fingerprint")


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
    ("name", "read"),
    [
        ("bootstrap/round-00000/manifest.json", status_of),
        ("instances/block-00000.parquet", lambda run: written_so_far(run, accepted=1)),
        ("stats.json", status_of),
    ],
)
def test_damage_behind_the_header_is_named(created, name, read):
    created.objects.put(name, b"{")
    with pytest.raises(RunError, match=name) as caught:
        read(Run.open(created.location))
    assert "\n" not in str(caught.value)


def test_where_there_is_no_run_that_is_said(location):
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json"):
        Run.open(location)


def test_what_a_run_was_begun_with_is_read_where_there_is_one(created, tmp_path):
    assert Run.configuration_at(created.location) == created.header["config"]
    assert Run.configuration_at(str(tmp_path / "absent")) == {}
