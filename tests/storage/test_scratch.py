"""Scratch folders go with their work, and those of killed processes with the next one's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from ray_si.storage.scratch import scratch_folder
from tests.command import ENVIRONMENT

_HOLD = """
import sys, time
from pathlib import Path
from ray_si.storage.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "x-") as folder:
    (folder / "file").write_text("x")
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has a scratch folder there."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_folder_is_removed_at_the_end_and_after_an_error(tmp_path):
    def work():
        with scratch_folder(tmp_path, "x-") as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_process_stays(tmp_path, holder):
    with scratch_folder(tmp_path, "x-"):
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_the_folder_of_a_killed_process_goes_and_nothing_else(tmp_path, holder):
    (tmp_path / "x-file").write_text("mine")
    (tmp_path / "y-other").mkdir()
    holder.kill()
    holder.wait()
    with scratch_folder(tmp_path, "x-") as folder:
        assert {path.name for path in tmp_path.iterdir()} == {"x-file", "y-other", folder.name}


def test_a_folder_that_may_not_be_opened_is_left_to_its_user(tmp_path, monkeypatch):
    theirs = tmp_path / "x-theirs"
    theirs.mkdir()
    opened = os.open

    def denied(path, *rest, **options):
        if path == theirs:  # whoever runs the tests may open anything
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(os, "open", denied)
    with scratch_folder(tmp_path, "x-") as folder:
        assert {*tmp_path.iterdir()} == {theirs, folder}
    assert [*tmp_path.iterdir()] == [theirs]


def test_many_at_once_never_take_one_another_for_dead(tmp_path):
    failures = []

    def work():
        for _ in range(50):
            with scratch_folder(tmp_path, "x-") as folder:
                try:
                    (folder / "file").write_text("x")
                except OSError as error:
                    failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert list(tmp_path.iterdir()) == []
