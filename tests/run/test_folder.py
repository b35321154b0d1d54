"""Folders of results: what they are of is said once, and holds for whoever comes later."""

from __future__ import annotations

import pytest

from ray_si.corpora.index import CorpusIndex
from ray_si.errors import DamageError, LeaseLostError, RunError, StorageError
from ray_si.export.dataset_files import listed
from ray_si.run.folder import Folder, check_beside
from ray_si.scores.stored import _finished
from ray_si.storage.objects import open_objects


@pytest.fixture
def folder(location):
    return Folder(location, "evaluation.json", "an evaluation")


def test_checking_leaves_nothing_behind(folder):
    folder.check({"model": "a"})
    assert list(folder.objects.list()) == []


def test_a_claim_is_written_once_and_later_ones_of_the_same_change_nothing(folder):
    folder.claim({"model": "a"}, {"began": 1})
    folder.claim({"model": "a"}, {"began": 2})
    assert folder.read_json("evaluation.json") == {"identity": {"model": "a"}, "began": 1}


def test_a_claim_of_something_else_is_refused_with_what_differs(folder):
    folder.claim({"model": "a", "seed": 1}, {})
    with pytest.raises(RunError, match=r"of something else \(different: model.*\); choose another"):
        folder.claim({"model": "b", "seed": 1}, {})


def test_a_place_with_other_things_is_refused(folder):
    folder.objects.put("notes.txt", b"mine")
    with pytest.raises(RunError, match="is not empty and not an evaluation"):
        folder.check({})


def test_one_process_writes_at_a_time(folder):
    folder.claim({"model": "a"}, {})
    with folder.held(print):
        assert folder.fencing >= 1
        second = Folder(folder.location, "evaluation.json", "an evaluation")
        with pytest.raises(RunError, match="is being written by"), second.held(print):
            pass


def test_who_was_succeeded_changes_nothing_more(folder):
    folder.write("kept.json", b"{}")
    with folder.held(print):
        folder.write_json("scores.json", {"of": "me"})
        folder.objects.put("lease/00009.json", b"{}")
        for change in (
            lambda: folder.write_json("scores.json", {"of": "me, too"}),
            lambda: folder.write("page.html", b""),
            lambda: folder.delete("kept.json"),
        ):
            with pytest.raises(LeaseLostError, match="has taken over"):
                change()
    assert list(folder.objects.list()) == ["kept.json", "lease/00009.json", "scores.json"]
    assert folder.read_json("scores.json") == {"of": "me"}


@pytest.mark.parametrize(("data", "message"), [(b"{", "is damaged"), (b"[1]", "not a JSON object")])
def test_what_is_no_json_object_is_damage_and_what_is_not_there_is_none(folder, data, message):
    assert folder.read_json("scores.json") is None
    folder.objects.put("scores.json", data)
    with pytest.raises(DamageError, match=message):
        folder.read_json("scores.json")
    folder.write_json("scores.json", {"é": 1})
    assert folder.read_json("scores.json") == {"é": 1}


def test_another_runs_files_are_no_place_to_write_to_either(location):
    open_objects(f"{location}/mine").put("run.json", b"{}")
    open_objects(f"{location}/other").put("run.json", b"{}")
    for to in ("other", "other/", "other/data", "other/report.html", "other/evaluation/first"):
        with pytest.raises(RunError, match="lies inside a run"):
            check_beside(f"{location}/{to}", f"{location}/mine")
    for to in ("other-2", "other-data", "train/data", "mine-scores"):
        check_beside(f"{location}/{to}", f"{location}/mine")


@pytest.mark.usefixtures("s3_environment")
def test_what_lies_in_a_run_is_seen_by_whatever_way_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path / "runs")
    run = str(tmp_path / "runs" / "mine")
    inside = "mine", "mine/data/", "../runs/mine/new/er", "../link/data", f"{tmp_path}/link"
    for to in inside:
        for name in (run, "mine", "../link/"):
            with pytest.raises(RunError, match=f"^{to} is or lies inside a run"):
                check_beside(to, name)
    for to in ("mine-2", "mine/../other", ".", "data", "s3://mine/data"):
        check_beside(to, run)
    for to in ("s3://b/runs/mine", "s3://b/runs/mine/", "s3://b/runs/mine/data"):
        with pytest.raises(RunError, match="lies inside a run"):
            check_beside(to, "s3://b/runs/mine/")
    for to in ("s3://b/runs/mine-2", "s3://b/runs", "s3://c/runs/mine", "b/runs/mine"):
        check_beside(to, "s3://b/runs/mine")


class Refusing:
    """A store that says what is there and lets nobody read it."""

    def list(self, prefix=""):
        return iter([prefix or "first/manifest.json"])

    def get(self, key):
        raise StorageError("no permission")


@pytest.mark.parametrize(
    "read",
    [
        lambda place: place.read_json("scores.json"),
        lambda place: _finished(place.objects, place.location, "fingerprint"),
        lambda place: listed(place.objects, place.location, "messages"),
        lambda place: CorpusIndex(place.objects, place.location, None, {})._stored(),
    ],
)
def test_a_store_that_refuses_to_be_read_is_no_damage(folder, read):
    folder.objects = Refusing()
    with pytest.raises(StorageError, match="no permission"):
        read(folder)
