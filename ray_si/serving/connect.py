"""Getting hold of Ray."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray_si.errors import ConfigError, one_line
from ray_si.serving.background import wait_for_all

_ENDING_S = 10.0
"""Most seconds for what still runs in threads when a connection is closed."""

_TOKEN = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
"""What to do where a cluster lets in only who has its token."""


@contextmanager
def connect(address: str | None) -> Iterator[bool]:
    """A connection to Ray, closed again if it was opened here; whether Ray was started for it.

    ``address`` is a cluster's; without it $RAY_ADDRESS counts, else Ray is started on this machine.
    Where this process has initialised Ray already, that one is used and stays. Raises ConfigError
    where no cluster answers, or one of another version of Ray or Python.
    """
    import ray
    from ray.data import DataContext
    from ray.serve.context import _set_global_client

    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        # it tells of every process that is started later, as transformers and torch do
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        _connect(address)
        close = ray.shutdown
    else:
        close = None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []
    try:
        yield address == "local" and close is not None
    finally:
        if close:
            # its replicas are gone, so a round begun ahead ends soon; with Ray closed under it, it
            # would report the lost connection at length, and once took the process with it
            wait_for_all(_ENDING_S)
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            close()
            # Serve's client outlives Ray, and takes the next Ray that is started here for its own
            _set_global_client(None)


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
