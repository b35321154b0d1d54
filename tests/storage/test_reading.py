"""Reading ahead: order, errors and memory are those of reading one by one."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time

import pytest

from ray_si.storage.reading import read_ahead


def test_results_come_in_the_order_of_the_items_however_long_each_takes():
    delays = random.Random(0)

    def read(item):
        time.sleep(delays.random() / 200)
        return -item

    assert list(read_ahead(read, range(200), 8)) == [-i for i in range(200)]


def test_as_many_are_read_at_once_as_there_are_readers():
    together = threading.Barrier(8, timeout=20)
    list(read_ahead(lambda item: together.wait(), range(8), 8))  # breaks with fewer


def test_no_more_is_read_than_two_for_each_reader_ahead_of_what_is_taken():
    begun = []
    results = read_ahead(lambda item: begun.append(item) or item, itertools.count(), 3)
    for taken in range(20):
        assert next(results) == taken
        assert max(begun) <= taken + 6
    results.close()


def test_an_error_is_raised_where_its_turn_comes_and_nothing_is_lost_before_it():
    def read(item):
        if item == 5:
            raise KeyError(item)
        return item

    taken = []
    with pytest.raises(KeyError):
        taken.extend(read_ahead(read, range(10), 4))
    assert taken == [0, 1, 2, 3, 4]


def test_whoever_stops_does_not_wait_for_a_store_that_hangs_and_the_threads_end():
    hangs = threading.Event()
    results = read_ahead(lambda item: item == 0 or hangs.wait(60), itertools.count(), 4)
    began, before = time.monotonic(), threading.active_count()
    assert next(results)
    results.close()
    assert time.monotonic() - began < 5
    hangs.set()
    while threading.active_count() >= before + 4 and time.monotonic() - began < 20:
        time.sleep(0.01)
    assert threading.active_count() < before + 4


def test_nothing_to_read_starts_no_thread():
    before = threading.active_count()
    assert list(read_ahead(str, [])) == []
    assert threading.active_count() == before


def test_a_process_that_ends_in_the_middle_of_reading_ends_well():
    """The iteration is left as it is, and its threads are inside Arrow or wait for a store."""
    script = """
import io, itertools, time
import pyarrow as pa, pyarrow.parquet as pq
from ray_si.storage.reading import read_ahead
from ray_si.storage.tables import from_parquet
sink = io.BytesIO()
pq.write_table(pa.table({"text": [str(i) * 50 for i in range(20000)]}), sink)
data = sink.getvalue()
rows = read_ahead(lambda i: from_parquet(data), itertools.count())
print(next(rows).num_rows)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == b"20000\n"


def test_a_store_that_hangs_keeps_an_ending_process_for_seconds_only():
    script = """
import time
from ray_si.storage.reading import read_ahead
rows = read_ahead(lambda i: time.sleep(3600 * i), range(5))
next(rows)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
