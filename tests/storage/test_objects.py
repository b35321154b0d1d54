"""What every kind of storage promises: whole objects, one first writer, names that stay inside."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ray_si.errors import StorageError
from ray_si.storage.base import check_key
from ray_si.storage.objects import open_objects

LARGE = 33 << 20


@pytest.fixture
def objects(location):
    return open_objects(location)


def test_what_is_put_can_be_read_listed_replaced_and_deleted(objects):
    objects.put("a/b/one.txt", b"1")
    objects.put("a/two.txt", b"2")
    objects.put("a/two.txt", b"22")
    assert objects.get("a/two.txt") == b"22"
    assert list(objects.list()) == ["a/b/one.txt", "a/two.txt"]
    assert list(objects.list("a/b/o")) == ["a/b/one.txt"]
    assert list(objects.list("a/b/")) == ["a/b/one.txt"]
    assert list(objects.list("nothing/here-")) == []
    objects.delete("a/two.txt")
    objects.delete("a/two.txt")
    with pytest.raises(KeyError):
        objects.get("a/two.txt")


@pytest.mark.parametrize("key", ["absent", "a", "a/one/more"])
def test_what_is_not_there_is_a_key_error(objects, key):
    objects.put("a/one", b"1")
    with pytest.raises(KeyError):
        objects.get(key)


def test_a_large_object_and_a_stream_arrive_whole(objects):
    data = os.urandom(1 << 20) * (LARGE >> 20) + b"end"
    objects.put("large", data)
    assert objects.get("large") == data
    stream = io.BytesIO(data)
    stream.seek(5)
    objects.put("stream", stream)
    assert objects.get("stream") == data[5:]
    objects.put("small", io.BytesIO(b"small"))
    assert objects.get("small") == b"small"


def test_more_objects_than_a_page_are_listed_in_order(objects, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")  # a page of the S3 server's
    keys = sorted(f"block-{i:04d}" for i in range(50))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: objects.put(key, b""), keys))
    assert list(objects.list("block-")) == keys


def test_only_the_first_put_if_absent_writes(objects):
    assert objects.put_if_absent("a/lock", b"same")
    assert not objects.put_if_absent("a/lock", b"same")
    assert not objects.put_if_absent("a/lock", b"other")
    assert objects.get("a/lock") == b"same"
    objects.delete("a/lock")
    assert objects.put_if_absent("a/lock", b"again")


def _race(objects, barrier, number, wins):
    for k in range(5):
        barrier.wait()
        if objects.put_if_absent(f"lock-{k}", b"equal bytes"):
            wins.put((k, number))


def test_one_of_many_processes_wins_put_if_absent(objects):
    context = multiprocessing.get_context("fork")  # with the parent's connections in memory
    objects.put("before", b"")
    barrier, wins = context.Barrier(8), context.Queue()
    processes = [
        context.Process(target=_race, args=(objects, barrier, number, wins)) for number in range(8)
    ]
    for process in processes:
        process.start()
    found = sorted(wins.get(timeout=60)[0] for _ in range(5))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert found == [0, 1, 2, 3, 4]
    assert wins.empty()


def test_an_unused_store_answers_and_checking_leaves_nothing(objects):
    objects.check(write=False)
    objects.check(write=True)
    assert list(objects.list()) == []


def test_objects_pickle(objects):
    objects.put("one", b"1")
    assert pickle.loads(pickle.dumps(objects)).get("one") == b"1"


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "..", "../other/run.json", "a/../../b", "a//b", "a/", "./a", "a\0b"]
)
def test_names_that_lead_elsewhere_are_refused(objects, key):
    for operation in (
        objects.get,
        objects.delete,
        lambda key: objects.put(key, b""),
        lambda key: objects.put_if_absent(key, b""),
    ):
        with pytest.raises(StorageError, match="cannot be the name of an object"):
            operation(key)


@pytest.mark.parametrize("prefix", ["/etc", "../", "a/../b", "a//"])
def test_prefixes_that_lead_elsewhere_are_refused(objects, prefix):
    with pytest.raises(StorageError, match="cannot be the name of an object"):
        list(objects.list(prefix))


KEYS = st.lists(st.text("ab-.~ é", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)


def _is_allowed(key):
    try:
        return bool(check_key(key))
    except StorageError:
        return False


@given(st.dictionaries(KEYS.filter(_is_allowed), st.binary(max_size=9), max_size=6), st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_store_behaves_as_a_sorted_dictionary(location, content, data):
    objects = open_objects(f"{location}/{uuid.uuid4().hex}")
    folders = {key[:i] for key in content for i, c in enumerate(key) if c == "/"}
    content = {key: value for key, value in content.items() if key not in folders}
    for key, value in content.items():
        objects.put(key, value)
    prefix = data.draw(st.sampled_from(["", *(key[:-1] for key in content)]).filter(_is_prefix))
    assert list(objects.list(prefix)) == sorted(k for k in content if k.startswith(prefix))
    assert {key: objects.get(key) for key in objects.list()} == content


def _is_prefix(prefix):
    return _is_allowed(prefix + "x")


@pytest.mark.parametrize("location", ["gs://bucket/run", "http://host/run"])
def test_a_location_that_is_not_supported_is_refused(location):
    with pytest.raises(StorageError, match=location):
        open_objects(location)


# A folder ------------------------------------------------------------------------------------
