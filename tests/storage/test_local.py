"""What only folders have: temporary names, full disks, syncing."""

from __future__ import annotations

import io
import itertools
import os
import stat
from contextlib import suppress

import pytest

from ray_si.errors import StorageError, StorageLostError
from ray_si.storage.local import LocalObjects


def test_unfinished_writes_are_not_seen(tmp_path):
    objects = LocalObjects(tmp_path)
    objects.put("a/one", b"1")
    (tmp_path / "a" / ".tmp-half").write_bytes(b"half")
    assert list(objects.list()) == ["a/one"]


class _Full(io.BytesIO):
    def read(self, *_):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_named_and_leaves_no_temporary_file(tmp_path):
    with pytest.raises(StorageLostError, match="No space left on device; free some space"):
        LocalObjects(tmp_path).put("a/one", _Full())
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        list(LocalObjects(tmp_path / "file").list())
    with pytest.raises(StorageError, match="is not a folder"):
        LocalObjects(tmp_path / "file" / "run").check(write=True)


def test_folders_are_synced_after_a_file_takes_its_name(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def watch(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((name if folder else "file", sorted(os.listdir(name)) if folder else []))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    LocalObjects(tmp_path).put("a/one", b"1")
    assert synced == [
        (str(tmp_path), ["a"]),
        ("file", []),
        (str(tmp_path / "a"), ["one"]),
    ]


def adopted(objects, key, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    objects.adopt(key, str(tmp_path / "elsewhere"))


def moved(objects, key, tmp_path):
    objects.put("written", b"mine")
    objects.move("written", key)


@pytest.mark.parametrize("again", [0, 1, 2])
@pytest.mark.parametrize(
    "write", [lambda objects, key, _: objects.put_if_absent(key, b"mine"), adopted, moved]
)
def test_a_folder_that_others_tidy_up_at_any_step_is_made_anew(tmp_path, monkeypatch, write, again):
    """Two drivers begin in one fresh folder: what the one has made goes with the other's end."""
    calls, due = itertools.count(), set()
    folders = [tmp_path / "new/run/lease", tmp_path / "new/run", tmp_path / "new"]

    def tidy_up():
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()

    def tidying(function):
        def call(*arguments, **options):
            if next(calls) in due:
                tidy_up()
            return function(*arguments, **options)

        return call

    for name in ("mkdir", "open", "replace"):
        monkeypatch.setattr(os, name, tidying(getattr(os, name)))
    objects, step, is_due = LocalObjects(tmp_path / "new/run"), 0, True
    while is_due:
        calls = itertools.count()
        due.clear()
        due |= {step + i for i in range(1 + again)}
        write(objects, "lease/00001.json", tmp_path)
        assert objects.get("lease/00001.json") == b"mine"
        is_due = next(calls) > step
        objects.delete("lease/00001.json")
        tidy_up()
        step += 1
    assert step > 8, "as many calls as making three folders and a file takes"
