"""Getting hold of Ray."""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from ray_si.errors import ConfigError, one_line
from ray_si.serving.background import wait_for_all

_ENDING_S = 10.0
"""Most seconds for what still asks Ray when a connection is to be closed."""

_ASKING = {"iter_threaded", "ray-data-metadata-prefetch"}
"""Threads of Ray Data's that an execution may leave behind, by name."""

_left_open = False
"""Whether a connection was to be closed and could not be yet."""

_TOKEN = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
"""What to do where a cluster lets in only who has its token."""


@contextmanager
def connect(address: str | None) -> Iterator[bool]:
    """A connection to Ray, closed again if it was opened here; whether Ray was started for it.

    ``address`` is a cluster's; without it $RAY_ADDRESS counts, else Ray is started on this machine.
    Where this process has initialised Ray already, that one is used and stays. Raises ConfigError
    where no cluster answers, or one of another version of Ray or Python.

    What still asks Ray after a while keeps the connection open, see `is_left_open`: it is closed at
    the next chance, before another one is opened or when Python ends.
    """
    import ray
    from ray.data import DataContext

    if _left_open:
        _close()
    is_ours, is_started = _left_open, False
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        # it tells of every process that is started later, as transformers and torch do
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        _connect(address)
        is_ours, is_started = True, address == "local"
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []
    try:
        yield is_started
    finally:
        if is_ours:
            _close()


def is_left_open() -> bool:
    """Whether something still asks a Ray that was to be closed.

    Closed under it, or as Python ends, Ray would take the process with it: by a status of its own
    or a signal, in the middle of a call. So a process that knows its status leaves by `os._exit`.
    """
    return _left_open


def _close() -> None:
    """Close the connection, once nothing asks Ray any more; else leave it open."""
    global _left_open
    import ray
    from ray.serve.context import _set_global_client

    # replicas are gone, so a round begun ahead ends soon; it would report that at length
    _left_open = not (_is_quiet(_ENDING_S) and _are_routers_parked(_ENDING_S))
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    atexit.unregister(_close)
    if _left_open:
        atexit.register(_close)
        return
    ray.shutdown()
    # Serve's client outlives Ray, and takes the next Ray that is started here for its own
    _set_global_client(None)


def _is_quiet(timeout_s: float) -> bool:
    """Wait until no thread of ours asks Ray, nor one of Ray Data's, at most so long; whether so."""
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    end = time.monotonic() + timeout_s
    if not wait_for_all(timeout_s):
        return False
    # an execution that was given up waits only seconds for its own threads, for some not at all
    asking = [
        each
        for each in threading.enumerate()
        if isinstance(each, StreamingExecutor) or each.name in _ASKING
    ]
    for thread in asking:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in asking)


def _are_routers_parked(timeout_s: float) -> bool:
    """Have Serve's routers ask no more, within so long; whether they are between two questions.

    Their thread, one for all, is there as long as the process: whenever the controller has told
    them something, say of the replicas that just went, they ask for more. It waits for ever then,
    and routers of a later connection get another.
    """
    from ray.serve._private.router import SingletonThreadRouter

    loop = SingletonThreadRouter._asyncio_loop
    if loop is None:
        return True
    parking, is_parked = Future[None](), threading.Event()

    def park() -> None:
        if parking.set_running_or_notify_cancel():
            is_parked.set()
            threading.Event().wait()

    loop.call_soon_threadsafe(park)
    if not is_parked.wait(timeout_s) and parking.cancel():
        return False
    SingletonThreadRouter._asyncio_loop = None
    return True


def is_this_machine(address: str | None) -> bool:
    """Whether `connect` would start Ray on this machine, rather than use one that is there."""
    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():
            return False
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def _connect(address: str) -> None:
    """`ray.init`, with ConfigError where no cluster answers at the address."""
    import ray
    from ray.exceptions import AuthenticationError

    answers = False
    host, _, port = address.rpartition(":")
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        if port.isdigit() and "/" not in host:  # `ray.init` would try for two minutes
            socket.create_connection((host, int(port)), timeout=10).close()
            answers = True
        with _keep_sigterm():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except AuthenticationError as error:
        raise ConfigError(f"Ray asks for a token, and there is none here: {_TOKEN}") from error
    except (OSError, OverflowError, ValueError) as error:
        token = f" (where it wants a token, {_TOKEN})" if answers else ""
        reason = one_line(error)
        raise ConfigError(f"no Ray cluster answers at {address}: {reason}{token}") from error
    except RuntimeError as error:
        versions = re.findall(r"(?:Ray|Python): (\S+)", str(error))
        if "ersion mismatch" not in str(error) or len(versions) != 4:
            raise
        raise ConfigError(
            f"the cluster at {address} runs Ray {versions[0]} on Python {versions[1]}, and this "
            f"process Ray {versions[2]} on Python {versions[3]}; use its versions here, or ray-si "
            "submit, which runs the build there"
        ) from error


def node_resources() -> list[dict[str, float]]:
    """The resources of each node of the cluster that this process is connected to, by name."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def _keep_sigterm() -> Iterator[None]:
    """Leave the caller's SIGTERM handler in place, which `ray.init` replaces with its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
