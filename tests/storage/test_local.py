"""What only folders have: temporary names, full disks, syncing."""

from __future__ import annotations

import io
import os
import stat

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
