"""Waiting for work in threads, and what ends that."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from ray_si.errors import LeaseLostError
from ray_si.serving.background import Alarm, in_thread


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
