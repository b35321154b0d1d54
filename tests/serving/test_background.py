"""Waiting for work in threads, and what ends that."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future

import pytest

from ray_si.errors import LeaseLostError
from ray_si.serving.background import Alarm, in_thread, wait_for_all


def test_a_result_is_waited_for_and_an_error_is_its_own():
    alarm, done = Alarm(), threading.Event()
    future = in_thread(done.wait, 10)
    done.set()
    assert alarm.result_of(future)
    with pytest.raises(ZeroDivisionError):
        alarm.result_of(in_thread(lambda: 1 / 0))
    alarm.wait_for(in_thread(lambda: 1 / 0), future)  # however they ended
    alarm.check()


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_once_the_alarm_rings_nothing_waits_any_more(moment):
    alarm, never = Alarm(), Future()
    ring = threading.Timer(0.2 * (moment == "meanwhile"), alarm.ring, [LeaseLostError("lost")])
    ring.start()
    if moment == "before":
        ring.join()
    began = time.monotonic()
    for wait in (alarm.result_of, alarm.wait_for):
        with pytest.raises(LeaseLostError, match="lost"):
            wait(never)
    assert time.monotonic() - began < 10


def test_of_several_errors_the_first_counts():
    alarm = Alarm()
    alarm.ring(LeaseLostError("first"))
    alarm.ring(ValueError("second"))
    for _ in range(2):
        with pytest.raises(LeaseLostError, match="first"):
            alarm.check()


def test_threads_keep_no_process_alive_and_hand_on_what_is_no_exception():
    assert in_thread(threading.current_thread).result(timeout=30).daemon
    with pytest.raises(SystemExit):
        in_thread(sys.exit).result(timeout=30)


def test_waiting_for_all_ends_when_they_have_or_when_the_time_is_over():
    release = threading.Event()
    future = in_thread(release.wait, 60)
    began = time.monotonic()
    wait_for_all(0.2)
    assert time.monotonic() - began >= 0.2
    assert not future.done()
    release.set()
    wait_for_all(60)
    assert future.done()


def test_what_is_begun_while_all_is_waited_for_is_waited_for_too():
    release, then = threading.Event(), threading.Event()

    def begin_another():
        release.wait(60)
        in_thread(then.wait, 60)

    in_thread(begin_another)
    threading.Timer(0.1, release.set).start()
    assert not wait_for_all(0.5)
    then.set()
    assert wait_for_all(60)
