"""Objects are written whole or not at all."""

from __future__ import annotations

import threading

import pytest

from ray_si.errors import RunError
from ray_si.storage.objects import LocalObjects, open_objects


@pytest.fixture
def objects(tmp_path):
    return LocalObjects(tmp_path / "store")


def test_what_is_put_can_be_read_listed_replaced_and_deleted(objects):
    objects.put("a/b/one.txt", b"1")
    objects.put("a/two.txt", b"2")
    objects.put("a/two.txt", b"22")
    assert objects.get("a/two.txt") == b"22"
    assert list(objects.list()) == ["a/b/one.txt", "a/two.txt"]
    assert list(objects.list("a/b/o")) == ["a/b/one.txt"]
    assert list(objects.list("nothing/here-")) == []
    objects.delete("a/two.txt")
    objects.delete("a/two.txt")
    with pytest.raises(KeyError):
        objects.get("a/two.txt")


def test_one_of_many_writers_wins_put_if_absent(objects):
    wins = []

    def write(i):
        if objects.put_if_absent("lock", str(i).encode()):
            wins.append(i)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert objects.get("lock") == str(wins[0]).encode()


def test_unfinished_writes_are_not_seen(objects):
    objects.put("a/one", b"1")
    (objects.root / "a" / ".tmp-half").write_bytes(b"half")
    assert list(objects.list()) == ["a/one"]


def test_a_location_that_is_not_supported_is_refused():
    with pytest.raises(RunError, match="s3://bucket/run"):
        open_objects("s3://bucket/run")
