"""Getting hold of Ray."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

TWICE = """
import ray_si.serving
from ray import serve
from ray_si.serving.connect import connect

for _ in range(2):
    with connect("local") as is_ours:
        assert is_ours
        assert not serve.status().applications
        serve.start(proxy_location="Disabled")
print("done")
"""


@pytest.mark.slow
def test_serve_is_looked_for_anew_in_each_ray_that_a_process_starts():
    """Both have a first job of the same number, by which Serve tells whose its client is."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["done"], done.stderr


ASKING = """
import ray_si.serving
import sys, threading, time
from contextlib import suppress
import ray
from ray.exceptions import RayError
from ray_si.cli import app
from ray_si.serving import connect as module
from ray_si.serving.background import in_thread

module._ENDING_S = 0.2
ended = threading.Event()

@ray.remote(num_cpus=0)
class Actor:
    def answer(self):
        return 1

def ask(actor):
    while not ended.is_set():
        with suppress(RayError):
            ray.get(actor.answer.remote())

def connect_and_ask():
    with module.connect(ADDRESS):
        actor = Actor.remote()
        ray.get(actor.answer.remote())
        asking = [in_thread(ask, actor) for _ in range(4)]
        time.sleep(0.5)
    return asking
"""
"""Threads that ask Ray, and go on doing so as its connection is closed."""


def ended(script, address):
    """The end of a process that connects and asks and does what ``script`` says."""
    program = (ASKING + textwrap.dedent(script)).replace("ADDRESS", repr(address))
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_ray_is_not_closed_under_what_still_asks_it_but_before_the_next_connection(ray_address):
    done = ended(
        """
        asking = connect_and_ask()
        print(module.is_left_open(), ray.is_initialized())
        with module.connect(ADDRESS):  # they still ask
            first = ray.get_runtime_context().get_job_id()
        print(module.is_left_open(), [future.done() for future in asking])
        ended.set()
        for future in asking:
            future.result()
        with module.connect(ADDRESS):
            print(first != ray.get_runtime_context().get_job_id())
        print(module.is_left_open(), ray.is_initialized())
        """,
        ray_address,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True True",
        "True [False, False, False, False]",
        "True",
        "False False",
    ]


def test_a_command_ends_with_its_own_status_whatever_still_asks_ray(ray_address):
    done = ended(
        """
        @app.command()
        def verb():
            connect_and_ask()
            print("done")
            sys.exit(2)

        app(["verb"])
        """,
        ray_address,
    )
    assert (done.returncode, done.stdout) == (2, "done\n"), done.stderr


def test_ray_is_not_closed_under_serves_routers_nor_what_an_execution_leaves_behind(ray_address):
    done = ended(
        """
        from ray.serve._private.event_loop_monitoring import EventLoopMonitor
        from ray.serve._private.router import SingletonThreadRouter

        def routers():
            component = EventLoopMonitor.COMPONENT_UNKNOWN
            return SingletonThreadRouter._get_singleton_asyncio_loop(component)

        def ask_in_the_routers_thread():
            loop, actor = routers(), Actor.remote()

            def ask_again():
                actor.answer.remote()
                loop.call_soon(ask_again)

            loop.call_soon_threadsafe(ask_again)
            time.sleep(0.3)

        for _ in range(2):  # the second connection has routers of its own
            with module.connect(ADDRESS):
                ask_in_the_routers_thread()
            print(module.is_left_open(), ray.is_initialized())
        with module.connect(ADDRESS):
            routers().call_soon_threadsafe(time.sleep, 1)
        print(module.is_left_open(), ray.is_initialized())
        time.sleep(1.5)
        with module.connect(ADDRESS):  # the former is closed before
            thread = threading.Thread(target=ask, args=[Actor.remote()], name="iter_threaded")
            thread.start()
        print(module.is_left_open(), ray.is_initialized())
        ended.set()
        thread.join()
        module._close()
        print(module.is_left_open(), ray.is_initialized())
        """,
        ray_address,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "False False",
        "False False",
        "True True",
        "True True",
        "False False",
    ]
