"""One driver at a time: who may write to a run, and what becomes of one that lost the right."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ray_si.errors import LeaseLostError, RunError, StorageError, StorageLostError
from ray_si.run.run import Run
from ray_si.storage import lease as lease_module
from ray_si.storage.lease import Lease, check_exclusive
from ray_si.storage.local import LocalObjects

TTL = 0.9


@pytest.fixture
def store(tmp_path):
    """A place in which a run stands."""
    objects = LocalObjects(tmp_path)
    objects.put("run.json", b"{}")
    return objects


def take(store, **options):
    """A lease; one that may be had at once never notifies."""
    return Lease(store, "the run", ttl_s=TTL, **options)


def abandoned(store, monkeypatch, *, machine):
    """A lease whose holder neither renews it nor gives it back."""
    with monkeypatch.context() as patch:
        patch.setattr(lease_module, "_machine", lambda: machine)
        lease = take(store)
    lease._record["machine"] = machine
    store.put("lease/00001.json", lease._data())


def test_a_second_driver_is_refused_and_told_who_holds_the_run(store):
    with take(store), pytest.raises(RunError, match=r"written by process \d+ on .* since 20"):
        take(store).__enter__()


def test_a_lease_is_held_from_the_moment_it_can_be_read(tmp_path):
    """By another thread of this process, too, which looks before the first one goes on."""
    looks = []

    class Objects(LocalObjects):
        def put_if_absent(self, key, data):
            won = super().put_if_absent(key, data)
            if won and not looks:
                looks.append(key)
                with pytest.raises(RunError, match="is being written by process"):
                    take(LocalObjects(tmp_path)).__enter__()
            return won

    objects = Objects(tmp_path)
    objects.put("run.json", b"{}")
    with take(objects) as lease:
        lease.check()
        assert (lease.number, looks) == (1, ["lease/00001.json"])


def test_a_lease_given_back_is_free_at_once(store):
    with take(store) as first:
        assert first.number == 1
    with take(store, notify=pytest.fail) as second:
        assert second.number == 2
        assert list(store.list("lease/")) == ["lease/00002.json"]


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(store, tmp_path):
    code = (
        "import os, sys; from ray_si.storage.lease import Lease; "
        "from ray_si.storage.objects import LocalObjects; "
        "Lease(LocalObjects(sys.argv[1]), 'the run').__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with take(store, notify=pytest.fail) as lease:
        assert lease.number == 2


def test_the_lease_of_a_process_whose_number_is_another_ones_now_is_free_at_once(store):
    lease = take(store)
    lease._record["started"] = "0"  # this very process id, but of an earlier process
    store.put("lease/00001.json", lease._data())
    with take(store, notify=pytest.fail) as second:
        assert second.number == 2


def test_a_lease_of_another_machine_is_free_once_it_shows_no_sign_of_life(store, monkeypatch):
    abandoned(store, monkeypatch, machine="elsewhere")
    told: list[str] = []
    began = time.monotonic()
    with take(store, notify=told.append) as lease:
        assert lease.number == 2
    assert TTL <= time.monotonic() - began < 3 * TTL
    assert "waiting up to 0.9 s" in told[0]


def test_a_lease_of_another_machine_that_is_renewed_is_refused(store, monkeypatch):
    with take(store) as first:
        first._record["machine"] = "elsewhere"
        store.put("lease/00001.json", first._data())
        with pytest.raises(RunError, match="is being written"):
            take(store).__enter__()
        first.check()


def test_a_driver_that_was_succeeded_cannot_commit(store):
    with take(store) as first:
        first.check()
        store.put_if_absent("lease/00002.json", first._data())
        with pytest.raises(LeaseLostError, match="another driver has taken over"):
            first.check()
    assert json.loads(store.get("lease/00002.json"))["released"] is False  # not its to give back


def test_a_store_that_fails_for_a_while_does_not_cost_the_lease(store, monkeypatch, caplog):
    with take(store) as lease:
        with monkeypatch.context() as patch:

            def full(*_):
                raise OSError(28, "No space left on device")

            patch.setattr(store, "put", full)
            time.sleep(TTL)
        assert "could not be renewed yet" in caplog.text
        lease.check()


def test_a_driver_that_was_succeeded_learns_of_it_without_asking(store):
    with take(store) as first:
        store.put_if_absent("lease/00002.json", first._data())
        with pytest.raises(LeaseLostError, match="another driver has taken over"):
            first.lost.result(timeout=TTL)


def test_the_lease_of_a_killed_process_that_nobody_has_waited_for_is_free_at_once(store, tmp_path):
    code = (
        "import sys, time; from ray_si.storage.lease import Lease; "
        "from ray_si.storage.objects import LocalObjects; "
        "Lease(LocalObjects(sys.argv[1]), 'the run').__enter__(); print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(RunError, match=f"written by process {process.pid}"):
            take(store).__enter__()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still listed
        with take(store, notify=pytest.fail) as lease:
            assert lease.number == 2


@pytest.mark.parametrize("call", ["list", "delete", "put_if_absent"])
def test_a_store_that_fails_as_the_lease_is_taken_does_not_refuse_the_same_process_later(
    tmp_path, monkeypatch, call
):
    store, working = LocalObjects(tmp_path), getattr(LocalObjects, call)
    store.put("run.json", b"{}")
    with take(store):
        pass
    calls = []

    def failing(self, *arguments):
        result = working(self, *arguments)
        calls.append(arguments)
        if len(calls) > (call == "list"):  # which comes once before the lease is written
            raise StorageLostError("the answer was lost")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjects, call, failing)
        with pytest.raises(StorageLostError):
            take(store).__enter__()
    with take(store) as lease:
        assert lease.number == 3


def test_a_lease_on_a_place_where_nothing_came_to_be_leaves_it_as_it_was(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "run", tmp_path / "empty"):
        with take(LocalObjects(folder)) as lease:
            assert lease.number == 1
            assert (folder / "lease" / "00001.json").exists()
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_the_hundred_thousandth_lease_counts_as_the_highest(store):
    with take(store) as lease:
        store.put("lease/99998.json", json.dumps(lease._record | {"released": True}).encode())
    for number in range(99_999, 100_003):
        with take(store) as lease:
            assert lease.number == number
            lease.check()


def test_giving_back_a_lease_after_an_error_does_not_wait_for_a_store_that_hangs(
    store, monkeypatch
):
    hung, lease = threading.Event(), take(store)
    lease.__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", lambda *_: hung.wait(60))
        patch.setattr(store, "list", lambda *_: [hung.wait(60)][:0])
        began = time.monotonic()
        lease.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        hung.set()
    assert time.monotonic() - began < 10


def test_a_store_that_lets_two_writers_be_the_first_is_refused_and_left_as_it_was(tmp_path):
    class Forgetful(LocalObjects):
        def put_if_absent(self, key, data):
            self.put(key, data)
            return True

    with pytest.raises(StorageError, match="ignores the condition of conditional writes"):
        check_exclusive(Forgetful(tmp_path / "run"), "the run")
    check_exclusive(LocalObjects(tmp_path / "run"), "the run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as FAT answers

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="its file system has no hard links; choose another"):
        check_exclusive(LocalObjects(tmp_path / "run"), "the run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_a_clock_that_jumps_frees_no_lease_and_holds_up_none(store, monkeypatch, jump_s):
    now = time.time
    with take(store) as first:
        first._record["machine"] = "elsewhere"
        store.put("lease/00001.json", first._data())
        monkeypatch.setattr(time, "time", lambda: now() + jump_s)
        with pytest.raises(RunError, match="is being written"):
            take(store).__enter__()
        first.check()
    with take(store) as second:
        assert second.number == 2


def test_a_lease_is_renewed_for_as_long_as_it_is_held(store):
    with take(store) as lease:
        time.sleep(2 * TTL)
        lease.check()
        assert json.loads(store.get("lease/00001.json"))["renewals"] >= 3


def _race(folder, barrier, winners):
    barrier.wait(30)
    try:
        with Lease(LocalObjects(folder), "the run"):
            winners.put(1)
            barrier.wait(30)
    except RunError:
        winners.put(0)
        barrier.wait(30)


def test_of_many_processes_exactly_one_gets_the_lease(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, winners = spawn.Barrier(5), spawn.Queue()
    processes = [spawn.Process(target=_race, args=(tmp_path, barrier, winners)) for _ in range(5)]
    for process in processes:
        process.start()
    assert sum(winners.get(timeout=60) for _ in processes) == 1
    for process in processes:
        process.join(30)


def test_of_two_that_begin_at_once_in_a_fresh_folder_one_gets_the_lease(tmp_path):
    """Each tries the store first, and leaves nothing behind: so neither may trip over that."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for attempt in range(50):
            begin, end = threading.Barrier(2), threading.Barrier(2)

            def enter(folder=tmp_path / f"{attempt}/run", begin=begin, end=end):
                objects = LocalObjects(folder)
                begin.wait()
                try:
                    check_exclusive(objects, "the run")
                    with take(objects):
                        end.wait(10)
                        return "held"
                except (RunError, StorageError) as error:
                    end.wait(10)
                    return type(error).__name__

            with ThreadPoolExecutor(2) as threads:
                found = [future.result() for future in [threads.submit(enter) for _ in range(2)]]
            assert sorted(found) == ["RunError", "held"]
    finally:
        sys.setswitchinterval(before)


def test_a_damaged_lease_is_named(store):
    store.put("lease/00003.json", b"{")
    with pytest.raises(RunError, match=r"the run/lease/00003\.json is damaged: delete it"):
        take(store).__enter__()


def test_a_manifest_is_written_once_whatever_the_lease_says(tmp_path):
    header = {"config": {}, "identity": {}}
    runs = [Run.prepare(str(tmp_path / "run"), header, "f") for _ in range(2)]
    with runs[0].held():
        runs[0].create([])
        runs[0].commit_stats({"rows": 1})
        runs[1]._lease = runs[0]._lease  # as if its check had come just before the takeover
        with pytest.raises(LeaseLostError, match=r"stats\.json was written by another driver"):
            runs[1].commit_stats({"rows": 2})
    assert runs[1].stats() == {"rows": 1}


def succeed(store):
    """Another driver takes over, as if the lease had run out."""
    store.put("lease/00002.json", b"{}")


def succeeded_and_ended_with(store, error):
    with take(store):
        succeed(store)
        raise error


def test_whatever_fails_under_a_driver_that_was_succeeded_fails_for_that(store):
    error = StorageError("a file that was there a moment ago is gone")
    with pytest.raises(LeaseLostError, match="another driver has taken over the run") as raised:
        succeeded_and_ended_with(store, error)
    assert raised.value.__cause__ is error
    assert list(store.list("lease/")) == ["lease/00002.json"]


def test_other_errors_and_interrupts_stay_what_they_are(store):
    with pytest.raises(StorageError, match="full"), take(store):
        raise StorageError("the disk is full")
    with pytest.raises(KeyboardInterrupt):
        succeeded_and_ended_with(store, KeyboardInterrupt())


def test_a_renewal_that_fails_since_another_driver_has_taken_over_is_found_out_at_once(tmp_path):
    class Swept(LocalObjects):
        def put(self, key, data):
            succeed(LocalObjects(tmp_path))
            raise StorageError(f"{key}: the temporary file is gone")

    LocalObjects(tmp_path).put("run.json", b"{}")
    with pytest.raises(LeaseLostError), take(Swept(tmp_path)) as lease:
        lease.lost.result(timeout=TTL / 3 + TTL / 5)  # the next renewal would be later


def test_a_lease_that_was_renewed_as_another_driver_took_over_is_taken_away(store):
    lease = take(store)
    lease.__enter__()
    succeed(store)
    store.put("lease/00001.json", lease._data())
    with pytest.raises(LeaseLostError):
        lease.lost.result(timeout=10)
    lease.__exit__(None, None, None)
    assert list(store.list("lease/")) == ["lease/00002.json"]


def test_a_number_is_not_taken_again_while_a_driver_before_may_only_sleep(tmp_path):
    """It would go on to write under the number of another, where nothing came of those after it."""
    objects = LocalObjects(tmp_path)
    objects.put("lease/00001.json", json.dumps(take(objects)._record | {"released": True}).encode())
    for number in (2, 3):
        with take(objects) as lease:
            assert lease.number == number
