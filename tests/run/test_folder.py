"""Folders of results: what they are of is said once, and holds for whoever comes later."""

from __future__ import annotations

import pytest

from ray_si.errors import DamageError, RunError
from ray_si.run.folder import Folder


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


@pytest.mark.parametrize(("data", "message"), [(b"{", "is damaged"), (b"[1]", "not a JSON object")])
def test_what_is_no_json_object_is_damage_and_what_is_not_there_is_none(folder, data, message):
    assert folder.read_json("scores.json") is None
    folder.objects.put("scores.json", data)
    with pytest.raises(DamageError, match=message):
        folder.read_json("scores.json")
    folder.write_json("scores.json", {"é": 1})
    assert folder.read_json("scores.json") == {"é": 1}
